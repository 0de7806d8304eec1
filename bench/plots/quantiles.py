"""Medians and quartiles over seeds, divergence included."""

import numpy as np


def quantiles(values: np.ndarray, *at: float) -> list[np.ndarray]:
    """Quantiles (p,) of each column of (k, p), linear between neighbours, over the entries that are not NaN.

    Infinite values are results: a quantile between a finite neighbour and an infinite one is infinite. A column without
    entries has NaN.
    """
    if not values.size:
        return [np.full(values.shape[1], np.nan) for _ in at]
    ordered = np.sort(values, axis=0)  # NaN last
    last = np.maximum((~np.isnan(values)).sum(0) - 1, 0)
    found = []
    for q in at:
        share, whole = np.modf(last * q)
        below = np.take_along_axis(ordered, whole.astype(int)[None], axis=0)[0]
        above = np.take_along_axis(ordered, np.minimum(whole.astype(int) + 1, last)[None], axis=0)[0]
        between = np.isfinite(above) & np.isfinite(below)
        step = np.subtract(above, below, out=np.zeros_like(above), where=between)
        found.append(np.where(np.isinf(above) & (share > 0), above, below + step * share))
    return found
