"""What happens to a sweep's jobs before the first one starts: a few are composed to find errors, and crossings that make no
sense are taken out with their reason."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

from bench import config as configuration
from bench.catalogue import AXES, check_cell
from bench.progress import Board, Post
from linalg import InputError

Job = Sequence[str]


@dataclass
class Composed:
    """How many configurations were composed in advance, and the seconds it took."""

    count: int = 0
    seconds: float = 0.0


@contextmanager
def checked_in_advance() -> Iterator[Composed]:
    """While the context lasts, sweepers compose as few jobs of a batch as show every override, and drop refused crossings.

    A sweeper validates its batch by composing all of it, one job after the other, and the launcher composes each job again
    where it runs: in a sweep of hundreds of cells that takes longer than many of them. What is wrong with a value or with a
    key of a chosen entry shows in any job that has it; an error that only some crossing has is raised by its job. Hydra has
    no setting for this ("can potentially allow disabling from the config", says `BasicSweeper.sweep`), and takes sweepers
    of one's own from its plugin package alone, so the method itself is replaced, and put back.
    """
    composed, whole = Composed(), Sweeper.validate_batch_is_legal

    def validate(sweeper: Sweeper, batch: Sequence[Job]) -> None:
        started = time.perf_counter()
        try:
            chosen = covering(batch)
            composed.count += len(chosen)
            configs = [compose(sweeper, job) for job in chosen]
            if isinstance(batch, list) and type(sweeper).__name__ == "BasicSweeper":  # others expect a result of every job
                batch[:] = going_together(batch, dict(zip(map(tuple, chosen), configs, strict=True)))
        finally:
            composed.seconds += time.perf_counter() - started

    Sweeper.validate_batch_is_legal = validate  # type: ignore[assignment,method-assign]  # see above
    try:
        yield composed
    finally:
        Sweeper.validate_batch_is_legal = whole  # type: ignore[method-assign]


def compose(sweeper: Sweeper, job: Job) -> DictConfig:
    """The configuration of one job, as its launcher will compose it."""
    context: Any = sweeper
    config: DictConfig = context.hydra_context.config_loader.load_sweep_config(context.config, list(job))
    return config


def covering(batch: Sequence[Job]) -> list[Job]:
    """Jobs of the batch, in its order, each with an override, or all that decide an entry, that none before it has."""
    seen: set[Any] = set()
    chosen = []
    for job in batch:
        shows = {*job, *(decisive(job, axis) for axis in AXES)}
        if not seen.issuperset(shows):
            seen |= shows
            chosen.append(job)
    return chosen


def decisive(job: Job, axis: str) -> tuple[str, ...]:
    """The overrides that decide the entry of an axis: its choice, its options, and what is shared by all."""
    keys = [(override.lstrip("+~").partition("=")[0], override) for override in job]
    shared = configuration.SHARED[axis]
    return (axis, *(override for key, override in keys if key == axis or key.startswith(f"{axis}.") or key in shared))


def going_together(batch: Sequence[Job], configs: dict[tuple[str, ...], DictConfig]) -> list[Job]:
    """The jobs whose problem, parameterization and optimizer go together; the board is told why the others do not."""
    entries: dict[tuple[str, ...], Any] = {}
    for shown, config in configs.items():
        for axis in AXES:
            if decisive(shown, axis) not in entries:
                entries[decisive(shown, axis)] = built(axis, config)
    board = Board.current()
    kept: list[Job] = []
    for job in batch:
        problem, parameterization, optimizer = (
            entries[decisive(job, axis)] for axis in ("problem", "parameterization", "optimizer")
        )
        try:
            if problem is not None and parameterization is not None and optimizer is not None:
                check_cell(problem, optimizer, parameterization)
            kept.append(job)
        except InputError as error:
            if board is None:
                raise
            board.post(Post(f"refused {' '.join(job)}", "refused", str(error)), name="sweep")
    return kept


def built(axis: str, config: DictConfig) -> Any:
    """The entry, or None where there is an error: its job will say which."""
    try:
        return configuration.build(axis, config)
    except InputError:
        return None
