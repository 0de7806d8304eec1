"""How much of a sweep's wall time was not spent in steps."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bench.store import Store
from linalg import InputError


@dataclass
class Timing:
    """Seconds of one command by phase, kept with the sweep that it ran.

    Args:
        wall: from the start of the process to the last figure.
        start: before Hydra's sweep: imports, mostly.
        composing: configurations composed in advance, to check them.
        cells: the launcher's: composing each job where it runs, steps, probes, tables, storage; start of the processes.
        figures: the table of winners and the figures.
        workers: processes that ran cells.
        ran: cells run; those that were there already take no part.
        steps, probes: the cells' own, added up over processes.
    """

    wall: float = 0.0
    start: float = 0.0
    composing: float = 0.0
    cells: float = 0.0
    figures: float = 0.0
    workers: int = 0
    ran: int = 0
    steps: float = 0.0
    probes: float = 0.0

    def add(self, store: Store, keys: Iterable[str]) -> None:
        """Count cells that the command has run."""
        for key in keys:
            provenance = store.provenance(key)
            self.ran += 1
            self.steps += provenance["step_seconds"]
            self.probes += provenance["probe_seconds"]

    @property
    def share(self) -> float:
        """Of the wall time, what the step loops would have left over had they been spread evenly: 1 - steps / workers / wall."""
        return 1 - self.steps / max(1, self.workers) / self.wall if self.wall else 0.0

    def record(self) -> dict[str, float]:
        return asdict(self)


def share_outside(store: Store, sweep: str | None = None) -> dict[str, float]:
    """What `Timing` holds of the command that last ran a sweep, and `share`: of its wall time, what was not steps.

    Args:
        sweep: its name, the latest if None.

    Raises:
        InputError: where no such sweep was timed.
    """
    stored: dict[str, dict[str, Any]] = store.sweeps()
    name = sweep or next(reversed(stored), "sweep")
    kept = stored.get(name, {}).get("timing")
    if not kept:
        raise InputError(f"sweep={name}: was not timed; run it again with force=true")
    timing = Timing(**kept)
    return {**timing.record(), "share": timing.share}
