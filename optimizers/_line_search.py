"""A step length along a line that satisfies the strong Wolfe conditions."""

import math
from collections.abc import Callable
from typing import NamedTuple


class Point(NamedTuple):
    """A step length with the loss and its derivative there."""

    length: float
    loss: float
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], tuple[float, float]],
    length: float,
    loss: float,
    slope: float,
    sufficient: float = 1e-4,
    curvature: float = 0.9,
    evaluations: int = 25,
) -> float:
    """A length t with φ(t) ≤ φ(0) + sufficient · t φ'(0) and |φ'(t)| ≤ curvature · |φ'(0)|.

    Algorithms 3.5 and 3.6 of Nocedal and Wright 2006, in one loop.

    Args:
        evaluate: t -> φ(t), φ'(t).
        length: the first to be tried; doubled until a bracket is found, which cubic interpolation then narrows.
        loss, slope: φ(0) and φ'(0) < 0.
        evaluations: at most so many; then what decreases the loss sufficiently, or 0.
    """
    low, high, width = Point(0.0, loss, slope), None, math.inf
    for _ in range(evaluations):
        tried = Point(length, *evaluate(length))
        enough = tried.loss <= loss + sufficient * length * slope and (low.length == 0 or tried.loss < low.loss)
        if not (enough and math.isfinite(tried.slope)):
            high = tried
        elif abs(tried.slope) <= -curvature * slope:
            return length
        else:
            if tried.slope * ((high.length if high else math.inf) - low.length) >= 0:
                high = low
            low = tried
        if high is None:
            length = 2 * low.length
            continue
        slow = abs(high.length - low.length) > width * 2 / 3  # one end stays where it is
        width = abs(high.length - low.length)
        length = (low.length + high.length) / 2 if slow else interpolate(low, high)
    return low.length


def interpolate(a: Point, b: Point) -> float:
    """Where the cubic through both points is least, kept a hundredth of the way from either; half way where it has no minimum."""
    width = b.length - a.length
    mean = 3 * (b.loss - a.loss) / width - a.slope - b.slope
    root = mean * mean - a.slope * b.slope
    share = 0.5
    if math.isfinite(root) and root >= 0:
        turn = math.copysign(math.sqrt(root), width)
        below = b.slope - a.slope + 2 * turn
        share = 1 - (b.slope + turn + mean) / below if below else 0.5
    return a.length + width * (min(max(share, 0.01), 0.99) if math.isfinite(share) else 0.5)
