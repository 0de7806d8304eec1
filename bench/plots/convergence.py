"""How far each method gets, and how fast, at its chosen learning rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.plots.axes import ROW, View, tick_steps
from bench.plots.curves import Curve, connect, draw_curves, note_row, reach, view_of
from bench.plots.layout import finish, frame, name_panel, note, read_as, say
from bench.plots.sheet import row_share, rows_beyond, sheet
from bench.plots.style import REFERENCE
from bench.plots.sweep import Line, Panel
from bench.stored import StoredCell


def figures(optimizer: str, panels: Sequence[Panel]) -> dict[str, Figure]:
    """The test error, or the training loss where nothing is held out, against the step."""
    figure, grid = frame(len(panels), grow=rows_beyond(max(sum(bool(lost(line.cell)) for line in panel.lines) for panel in panels)))
    others: dict[str, Line2D] = {}
    for axes, panel in zip(grid, panels, strict=True):
        others |= draw_panel(axes, panel)
    reading = read_as("interquartile band", panels, "report", "at the learning rate that tuning chose")
    title = f"Convergence with {optimizer}: lower and sooner is better"
    finish(figure, title, reading, [line for panel in panels for line in panel.lines], list(others.values()))
    return {"convergence": figure}


def measured(cell: StoredCell) -> tuple[np.ndarray, np.ndarray]:
    """(p,) steps and (k, p) the test error, or else the training loss over its start: infinite once diverged, NaN once stopped.

    Steps that only some seeds reached (a timeout) are NaN for all: a median over fewer seeds is another population's.
    """
    steps, loss = cell.curve("loss")
    if not len(steps):
        return steps, loss
    start = np.where(loss[:, :1] > 0, loss[:, :1], 1.0)
    values = cell.curve("test_rmse")[1] if cell.held_out else loss / start
    values = np.where(np.isposinf(loss), np.inf, values)
    return steps, np.where(np.isnan(values).any(0), np.nan, values)


def draw_panel(axes: Axes, panel: Panel) -> dict[str, Line2D]:
    """Draw a problem's lines; handles of what else it shows, by label."""
    held_out = any(line.cell.held_out for line in panel.lines)
    measure = "test RMSE" if held_out else "loss / initial loss"
    name_panel(axes, panel.title, "error on held-out entries" if held_out else "training loss over its initial value")
    axes.set_ylabel(measure)
    curves = [Curve.of(line, *measured(line.cell)) for line in panel.lines]
    bounds = {} if held_out or not any(curve.drawn for curve in curves) else floors(panel.lines)
    fallen = [line for line in panel.lines if lost(line.cell)]
    if not fallen and not any(curve.drawn for curve in curves):
        say(axes, "not measured")
        return {}
    start = max((curve.middle[0] for curve in curves if curve.drawn and np.isfinite(curve.middle[0])), default=np.inf)
    view = view_of(curves, start=start, also=bounds.values(), rows=len(fallen), row_height=row_share(axes, ROW))
    view.apply(axes, "diverged")
    tick_steps(axes, [curve.x for curve in curves if curve.drawn])
    draw_curves(axes, view, curves)
    if view.blank:
        note(axes, "every rate diverged")
    for row, line in enumerate(reversed(fallen)):
        draw_divergence(axes, view, row, curves[panel.lines.index(line)])
    return draw_floors(axes, view, bounds) | ({"diverged": cross("none", label="a seed diverges")} if fallen else {})


def lost(cell: StoredCell) -> str:
    """How many of the reporting seeds diverged, in words; none where all were well."""
    lanes = cell.reported
    count = int((lanes["status"] == "diverged").sum())
    return "every rate diverged" if not len(lanes) else f"{count} of {len(lanes)}" if count else ""


def draw_divergence(axes: Axes, view: View, row: int, curve: Curve) -> None:
    """A cross in the line's row of the strip for each seed where it diverged, and the count."""
    at = curve.line.cell.reported["diverged_at"].dropna().to_numpy() if len(curve.x) else np.empty(0)
    axes.add_line(cross(curve.line.look.colour, at, np.full(len(at), view.row(row))))
    connect(axes, view, curve, view.row(row))
    note_row(axes, view, row, curve.line, lost(curve.line.cell), left=bool(len(at)) and reach(axes, float(np.median(at))) > 0.5)


def cross(colour: str, x: Sequence[float] | np.ndarray = (), y: Sequence[float] | np.ndarray = (), **options: Any) -> Line2D:
    colour = REFERENCE if colour == "none" else colour
    stroke = sheet().stroke
    return Line2D(x, y, ls="none", marker="x", ms=5 * stroke, mew=1.4 * stroke, color=colour, zorder=4, **options)


def floors(lines: Sequence[Line]) -> dict[float, float]:
    """The lowest loss over its start that each method can reach, median over the seeds drawn; those equal to two digits once."""
    found = {}
    for line in lines:
        lanes = line.cell.reported if len(line.cell.reported) else line.cell.lanes
        shares = (lanes["floor"] / lanes["initial_loss"]).dropna()
        if len(shares) and 0 < shares.median() < np.inf:
            found[float(f"{shares.median():.1e}")] = float(shares.median())
    return found


def draw_floors(axes: Axes, view: View, bounds: dict[float, float]) -> dict[str, Line2D]:
    seen = [value for value in bounds.values() if view.low <= value <= view.high]
    handles = [axes.axhline(value, color=REFERENCE, ls=(0, (4, 2)), lw=1.1, zorder=2.5) for value in seen]
    return {"floor": Line2D([], [], color=REFERENCE, ls=(0, (4, 2)), lw=1.1, label="lowest loss in reach")} if handles else {}
