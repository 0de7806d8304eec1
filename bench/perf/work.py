"""What the contestants have in common: a cell's lanes in blocks that are built, advanced and timed."""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from bench.perf.cells import DEPTH, Cell


class Work:
    """One way of running a cell.

    Args:
        cell: which lanes.

    Attributes:
        blocks: what is advanced together, in the order of the lanes.
        timed: blocks that a timing takes at most; the rest costs the same.
        least: steps that a timing takes at least.
        compile_seconds: before the first step.
    """

    blocks: Sequence[Any]
    timed: ClassVar[int | None] = None
    least: ClassVar[int] = 3
    compile_seconds: float = float("nan")

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def lanes_of(self, block: Any) -> int:
        raise NotImplementedError

    def build(self, block: Any, steps: int) -> Any:
        """The tensors of a block at their start, for runs of about that many steps."""
        raise NotImplementedError

    def advance(self, built: Any, steps: int) -> float:
        """Take so many steps from where the block stands; the seconds of `clock`."""
        raise NotImplementedError

    def weights(self, built: Any) -> np.ndarray:
        """(lanes of the block, m, n) in float64, by seed, then rate."""
        raise NotImplementedError


def chain(cell: Cell, p: dict[str, Any], relu: Any) -> list[Any]:
    """The factors of one lane in what numpy, torch and JAX have in common: what anybody would write down."""
    if cell.parameterization == "op_lora":
        hidden = relu(p["hidden_weight"] @ p["embedding"] + p["hidden_bias"])
        left, right = (p[f"{side}_head_weight"] @ hidden + p[f"{side}_head_bias"] for side in ("left", "right"))
        return [left.reshape(cell.rank, cell.m).mT, right.reshape(cell.rank, cell.n)]
    names = {
        "lora": ["left", "right"],
        "deep_lora": ["left", *(f"core_{layer}" for layer in range(DEPTH, 0, -1)), "right"],
        "deep": [f"factor_{layer}" for layer in range(DEPTH, 0, -1)],
    }
    return [p[name] for name in names[cell.parameterization]]


def clock(device: str) -> float:
    """Seconds: of the process's own time on a CPU, where others may take the core in between; of the wall once a GPU is idle."""
    if not device.startswith("cuda"):
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def count(block: tuple[slice, slice]) -> int:
    """Lanes of a block of seeds and rates."""
    by_seed, by_rate = block
    return (by_seed.stop - by_seed.start) * (by_rate.stop - by_rate.start)
