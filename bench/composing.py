"""How Hydra's sweepers check jobs: every value of an override is composed once before the first job starts, not every job."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hydra.plugins.sweeper import Sweeper


@dataclass
class Composed:
    """How many configurations were composed in advance, and the seconds it took."""

    count: int = 0
    seconds: float = 0.0


@contextmanager
def covering_validation() -> Iterator[Composed]:
    """Let sweepers compose as few jobs of a batch as show every override once, while the context lasts.

    A sweeper validates its batch by composing all of it, one job after the other, and the launcher composes each job again
    where it runs: in a sweep of hundreds of cells that takes longer than many of them. What is wrong with a value or with a
    key of a chosen entry shows in any job that has it; an error that only some crossing has is raised by its job. Hydra has
    no setting for this ("can potentially allow disabling from the config", says `BasicSweeper.sweep`), and takes sweepers
    of one's own from its plugin package alone, so the method itself is replaced, and put back.
    """
    composed, whole = Composed(), Sweeper.validate_batch_is_legal

    def validate(sweeper: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        started = time.perf_counter()
        chosen = covering(batch)
        try:
            whole(sweeper, chosen)
        finally:
            composed.count += len(chosen)
            composed.seconds += time.perf_counter() - started

    Sweeper.validate_batch_is_legal = validate  # type: ignore[assignment,method-assign]  # see above
    try:
        yield composed
    finally:
        Sweeper.validate_batch_is_legal = whole  # type: ignore[method-assign]


def covering(batch: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Jobs of the batch, in its order, each with an override that none before it has; together they have all."""
    seen: set[str] = set()
    chosen = []
    for overrides in batch:
        if not seen.issuperset(overrides):
            seen.update(overrides)
            chosen.append(overrides)
    return chosen
