"""Whether a second process on a second core does as much again."""

import os
import time

from bench.perf.cells import Cell
from bench.perf.worker import Worker

RUNS, REPEATS = 10, 3


def speed_up() -> float | None:
    """What two processes get done beside each other, over what one does alone; None where there is no second core."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return None
    workers = [Worker("engine", "cpu", core) for core in cores[:2]]
    try:
        for worker in workers:
            worker.ask("prepare", "engine", Cell("lora", "adam", 100, 100, 10))
        alone = min(seconds(workers[:1]) for _ in range(REPEATS))
        together = min(seconds(workers) for _ in range(REPEATS))
    finally:
        for worker in workers:
            worker.close()
    return len(workers) * alone / together


def seconds(workers: list[Worker]) -> float:
    """Wall time until every one of them has done its runs."""
    started = time.perf_counter()
    for _ in range(RUNS):
        for worker in workers:
            worker.pipe.send(("run", ("engine",)))
        for worker in workers:
            _, error = worker.pipe.recv()
            if error is not None:
                raise RuntimeError(error)
    return time.perf_counter() - started
