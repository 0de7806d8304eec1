"""The published results beside a fresh run's: `results/reference` of the checkout."""

from collections.abc import Sequence
from pathlib import Path

from bench.packed import MARK, Packed
from bench.stats import median_interval
from bench.store import Store
from bench.stored import StoredCell
from bench.study import reported_costs

FOLDER = Path(__file__).resolve().parent.parent / "results" / "reference"
MOST = 5  # cells that are named
MARGIN = 0.05  # of a value: rounding on another machine moves chaotic runs by more than their seeds' interval tells


def published(folder: Path = FOLDER) -> Packed | None:
    """The reference results; None outside of a checkout that has them."""
    return Packed(folder) if (folder / MARK).is_file() else None


def differing(store: Store, keys: Sequence[str], reference: Store) -> tuple[list[str], int]:
    """Cells whose median headline lies outside of the published interval by more than `MARGIN`, and how many both have."""
    found, common = [], [key for key in keys if reference.done(key)]
    for key in common:
        fresh = median_interval(reported_costs(StoredCell(store, key), "headline").to_numpy())
        known = median_interval(reported_costs(StoredCell(reference, key), "headline").to_numpy())
        if fresh.value < known.low * (1 - MARGIN) or fresh.value > known.high * (1 + MARGIN):
            found.append(f"{key}: {fresh.value:.3g}, published {known.value:.3g} [{known.low:.3g}, {known.high:.3g}]")
    return found, len(common)


def said_of(store: Store, keys: Sequence[str], reference: Store | None = None) -> list[str]:
    """Lines on how a sweep compares with what is published; none where nothing of it is."""
    reference = reference or published()
    found, common = differing(store, keys, reference) if reference is not None else ([], 0)
    if not common:
        return []
    if not found:
        return [f"{common} of these cells are in results/reference, and all lie within its intervals"]
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return [f"{len(found)} of {common} cells disagree with results/reference beyond its interval:", *found[:MOST], *more]
