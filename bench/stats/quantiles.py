"""Quantiles of values some of which are infinite or were not measured."""

import numpy as np


def quantiles(values: np.ndarray, *at: float) -> list[np.ndarray]:
    """Quantiles (...) along the first dimension of (k, ...), linear between neighbours, over the entries that are not NaN.

    Infinite values are results: a quantile between a finite neighbour and an infinite one is the infinite one, and between
    -inf and inf it is 0, for neither side is known to prevail. A column without entries has NaN.
    """
    if not values.size:
        return [np.full(values.shape[1:], np.nan) for _ in at]
    ordered = np.sort(values, axis=0)  # NaN last
    last = np.maximum((~np.isnan(values)).sum(0) - 1, 0)
    found = []
    for q in at:
        share, whole = np.modf(last * q)
        below = np.take_along_axis(ordered, whole.astype(int)[None], axis=0)[0]
        above = np.take_along_axis(ordered, np.minimum(whole.astype(int) + 1, last)[None], axis=0)[0]
        between = np.isfinite(above) & np.isfinite(below)
        step = np.subtract(above, below, out=np.zeros_like(above), where=between)
        jump = (share > 0) & ~between
        ends = np.where(np.isneginf(below) & np.isposinf(above), 0.0, np.where(np.isposinf(above), above, below))
        found.append(np.where(jump & ~np.isnan(above), ends, below + step * share))
    return found
