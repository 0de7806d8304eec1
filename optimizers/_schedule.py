"""Learning-rate schedules: a factor for each step."""

import math

from linalg import InputError
from linalg.checks import check_choice, check_integer

SCHEDULES = ("constant", "linear", "cosine")


def schedule_factor(kind: str, step: int, steps: int, warmup: int = 0) -> float:
    """What the learning rate is multiplied by at `step` of `steps`, counted from 0.

    Rises linearly over `warmup` steps ((step + 1) / (warmup + 1)), then stays (`constant`) or falls to zero at the
    end along a line (`linear`) or half a cosine (`cosine`).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    return 1 - progress if kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def check_schedule(kind: str, steps: int, warmup: int) -> None:
    """Raise `InputError` where the three do not go together."""
    check_choice("schedule", kind, SCHEDULES)
    check_integer("steps", steps)
    check_integer("warmup", warmup, least=0)
    if warmup >= steps:
        raise InputError(f"warmup={warmup}: must be less than steps={steps}")
