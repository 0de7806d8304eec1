"""Which singular values the update has learned."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.plots.axes import SMALLEST, set_ticks
from bench.plots.curves import Curve, draw_curves, view_of
from bench.plots.layout import finish, frame, name_panel, read_as, say
from bench.plots.style import TRUTH
from bench.plots.sweep import Line, Panel
from bench.stored import StoredCell, spread

FEWEST = 16  # values are shown of each spectrum, or twice the rank where that is more
TARGET: dict[str, Any] = {"color": TRUTH, "ls": (0, (4, 2)), "lw": 1.3, "label": "target", "zorder": 4}


def figures(optimizer: str, panels: Sequence[Panel]) -> dict[str, Figure]:
    """Singular values of the final update beside the target's, against their index; nothing where none were probed."""
    curves = [[curve_of(line) for line in panel.lines] for panel in panels]
    shown = [curve.line for each in curves for curve in each if curve.drawn]
    if not shown:
        return {}
    figure, grid = frame(len(panels))
    targets = [draw_panel(axes, panel, each) for axes, panel, each in zip(grid, panels, curves, strict=True)]
    reading = read_as("interquartile band", panels, "report", "after training at the learning rate that tuning chose")
    title = f"Spectrum of the update learned with {optimizer}: on the target's line is exact"
    finish(figure, title, reading, shown, [Line2D([], [], **TARGET)] if any(targets) else [])
    return {"spectra": figure}


def spectrum(cell: StoredCell, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(p,) indices from 1 and (k, p) singular values, of the update (`value`) or of what it should be (`target`)."""
    table = cell.spectra
    if not len(table):
        return np.empty(0), np.empty((0, 0))
    index, values = spread(table, "lane", "index", column)
    return index, np.where(np.isposinf(values), np.nan, values)


def curve_of(line: Line, column: str = "value") -> Curve:
    return Curve.of(line, *spectrum(line.cell, column))


def length(panel: Panel, longest: float) -> float:
    """How many values to show."""
    ranks = [line.cell.settings.get("parameterization.rank") or 0 for line in panel.lines]
    wanted = max(FEWEST, 2 * max(ranks))
    return longest if longest <= 1.25 * wanted else wanted


def draw_panel(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> bool:
    """Draw a problem's lines; whether it has a target."""
    name_panel(axes, panel.title, "singular values of the final update")
    drawn = [curve for curve in curves if curve.drawn]
    if not drawn:
        say(axes, "not measured")
        return False
    axes.set(xlabel="index", ylabel="singular value")
    last = length(panel, max(curve.x[-1] for curve in drawn))
    targets = [curve_of(curve.line, "target") for curve in drawn]
    target = max((each for each in targets if each.drawn), key=lambda each: len(each.x), default=None)
    shown = [first(curve, last) for curve in [*drawn, *([target] if target else [])]]
    view = view_of(shown)
    view.apply(axes)
    axes.set_xlim(0.5, last + 0.5)
    set_ticks(axes.xaxis, [(float(i), str(i)) for i in indices(int(last))], [])
    draw_curves(axes, view, shown[: len(drawn)], told="")
    if target:
        axes.plot(shown[-1].x, np.maximum(shown[-1].middle, SMALLEST), **TARGET)
    return target is not None


def indices(last: int) -> list[int]:
    """1 and the multiples of a round number up to the last index."""
    rounds = (digit * 10**power for power in range(9) for digit in (1, 2, 4, 5))
    step = next(step for step in rounds if last <= 6 * step)
    return sorted({1, *range(step, last + 1, step)})


def first(curve: Curve, count: float) -> Curve:
    """The curve up to that abscissa."""
    kept = curve.x <= count
    return Curve(curve.line, curve.x[kept], curve.low[kept], curve.middle[kept], curve.high[kept])
