"""Contestants side by side: do they agree, and how long does a lane-step take each?"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from bench.perf.cells import TYPICAL_FLOPS, Cell, flops, has_other_algebra
from bench.perf.worker import MODULES, Worker, WorkerError

STEPS = {"float64": 20, "float32": 5}  # compared: in float32 rounding grows too fast to follow for longer
TOLERANCE = {("float64", "sgd"): 1e-8, ("float64", "adam"): 1e-6, ("float32", "sgd"): 1e-3, ("float32", "adam"): 1e-3}
CHECK_SECONDS, LEAST_CHECKED = 0.5, 5
LEAST_ROUNDS, PATIENCE_SECONDS = 3, 6.0


class DisagreementError(Exception):
    """Two contestants do not compute the same."""


@dataclass
class Timing:
    """A contestant on a cell.

    Args:
        us: µs a lane-step, the median over rounds.
        block: lanes of a block.
        compile_seconds, mb: see `Prepared`; megabytes.
        share: of the core, the median over rounds; well below 1 where something else ran there, in the same caches.
    """

    us: float
    block: int
    compile_seconds: float
    mb: float
    share: float


class Contest:
    """The contestants' processes, on one core; one works while the others wait.

    Attributes:
        missing: why JAX is left out, if it is.
    """

    def __init__(self, device: str) -> None:
        pinned = device == "cpu" and hasattr(os, "sched_setaffinity")
        core = max(os.sched_getaffinity(0)) if pinned else None
        self.workers = {module: Worker(module, device, core) for module in dict.fromkeys(MODULES.values())}
        self.missing: str | None = None
        for module, worker in list(self.workers.items()):
            try:
                worker.ask("ready")
            except WorkerError as error:
                if module != "jax_scan":
                    raise
                self.missing = str(error).strip().splitlines()[-1]
                self.workers.pop(module).close()

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers.values():
            worker.close()

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def contestants(self) -> list[str]:
        return [name for name, module in MODULES.items() if module in self.workers]

    def of(self, cell: Cell) -> list[str]:
        """The contestants that differ on a cell: without another algebra `jax_gram` would be `jax` again."""
        return [name for name in self.contestants if name != "jax_gram" or has_other_algebra(cell)]

    def worker(self, contestant: str) -> Worker:
        return self.workers[MODULES[contestant]]

    def limits(self) -> dict[str, float]:
        return dict(self.workers["engine"].ask("limits"))

    def check(self, cell: Cell) -> dict[str, float]:
        """How far each contestant is from the engine after some steps of all lanes, relative to what the weight moved.

        Raises:
            DisagreementError: where that is more than rounding.
        """
        affordable = int(CHECK_SECONDS * TYPICAL_FLOPS[cell.dtype] / (flops(cell) * cell.lanes))
        steps = max(LEAST_CHECKED, min(STEPS[cell.dtype], affordable))
        names = self.of(cell)
        start = self.worker("loop").ask("weights", "loop", cell, 0)
        ends = {name: self.worker(name).ask("weights", name, cell, steps) for name in names}
        moved = np.linalg.norm(ends["engine"] - start, axis=(1, 2))
        gaps = {name: float((np.linalg.norm(ends[name] - ends["engine"], axis=(1, 2)) / moved).max()) for name in names[1:]}
        tolerance = TOLERANCE[cell.dtype, cell.optimizer]
        for name, gap in gaps.items():
            if not gap <= tolerance:
                what = f"{cell.name}: after {steps} steps {name} is {gap:.1e} of what moved away from the engine"
                raise DisagreementError(f"{what}; {tolerance:.0e} is allowed")
        return gaps

    def time(self, cell: Cell, rounds: int, contestants: Sequence[str] | None = None) -> dict[str, Timing]:
        """What a lane-step takes, one round of each in turn; slow cells get fewer rounds."""
        names = [name for name in self.of(cell) if contestants is None or name in contestants]
        prepared = {name: self.worker(name).ask("prepare", name, cell) for name in names}
        rounds_of: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        started = perf_counter()
        for done in range(rounds):
            if done >= LEAST_ROUNDS and perf_counter() - started > PATIENCE_SECONDS:
                break
            for name in names:
                rounds_of[name].append(self.worker(name).ask("run", name))
        for worker in self.workers.values():
            worker.ask("drop")
        timings = {}
        for name, was in prepared.items():
            seconds, shares = (median(values) for values in zip(*rounds_of[name], strict=True))
            timings[name] = Timing(1e6 * seconds, was.block, was.compile_seconds, was.memory / 1e6, shares)
        return timings
