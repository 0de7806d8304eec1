"""Medians, interquartile means, and bootstrap intervals that are stratified over problems and seeds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bench.stats.quantiles import quantiles

RESAMPLES = 2000
Statistic = Callable[[np.ndarray], np.ndarray]  # (..., k) to (...,)


class Interval(NamedTuple):
    """A figure with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def quantile(values: np.ndarray, at: float, axis: int = -1) -> np.ndarray:
    """A quantile along an axis by the rules of `quantiles`, but NaN is refused: what was not measured is left out before, or
    counts as infinite.

    Raises:
        ValueError: where a value is NaN.
    """
    values = np.moveaxis(np.asarray(values, dtype=float), axis, 0)
    if np.isnan(values).any():
        raise ValueError("NaN has no rank: leave out what was not measured, or let it count as infinite")
    return quantiles(values, at)[0]


def median(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The middle value, by the rules of `quantile`."""
    return quantile(values, 0.5, axis)


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean without the lowest and the highest quarter, floor(k / 4) values each; finite while no more than those are not.

    Source: Agarwal et al. 2021, arXiv 2108.13264.
    """
    ordered = np.sort(np.moveaxis(np.asarray(values, dtype=float), axis, -1), axis=-1)
    cut = ordered.shape[-1] // 4
    kept = ordered[..., cut : ordered.shape[-1] - cut]
    opposed = np.isneginf(kept).any(-1) & np.isposinf(kept).any(-1)
    return np.where(opposed, 0.0, np.where(np.expand_dims(opposed, -1), 0.0, kept).mean(-1))


def interval(
    strata: Sequence[np.ndarray],
    statistic: Statistic = median,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    over_problems: bool = False,
) -> Interval:
    """A percentile bootstrap interval; seeds are drawn again within each stratum, a problem, and never across.

    The same values give the same interval. The ends are values that were drawn, without interpolation, so that infinities
    stay what they are.

    Args:
        strata: for each problem the values (k,) of its seeds. Values of several methods that share seeds belong into one number
            a seed, such as a ratio, before they come here: that is what keeps them paired.
        statistic: of all strata's values in a row (..., sum of k), along the last dimension.
        over_problems: whether problems are drawn again, too: the interval is then one for problems like these, not for these.
            With strata of several lengths, the statistic sees as many values as the drawn strata have.

    Raises:
        ValueError: where there are no values.
    """
    strata = [np.asarray(stratum, dtype=float) for stratum in strata if len(stratum)]
    if not strata:
        raise ValueError("an interval needs values")
    random = np.random.default_rng(0)
    value = float(statistic(np.concatenate(strata)))
    if over_problems:
        drawn = np.array([float(statistic(resampled(strata, random))) for _ in range(resamples)])
    else:
        wide = [stratum[random.integers(len(stratum), size=(resamples, len(stratum)))] for stratum in strata]
        drawn = statistic(np.concatenate(wide, axis=-1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")
    return Interval(value, float(low), float(high))


def resampled(strata: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Problems drawn again, and seeds within each."""
    chosen = random.integers(len(strata), size=len(strata))
    return np.concatenate([strata[i][random.integers(len(strata[i]), size=len(strata[i]))] for i in chosen])


def median_interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """The median over seeds with its interval; NaN counts as divergence, and no values at all give NaN.

    Args:
        values: (k,) one number a seed.
    """
    values = np.nan_to_num(np.asarray(values, dtype=float), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    return interval([values], median, confidence=confidence) if len(values) else Interval(np.nan, np.nan, np.nan)
