"""Conditions along the run: of the product, of its factors, and of the Gauss-Newton map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.plots.axes import tick_steps
from bench.plots.curves import Curve, connect, draw_curves, view_of
from bench.plots.layout import finish, frame, name_panel, read_as, say
from bench.plots.style import REFERENCE
from bench.plots.sweep import Line, Panel

INFINITE: dict[str, Any] = {"ls": "none", "marker": "_", "ms": 7, "mew": 2}
QUANTITIES = {
    "condition_product": (r"$\sigma_1\,/\,\sigma_r$", "singular values of the update", "Condition of the learned update"),
    "condition_factors": (r"$\sigma_1\,/\,\sigma_r$", "singular values of the worst factor", "Condition of the worst factor"),
    "condition_gauss_newton": (
        r"$\lambda_1\,/\,\lambda_{\min}$",
        "eigenvalues of J Jᵀ on its range",
        "Condition of the Gauss-Newton map",
    ),
}


def figures(optimizer: str, panels: Sequence[Panel]) -> dict[str, Figure]:
    """One figure for each quantity that some cell has, against the step."""
    drawn = {quantity: figure_of(quantity, optimizer, panels) for quantity in QUANTITIES}
    return {quantity: figure for quantity, figure in drawn.items() if figure is not None}


def figure_of(quantity: str, optimizer: str, panels: Sequence[Panel]) -> Figure | None:
    curves = [[curve_of(line, quantity) for line in panel.lines] for panel in panels]
    shown = [curve.line for each in curves for curve in each if curve.drawn]
    if not shown:
        return None
    figure, grid = frame(len(panels))
    infinite = [draw_panel(axes, quantity, panel, each) for axes, panel, each in zip(grid, panels, curves, strict=True)]
    labels = dict.fromkeys(line.label for panel in panels for line in panel.lines)
    absent = [label for label in labels if label not in {line.label for line in shown}]
    reading = read_as("interquartile band", panels, "report", "at the learning rate that tuning chose")
    reading += f" No values: {', '.join(absent)}." if absent else ""
    others = [Line2D([], [], **INFINITE, color=REFERENCE, label="infinite")] if any(infinite) else []
    finish(figure, f"{QUANTITIES[quantity][2]} with {optimizer}: low and level is benign", reading, shown, others)
    return figure


def curve_of(line: Line, quantity: str) -> Curve:
    """Over the seeds where the quantity is defined: it is not for a zero matrix, nor once a seed has diverged."""
    return Curve.of(line, *line.cell.curve(quantity))


def draw_panel(axes: Axes, quantity: str, panel: Panel, curves: Sequence[Curve]) -> bool:
    """Draw a problem's lines; whether a median is infinite somewhere."""
    label, subject, _ = QUANTITIES[quantity]
    name_panel(axes, panel.title, subject)
    drawn = [curve for curve in curves if curve.drawn]
    if not drawn:
        say(axes, "not measured")
        return False
    axes.set_ylabel(label)
    singular = [curve for curve in drawn if np.isinf(curve.middle).any()]
    view = view_of(drawn, room=(np.inf, 1e12), rows=len(singular))
    view.apply(axes, "infinite")
    tick_steps(axes, [curve.x for curve in drawn])
    draw_curves(axes, view, drawn, told="^")
    for row, curve in enumerate(reversed(singular)):
        x = curve.x[np.isinf(curve.middle)]
        axes.plot(x, np.full(len(x), view.row(row)), **INFINITE, color=curve.line.look.colour, zorder=4)
        connect(axes, view, curve, view.row(row))
    return bool(singular)
