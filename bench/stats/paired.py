"""Two methods on the same seeds: log ratios, and what may be said of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.stats.intervals import Interval, Statistic, interval, median

EQUAL = 1.05  # ratios up to this, and down to its inverse, make no difference that anyone would choose by


def log_ratios(a: np.ndarray, b: np.ndarray, resolution: np.ndarray | float = 0.0) -> np.ndarray:
    """(k,) log10 a / b for costs of the same seeds: negative where a is better, -inf where b alone diverged, 0 where both did.

    Args:
        a, b: (k,) costs, infinite where a run diverged; seed by seed in the same order.
        resolution: costs below it are the same.

    Raises:
        ValueError: where the two differ in length, or a cost is NaN or negative.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"pairs need the same seeds: {a.shape} against {b.shape}")
    if not ((a >= 0).all() and (b >= 0).all()):
        raise ValueError("a cost is a number that is not negative; what was not measured has no pair")
    a, b = np.maximum(a, resolution), np.maximum(b, resolution)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log10(a) - np.log10(b)
    return np.where(a == b, 0.0, found)


@dataclass(frozen=True)
class Comparison:
    """What paired seeds say of a against b, costs being lower for the better.

    Args:
        ratio: a / b, the statistic of the seeds' log ratios, with its interval.
        wins, ties, losses: seeds on which a is better, equal within `EQUAL`, worse.
    """

    ratio: Interval
    wins: int
    ties: int
    losses: int

    @property
    def verdict(self) -> str:
        """better, worse, equal (within `EQUAL`), or inconclusive: what the whole interval says."""
        _, low, high = self.ratio
        if high < 1 and self.ratio.value < 1 / EQUAL:
            return "better"
        if low > 1 and self.ratio.value > EQUAL:
            return "worse"
        return "equal" if low >= 1 / EQUAL and high <= EQUAL else "inconclusive"


def compare(
    strata: Sequence[np.ndarray], statistic: Statistic = median, *, over_problems: bool = False, confidence: float = 0.95
) -> Comparison:
    """Sum up log ratios.

    Args:
        strata: for each problem the `log_ratios` (k,) of its seeds.
        over_problems, confidence: see `interval`.
    """
    logs = interval(strata, statistic, over_problems=over_problems, confidence=confidence)
    every, margin = np.concatenate(list(strata)), np.log10(EQUAL)
    wins, losses = int((every < -margin).sum()), int((every > margin).sum())
    with np.errstate(over="ignore"):
        ratio = Interval(*(float(10.0**each) for each in np.asarray(logs)))
    return Comparison(ratio, wins, len(every) - wins - losses, losses)
