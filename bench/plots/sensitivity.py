"""How much the final score depends on the learning rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.plots.axes import View, log_ticks, set_ticks
from bench.plots.curves import Curve, connect, draw_curves, view_of
from bench.plots.layout import finish, frame, name_panel, note, read_as, say
from bench.plots.sheet import most_ticks, sheet
from bench.plots.style import REFERENCE
from bench.plots.sweep import Panel, has_curves
from bench.stored import StoredCell, spread


def figures(optimizer: str, panels: Sequence[Panel]) -> dict[str, Figure]:
    """The measure that picks the rate, at the end of training, against the rate."""
    figure, grid = frame(len(panels))
    strips = [draw_panel(axes, panel) for axes, panel in zip(grid, panels, strict=True)]
    others: list[Line2D | Patch] = [Line2D([], [], marker="o", color="white", label="chosen rate", **chosen())]
    if any(strips):
        others.append(Patch(color=REFERENCE, label="share of seeds that diverge"))
    reading = read_as("full range", panels, "tune", "after training at each rate")
    title = f"Sensitivity of {optimizer} to the learning rate: a wide, deep valley is better"
    finish(figure, title, reading, [line for panel in panels for line in panel.lines], others)
    return {"sensitivity": figure}


def chosen() -> dict[str, Any]:
    """How the mark of a chosen rate differs from the method's marker."""
    size, edge = (5.4, 0.8) if sheet().is_printed else (9, 1.2)
    return {"ms": size, "markeredgecolor": "black", "markeredgewidth": edge, "ls": "none", "zorder": 6}


def scores(cell: StoredCell) -> tuple[np.ndarray, np.ndarray]:
    """(p,) rates and (k, p) the tuning seeds' scores, infinite where one diverged; one that is a training loss over its start."""
    lanes = cell.tuned
    start = 1.0 if cell.validated or cell.held_out else lanes["initial_loss"].where(lanes["initial_loss"] > 0, 1.0)
    return spread(lanes.assign(score=lanes["score"] / start), "seed", "lr", "score")


def measured_by(cell: StoredCell) -> tuple[str, str]:
    """What picks the rate: in words, and as an axis has it."""
    if cell.validated:
        return "loss on data held out", "validation loss"
    if cell.held_out:
        return "error on the validation entries", "validation RMSE"
    return "final training loss over its initial value", "loss / initial loss"


def draw_panel(axes: Axes, panel: Panel) -> bool:
    """Draw a problem's lines; whether any seed diverged."""
    about, measure = measured_by(panel.lines[0].cell)
    name_panel(axes, panel.title, about)
    axes.set(xlabel="learning rate", ylabel=measure)
    data = [scores(line.cell) for line in panel.lines]
    curves = [Curve.of(line, *each, band=(0, 1)) for line, each in zip(panel.lines, data, strict=True)]
    fallen = [i for i, (_, values) in enumerate(data) if np.isinf(values).any()]
    if not any(curve.drawn for curve in curves):
        say(axes, "not measured")
        return False
    view = view_of(curves, start=starting_value([line.cell for line in panel.lines]), rows=len(fallen), row_height=0.034)
    view.apply(axes, "diverged")
    tick_rates(axes, curves)
    draw_curves(axes, view, curves, alpha=0.1)
    if view.blank:
        note(axes, "every rate diverged")
    for curve in curves:
        mark_chosen(axes, view, curve)
    for row, i in enumerate(reversed(fallen)):
        draw_shares(axes, view, row, curves[i], np.isinf(data[i][1]).mean(0))
    return bool(fallen)


def starting_value(cells: Sequence[StoredCell]) -> float:
    """What the score of a problem's cells is before training: 1 for a loss over its start, the largest of theirs otherwise."""
    if cells[0].validated:
        lanes = pd.concat([cell.tuned for cell in cells])
        starts = (lanes["score"] / lanes["remaining"]).to_numpy(dtype=float)
    elif cells[0].held_out:
        starts = np.concatenate(
            [cell.curve("validation_rmse")[1][:, :1].ravel() for cell in cells if has_curves(cell)] or [np.ones(1)]
        )
    else:
        return 1.0
    return float(starts[np.isfinite(starts)].max(initial=0)) or np.inf  # those that diverged do not count


def tick_rates(axes: Axes, curves: Sequence[Curve]) -> None:
    rates = np.concatenate([curve.x for curve in curves])
    low, high = rates.min() / 1.6, rates.max() * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    set_ticks(axes.xaxis, *log_ticks(low, high, most_ticks(axes)[0]))


def mark_chosen(axes: Axes, view: View, curve: Curve) -> None:
    """The method's marker, larger and with a black edge, at the rate that tuning chose."""
    for i in np.flatnonzero(curve.x == (curve.line.cell.summary["chosen_lr"] or np.nan)):
        height = np.clip(curve.middle[i], view.low, view.high)  # a line that leaves the panel keeps its mark, on the edge
        look = curve.line.look
        axes.plot(curve.x[i], height, marker=look.marker, color=look.colour, clip_on=False, **chosen())


def draw_shares(axes: Axes, view: View, row: int, curve: Curve, shares: np.ndarray) -> None:
    """In the line's row of the strip a bar at each rate, as high as the share of seeds that diverged."""
    edges = cell_edges(curve.x)
    foot = view.row(row - 0.45)
    for share, left, right in zip(shares, edges[:-1], edges[1:], strict=True):
        if share > 0:
            top = view.row(row - 0.45 + 0.9 * share)
            axes.fill_between([left, right], foot, top, color=curve.line.look.colour, lw=0, zorder=2.5)
    connect(axes, view, curve, view.high)


def cell_edges(rates: np.ndarray) -> np.ndarray:
    """(p + 1,) the geometric middles between rates, and as far beyond the first and the last."""
    if len(rates) == 1:
        return rates[0] * np.array([0.8, 1.25])
    between = np.sqrt(rates[1:] * rates[:-1])
    return np.array([rates[0] ** 2 / between[0], *between, rates[-1] ** 2 / between[-1]])
