"""A median line with its band, drawn the same way in every figure, and what becomes of it where it is infinite."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from bench.plots.axes import ROOM, ROW, SMALLEST, View, fit_view
from bench.plots.layout import EXIT
from bench.plots.sheet import inside, sheet
from bench.plots.sweep import Line
from bench.stats import quantiles

CROWD = 8  # lines from which on bands are fainter
MOST_TOLD = 4  # values beside triangles
ON_EDGE: dict[str, Any] = {"mec": "white", "mew": 0.5, "clip_on": False, "zorder": 5, "label": EXIT}


@dataclass(frozen=True)
class Curve:
    """(p,) a line's median over seeds with the edges of its band: infinite where that seed diverged, NaN where not measured."""

    line: Line
    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, line: Line, x: np.ndarray, values: np.ndarray, band: tuple[float, float] = (0.25, 0.75)) -> "Curve":
        """From (p,) abscissae and (k, p) values, k seeds."""
        low, middle, high = (np.maximum(each, SMALLEST) for each in quantiles(values, band[0], 0.5, band[1]))
        return cls(line, x, low, middle, high)

    @property
    def drawn(self) -> bool:
        """Whether there is anything of it to see."""
        return bool((~np.isnan(self.middle)).any())


def view_of(
    curves: Sequence[Curve],
    *,
    start: float = np.inf,
    also: Iterable[float] = (),
    room: tuple[float, float] = (ROOM, np.inf),
    rows: int = 0,
    row_height: float = ROW,
) -> View:
    """The range that shows the curves, and the values `also` where they are near (see `fit_view`), with a strip above it."""
    fitted = fit_view([(curve.low, curve.middle, curve.high) for curve in curves], start, [*also], room)
    return View(*(fitted or (0.1, 1.0)), rows, row_height, blank=fitted is None)


def draw_curves(axes: Axes, view: View, curves: Sequence[Curve], *, alpha: float = 0.16, told: str = "v") -> None:
    """Medians with their bands, and a triangle on the edge where one lies beyond the panel.

    Args:
        alpha: of the bands, less where there are many.
        told: at which edges the value stands beside the triangle, of `v` (the lower) and `^` (the upper).
    """
    for curve in curves:
        draw_curve(axes, view, curve, alpha * min(1, CROWD / len(curves)))
    beyond = 0
    for side in ("v", "^"):
        for curve in curves:
            at = exit_point(curve, view, side)
            if at is not None:
                place = (curve.x[at], view.low if side == "v" else view.high)
                colour = curve.line.look.colour
                axes.plot(*place, marker=side, ms=6 * sheet().stroke, color=colour, **ON_EDGE)
                if side in told and beyond < MOST_TOLD:
                    tell_exit(axes, curve, place, at, side, beyond)
                    beyond += 1


def draw_curve(axes: Axes, view: View, curve: Curve, alpha: float) -> None:
    """The median and its band, both kept below the strip. Points not measured are left out, infinite ones leave a gap."""
    measured = ~np.isnan(curve.middle)
    x, low, middle, high = (each[measured] for each in (curve.x, curve.low, curve.middle, curve.high))
    every = max(1, len(x) // sheet().marked)
    look = curve.line.look
    finite = np.where(np.isinf(middle), np.nan, middle)
    (drawn,) = axes.plot(x, finite, **look.line, markevery=(look.slot % every, every), label=curve.line.label, zorder=3)
    band = axes.fill_between(x, low, np.minimum(high, view.top * 10), where=np.isfinite(low), color=look.colour, alpha=alpha, lw=0)
    if view.rows:
        view.clip(axes, (drawn, band))


def exit_point(curve: Curve, view: View, side: str) -> int | None:
    """Where the median lies furthest beyond an edge, the last such point; None where it does not."""
    finite = np.where(np.isfinite(curve.middle), curve.middle, np.nan)
    beyond = view.low / finite if side == "v" else finite / view.high
    return int(np.flatnonzero(beyond == np.nanmax(beyond))[-1]) if (beyond > 1).any() else None


def tell_exit(axes: Axes, curve: Curve, place: tuple[float, float], at: int, side: str, above: int) -> None:
    """The value beside a triangle, over those that are there already."""
    value = curve.middle[at]
    away = 4 + 1.15 * sheet().note * above
    right = reach(axes, place[0]) > 0.5
    axes.annotate(
        f"{value:.0e}" if value > SMALLEST else f"≤{SMALLEST:.0e}",
        place,
        (-6 if right else 6, away if side == "v" else -away),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom" if side == "v" else "top",
        size=sheet().note,
        color=curve.line.look.colour,
        bbox={"color": "white", "alpha": 0.7, "pad": 0.5, "lw": 0},
        annotation_clip=False,
        zorder=5,
    )


def connect(axes: Axes, view: View, curve: Curve, y: float) -> None:
    """Join the last finite point of the median to its place in the strip, and back where it turns finite again."""
    infinite = np.isinf(curve.middle)
    for i in np.flatnonzero(infinite[1:] != infinite[:-1]):
        ends = [(curve.x[j], y if infinite[j] else curve.middle[j]) for j in (i, i + 1)]
        if all(infinite[j] or curve.middle[j] <= view.high for j in (i, i + 1)):  # else it has left by the top already
            axes.plot(*zip(*ends, strict=True), color=curve.line.look.colour, lw=sheet().stroke, ls=(0, (1, 1)), zorder=2.8)


def note_row(axes: Axes, view: View, row: int, line: Line, text: str, *, left: bool = False) -> None:
    """Words at an end of a line's row in the strip."""
    size = min(sheet().note, view.strip / view.rows * inside(axes)[1] * 72)
    place, side = (0.01, "left") if left else (0.99, "right")
    axes.text(
        place, view.row(row), text, transform=axes.get_yaxis_transform(), ha=side, va="center", size=size, color=line.look.colour
    )


def reach(axes: Axes, x: float) -> float:
    """Where on the panel's width an abscissa lies, from 0 to 1."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((x, axes.get_ylim()[0])))[0])
