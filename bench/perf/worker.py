"""A child process that runs contestants: one thread, one core, and the work of a cell kept between rounds."""

import ctypes
import gc
import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.perf.cells import Cell
from bench.perf.work import Work

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NPROC": "1"}  # NPROC is what JAX heeds; XLA_FLAGS do not hold it
MODULES = {"engine": "engine", "loop": "loop", "jax": "jax_scan", "jax_gram": "jax_scan"}  # contestants of a module share a process
ROUND_SECONDS, TRIAL_SECONDS, SLOW_SECONDS = 0.12, 0.03, 0.5
STEPS_TOGETHER, MOST_STEPS = 20, 5000  # of a block before the next one: a run takes hundreds, from a warm cache
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class WorkerError(Exception):
    """What a child process could not do."""


@dataclass
class Prepared:
    """A cell that stands ready.

    Args:
        block: lanes of a block.
        compile_seconds: NaN where nothing is compiled.
        memory: bytes that a block takes at its peak; NaN where the system does not tell.
        seconds: about what a lane-step takes.
    """

    block: int
    compile_seconds: float
    memory: float
    seconds: float


@dataclass
class Held:
    """The blocks that rounds advance."""

    work: Work
    built: list[Any]
    steps: int
    lanes: int


class Worker:
    """The parent's end of a child process.

    Args:
        module: of `bench.perf`, whose contestants the child runs.
        core: to run on; None for any.
    """

    def __init__(self, module: str, device: str, core: int | None) -> None:
        os.environ.update(ONE_THREAD)  # inherited
        spawn = multiprocessing.get_context("spawn")
        self.module = module
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, module, device, core), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, action: str, *arguments: Any) -> Any:
        """What the method of `Runner` by that name returns.

        Raises:
            WorkerError: with the child's traceback, or where the child is gone.
        """
        try:
            self.pipe.send((action, arguments))
            answer, error = self.pipe.recv()
        except (EOFError, OSError) as gone:
            self.process.join(5)
            raise WorkerError(f"the process of {self.module} died (exit code {self.process.exitcode})") from gone
        if error is not None:
            raise WorkerError(f"{self.module}, {action}:\n{error}")
        return answer

    def close(self) -> None:
        """End the child, which has nothing to save."""
        self.pipe.close()
        self.process.kill()
        self.process.join(5)


def serve(pipe: Connection, module: str, device: str, core: int | None) -> None:
    """Answer until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    if core is not None:
        os.sched_setaffinity(0, {core})
    runner: Runner | None = None
    while True:
        try:
            action, arguments = pipe.recv()
        except EOFError:
            return
        try:
            runner = runner or Runner(module, device)  # imported on one core: pools of threads count cores then
            pipe.send((getattr(runner, action)(*arguments), None))
        except Exception:  # whatever it is, the parent says it; a child that died would say nothing
            pipe.send((None, traceback.format_exc()))


class Runner:
    """What a child does."""

    def __init__(self, module: str, device: str) -> None:
        self.module = importlib.import_module(f"bench.perf.{module}")
        self.device = device
        self.module.start(device)
        gc.freeze()  # the modules: collecting takes a tenth of a second with them
        self.held: dict[str, Held] = {}

    def ready(self) -> None:
        """Nothing; raises where the module could not be imported."""

    def limits(self) -> dict[str, float]:
        return dict(importlib.import_module("bench.perf.limits").measure(self.device))

    def prepare(self, contestant: str, cell: Cell) -> Prepared:
        """Build the cell for timing in the fastest of the contestant's ways."""
        self.held.pop(contestant, None)
        trials = [(attempt(work), work) for work in self._works(cell, contestant)]
        prepared, work = min(trials, key=lambda trial: trial[0].seconds)
        a_block = prepared.seconds * prepared.block
        blocks = list(work.blocks)[: work.timed][: max(1, int(ROUND_SECONDS / (STEPS_TOGETHER * a_block)))]
        lanes = sum(work.lanes_of(block) for block in blocks)
        steps = steps_in(ROUND_SECONDS, prepared.seconds * lanes, work.least)
        self.held[contestant] = Held(work, [work.build(block, steps) for block in blocks], steps, lanes)
        return prepared

    def run(self, contestant: str) -> tuple[float, float]:
        """Seconds a lane-step in one round, and the share of the core that it had."""
        held, started, cpu_started = self.held[contestant], time.perf_counter(), time.process_time()
        seconds = sum(held.work.advance(built, held.steps) for built in held.built) / (held.steps * held.lanes)
        return seconds, (time.process_time() - cpu_started) / (time.perf_counter() - started)

    def drop(self) -> None:
        self.held.clear()
        trim()

    def weights(self, contestant: str, cell: Cell, steps: int) -> np.ndarray:
        """(lanes, m, n) after that many steps from the start."""
        work = next(self._works(cell, contestant))
        built = [work.build(block, steps) for block in work.blocks]
        for block in built:
            work.advance(block, steps)
        return np.concatenate([work.weights(block) for block in built])

    def _works(self, cell: Cell, contestant: str) -> Iterator[Work]:
        return iter(self.module.works(cell, contestant))


def attempt(work: Work) -> Prepared:
    """Time the first block, and see what memory it takes."""
    trim()
    block = work.blocks[0]
    before = resident("VmRSS")
    built = work.build(block, work.least)
    trim()
    forget_peak()
    a_step = work.advance(built, work.least) / work.least
    on_gpu = work.cell.device.startswith("cuda")
    memory = float("nan") if on_gpu else max(0.0, resident("VmHWM") - before)
    if a_step * work.least < SLOW_SECONDS:  # then the first time tells little
        steps = steps_in(TRIAL_SECONDS, a_step, work.least)
        a_step = work.advance(built, steps) / steps
    lanes = work.lanes_of(block)
    return Prepared(lanes, work.compile_seconds, memory, a_step / lanes)


def steps_in(seconds: float, a_step: float, least: int) -> int:
    return max(least, min(MOST_STEPS, int(seconds / max(a_step, 1e-9))))


def trim() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


def forget_peak() -> None:
    """Let the peak of the resident size start from here."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def resident(field: str) -> float:
    """Bytes: VmRSS now, VmHWM at the peak; NaN where the system does not tell."""
    if not STATUS.exists():
        return float("nan")
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024.0 * int(line.split()[1])
