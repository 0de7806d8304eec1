"""How much depends on the learning rate: the window of good rates, and what a few trials can be expected to find."""

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np

SOLVED = 1e-12  # a share of the excess loss below this is none: float32 tells no more apart


def within(best: float) -> float:
    """The most that may remain of the excess loss for a rate to be in the window: ten times the best's, but no more than half
    way back from it to the start."""
    return max(best, min(10 * best, (1 + best) / 2))


def in_window(remaining: Mapping[float, float], chosen: float) -> list[float]:
    """The rates that leave at most `within` of the excess loss, from low to high; none where the chosen one gains nothing.

    Args:
        remaining: by rate, the share of the excess loss that is left: infinite where training diverged.
    """
    if not remaining[chosen] < 1:
        return []
    most = within(max(remaining[chosen], SOLVED))
    return sorted(rate for rate, left in remaining.items() if left <= most)


def window_decades(remaining: Mapping[float, float], chosen: float) -> float:
    """log10 of the highest over the lowest rate of `in_window`, 0 where there are none."""
    inside = in_window(remaining, chosen)
    return float(np.log10(inside[-1] / inside[0])) if inside else 0.0


def _chances(values: Sequence[float] | np.ndarray, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """Values in rising order and the chance that each is the lowest of so many drawn without replacement."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if np.isnan(ordered).any() or not 1 <= trials <= len(ordered):
        raise ValueError(f"trials={trials}: must lie between 1 and the number of values, {len(ordered)}, none of them NaN")
    ways = np.array([comb(len(ordered) - 1 - i, trials - 1) for i in range(len(ordered))], dtype=float)
    return ordered, ways / comb(len(ordered), trials)


def expected_best(values: Sequence[float] | np.ndarray, trials: int) -> float:
    """The mean of the lowest of so many values, drawn without replacement: infinite where only failures can be drawn at once.

    Source: Dodge et al. 2019, arXiv 1909.03004, with the estimator of Tang et al. 2020 for draws without replacement.
    """
    ordered, chances = _chances(values, trials)
    possible = chances > 0
    return float((ordered[possible] * chances[possible]).sum())


def best_of(values: Sequence[float] | np.ndarray, trials: int, at: float = 0.5) -> float:
    """A quantile of the lowest of so many values, drawn without replacement; finite where fewer than that share of draws fail."""
    ordered, chances = _chances(values, trials)
    return float(ordered[int(np.searchsorted(np.cumsum(chances), at - 1e-12))])
