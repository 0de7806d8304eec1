"""Medians with intervals."""

import numpy as np


def median_interval(values: np.ndarray, confidence: float = 0.95, resamples: int = 2000) -> tuple[float, float, float]:
    """(median, low, high) with a percentile bootstrap interval over seeds.

    Divergence is a result: infinite values, and NaN as such, enter the median and the interval. Quantiles are therefore
    taken without interpolation, which scipy's bootstrap does not offer. The same values give the same interval.

    Args:
        values: (k,) one number a seed.
    """
    values = np.nan_to_num(np.asarray(values, dtype=float), nan=np.inf, posinf=np.inf)
    if not len(values):
        return np.nan, np.nan, np.nan
    drawn = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    medians = np.quantile(values[drawn], 0.5, axis=1, method="median_unbiased" if np.isfinite(values).all() else "inverted_cdf")
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail], method="inverted_cdf")
    return float(np.median(values)), float(low), float(high)
