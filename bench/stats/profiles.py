"""Many problems at once: performance profiles and the probability of improvement."""

from collections.abc import Sequence

import numpy as np

from bench.stats.intervals import RESAMPLES, Interval


def performance_profile(costs: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(methods, f) the share of instances on which a method's cost is within each factor of the lowest one.

    An instance that a method fails never counts for it; one that all fail counts for nobody, but stays in the denominator.

    Args:
        costs: (methods, instances), positive, infinite where the method failed.
        factors: (f,) from 1 up.

    Raises:
        ValueError: where a cost is NaN: a profile is over instances that every method ran on.

    Source: Dolan and Moré 2002, doi 10.1007/s101070100263.
    """
    costs = np.asarray(costs, dtype=float)
    if np.isnan(costs).any():
        raise ValueError("a profile is over instances that every method ran on")
    best = costs.min(0, initial=np.inf)
    solved = np.isfinite(costs)
    floor = np.where(best > 0, best, np.finfo(float).tiny)
    ratio = np.divide(costs, floor, out=np.full_like(costs, np.inf), where=solved)
    ratio = np.where(solved & (costs == best), 1.0, ratio)
    return np.asarray((ratio[..., None] <= np.asarray(factors, dtype=float)).mean(1))


def beats(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(j, k) 1 where cost a_i is lower than b_l, ½ where they are equal, 0 else."""
    a, b = np.asarray(a, dtype=float)[:, None], np.asarray(b, dtype=float)[None, :]
    return np.asarray((a < b) + 0.5 * (a == b))


def superiority(a: np.ndarray, b: np.ndarray) -> float:
    """P(a < b) + ½ P(a = b) over all pairs of runs: Mann and Whitney's U of b over a, divided by the number of pairs.

    Args:
        a, b: costs (j,) and (k,) of two methods on one problem, infinite where a run diverged.
    """
    return float(beats(a, b).mean())


def probability_of_improvement(a: Sequence[np.ndarray], b: Sequence[np.ndarray], resamples: int = RESAMPLES) -> Interval:
    """The mean of `superiority` over problems, with its 95 % bootstrap interval, stratified by problem.

    Seeds are drawn again in pairs: run i of a and run i of b share their seed.

    Args:
        a, b: for each problem the costs (k,) of its seeds, in the same order.

    Source: Agarwal et al. 2021, arXiv 2108.13264.
    """
    random = np.random.default_rng(0)
    value = np.mean([superiority(x, y) for x, y in zip(a, b, strict=True)])
    drawn = np.zeros(resamples)
    for x, y in zip(a, b, strict=True):
        if len(x) != len(y):
            raise ValueError(f"pairs need the same seeds: {len(x)} against {len(y)}")
        table = beats(x, y)
        chosen = random.integers(len(x), size=(resamples, len(x)))
        drawn += table[chosen[:, :, None], chosen[:, None, :]].mean((1, 2)) / len(a)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
