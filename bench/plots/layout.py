"""A figure's frame: a title that says what to see, a grid of panels, one legend for all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.plots.legend import fitted_legend, methods
from bench.plots.sheet import NARROWEST, around, inside, sheet
from bench.plots.style import REFERENCE
from bench.plots.sweep import Line, Panel
from bench.plots.words import POINT, wrapped

EXIT = "_exit"  # label of what marks a line that leaves its panel
PAD = (0.07, 0.045)  # inches beside, and above and below, a panel with all that stands there


def frame(
    count: int, *, narrowest: float = NARROWEST, insides: Sequence[float] = (), grow: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels.

    Args:
        narrowest: inches that a printed panel needs.
        insides: inches between the axes of each row of panels, where the sheet is not to say that.
        grow: inches that panels are higher than usual.
    """
    columns, width, height = sheet().grid(count, narrowest)
    rows = -(-count // columns)
    total = sum(insides) + rows * around() if insides else rows * (height + grow)
    figure = Figure(figsize=(columns * width, total))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=insides or None).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def name_panel(axes: Axes, problem: str, measure: str) -> None:
    """The problem with its settings, and below it what is measured, broken to the panel's width; in print the axis says that."""
    inches = inside(axes)[0]  # in print a little more: names are seldom as wide as words can be
    title: dict[str, Any] = {"loc": "left", "weight": "bold", "y": 1.0, "parse_math": False}
    if sheet().is_printed:
        axes.set_title(wrapped(problem, 1.1 * inches, sheet().panel, bold=True), pad=3, **title)
        return
    said = axes.annotate(
        wrapped(measure, inches, sheet().note),
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        size=sheet().note,
        color=REFERENCE,
    )
    pad = 6 + 1.2 * sheet().note * (said.get_text().count("\n") + 1)
    axes.set_title(wrapped(problem, inches, sheet().panel, bold=True), pad=pad, **title)


def seeds(panels: Sequence[Panel], role: str) -> str:
    """How many seeds of a role the cells have, in words."""
    counts = sorted({len(line.cell.config["seeds"][role]) for panel in panels for line in panel.lines})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{number} {'reporting' if role == 'report' else 'tuning'} seed{'s' * (counts[-1] > 1)}"


def read_as(band: str, panels: Sequence[Panel], role: str, rest: str) -> str:
    """How to read a figure's lines."""
    return f"Median and {band} of {seeds(panels, role)} {rest}."


def say(axes: Axes, text: str) -> None:
    """Words for a panel that has nothing else to show."""
    note(axes, text)
    axes.set(xticks=[], yticks=[])


def note(axes: Axes, text: str) -> None:
    """Words in the middle of a panel."""
    text = wrapped(text, inside(axes)[0], sheet().text) if sheet().is_printed else text
    axes.text(0.5, 0.45, text, transform=axes.transAxes, ha="center", va="center", color=REFERENCE)


def finish(figure: Figure, title: str, reading: str, lines: Sequence[Line], others: Sequence[Artist] = ()) -> None:
    """Put the title and how to read the figure above the panels, and the legend below them, on room of their own.

    Args:
        lines: those drawn in some panel.
        others: handles of what is no method's.
    """
    width, height = figure.get_size_inches()
    if any(line.get_label() == EXIT for axes in figure.axes for line in axes.lines):
        reading += " Triangles: off the scale."
    handles = [*methods(lines), *others]
    legend = fitted_legend(figure, handles, width) if handles else None
    below = legend.get_window_extent().height / figure.dpi + 0.12 if legend else 0.0
    sizes, stroke = (sheet().title, sheet().text), sheet().stroke
    left = 0.12 * stroke if not sheet().is_printed else 0.05
    title, reading = wrapped(title, width, sizes[0], bold=True), wrapped(reading, width, sizes[1])
    heads = [1.25 * POINT * size * (text.count("\n") + 1) for text, size in zip((title, reading), sizes, strict=True)]
    above = sum(heads) + 0.25 * stroke
    total = height + above + below
    figure.set_size_inches(width, total)
    figure.text(left / width, 1 - 0.08 * stroke / total, title, size=sizes[0], weight="bold", va="top", linespacing=1.2)
    down = (0.12 * stroke + heads[0]) / total
    figure.text(left / width, 1 - down, reading, size=sizes[1], color=REFERENCE, va="top", linespacing=1.2)
    if sheet().is_printed:
        say_once(figure)
    arrange(figure, below, height)


def say_once(figure: Figure) -> None:
    """Leave out the name of an axis where the panel to the left, or the one below, has the same."""
    places = {}
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        assert spec is not None
        places[spec.rowspan.start, spec.colspan.start] = (axes, axes.get_xlabel(), axes.get_ylabel())
    for (row, column), (axes, below, beside) in places.items():
        if (row, column - 1) in places and places[row, column - 1][2] == beside:
            axes.set_ylabel("")
        if (row + 1, column) in places and places[row + 1, column][1] == below:
            axes.set_xlabel("")


def arrange(figure: Figure, bottom: float, height: float) -> None:
    """Make the panels equally large, or as high as the grid's ratios say.

    Around each is room for what stands there, the most of its row and column.

    In one pass: constrained layout takes two, and comes to the same where no text depends on a panel's size.

    Args:
        bottom, height: of the grid, in inches.
    """
    width, total = figure.get_size_inches()
    specs = [axes.get_subplotspec() for axes in figure.axes]
    grid = figure.axes[0].get_gridspec()
    assert grid is not None
    sides = np.zeros((2, 2, max(grid.ncols, grid.nrows)))  # (axis, before or after, column or row): inches
    for axes, spec in zip(figure.axes, specs, strict=True):
        assert spec is not None
        tight, box = axes.get_tightbbox(for_layout_only=True), axes.get_window_extent()
        assert tight is not None
        for axis, place in enumerate((spec.colspan.start, grid.nrows - 1 - spec.rowspan.start)):
            room = (box.min[axis] - tight.min[axis], tight.max[axis] - box.max[axis])
            sides[axis, :, place] = np.maximum(sides[axis, :, place], np.divide(room, figure.dpi) + PAD[axis])
    counts = np.array([grid.ncols, grid.nrows])
    size = (np.array([width, height]) - sides.sum((1, 2))) / counts
    shares = np.ones((2, max(counts)))  # (axis, column or row) of a panel's size
    heights = np.asarray(grid.get_height_ratios(), dtype=float)[::-1]
    shares[1, : grid.nrows] = heights / heights.mean()
    for axes, spec in zip(figure.axes, specs, strict=True):
        assert spec is not None
        places = (spec.colspan.start, grid.nrows - 1 - spec.rowspan.start)
        x, y = (
            sides[axis, :, :place].sum() + sides[axis, 0, place] + size[axis] * shares[axis, :place].sum()
            for axis, place in enumerate(places)
        )
        axes.set_position((x / width, (bottom + y) / total, size[0] / width, size[1] * shares[1, places[1]] / total))
