"""A figure's frame: a title that says what to see, a grid of panels, one legend for all of them."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from bench.plots.style import LINE, NOTE, PANEL, REFERENCE, TEXT, TITLE
from bench.plots.sweep import Line, Panel

SIZE = (3.3, 2.75)  # inches of a panel
ALONE = (5.6, 3.7)  # of the only one
EXIT = "_exit"  # label of what marks a line that leaves its panel
PAD = (0.07, 0.045)  # inches beside, and above and below, a panel with all that stands there
POINT = 1 / 72
GLYPH = 0.53  # width of DejaVu Sans's mean character, in font sizes


def frame(panels: Sequence[Panel]) -> tuple[Figure, list[Axes]]:
    """A figure with an axes for each panel, titled."""
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3 if len(panels) <= 12 else 4)
    rows = -(-len(panels) // columns)
    width, height = ALONE if len(panels) == 1 else SIZE
    width *= 1.15 if columns == 2 else 1
    figure = Figure(figsize=(columns * width, rows * height))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure, list(grid[: len(panels)])


def size_of(axes: Axes) -> tuple[float, float]:
    """Inches of a panel's share of the grid, wide and high."""
    figure, grid = axes.figure, axes.get_gridspec()
    assert isinstance(figure, Figure)
    assert grid is not None
    width, height = figure.get_size_inches()
    return width / grid.ncols, height / grid.nrows


def name_panel(axes: Axes, problem: str, measure: str) -> None:
    """The problem with its settings, and below it what is measured, broken to the panel's width."""
    inches = 0.8 * size_of(axes)[0]
    said = axes.annotate(
        wrapped(measure, inches, NOTE),
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        size=NOTE,
        color=REFERENCE,
    )
    pad = 6 + 1.2 * NOTE * (said.get_text().count("\n") + 1)
    axes.set_title(wrapped(problem, inches, PANEL, bold=True), loc="left", weight="bold", y=1.0, pad=pad, parse_math=False)


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
    title, reading = wrapped(title, width, TITLE, bold=True), wrapped(reading, width, TEXT)
    heads = [1.25 * POINT * size * (text.count("\n") + 1) for text, size in ((title, TITLE), (reading, TEXT))]
    above = sum(heads) + 0.25
    total = height + above + below
    figure.set_size_inches(width, total)
    figure.text(0.12 / width, 1 - 0.08 / total, title, size=TITLE, weight="bold", va="top", linespacing=1.2)
    figure.text(0.12 / width, 1 - (0.12 + heads[0]) / total, reading, size=TEXT, color=REFERENCE, va="top", linespacing=1.2)
    arrange(figure, below, height)


def arrange(figure: Figure, bottom: float, height: float) -> None:
    """Make the panels equally large, with room around each for what stands there, the most of its row and column.

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
    for axes, spec in zip(figure.axes, specs, strict=True):
        assert spec is not None
        places = (spec.colspan.start, grid.nrows - 1 - spec.rowspan.start)
        x, y = (sides[axis, :, :place].sum() + sides[axis, 0, place] + size[axis] * place for axis, place in enumerate(places))
        axes.set_position((x / width, (bottom + y) / total, size[0] / width, size[1] / total))


def methods(lines: Sequence[Line]) -> list[Artist]:
    """A handle a label, in the order of the colours."""
    looks = {line.label: line.look for line in sorted(lines, key=lambda line: (line.look.slot, line.look.variant))}
    return [Line2D([], [], label=textwrap.fill(label, 40), lw=LINE * 1.3, **look.line) for label, look in looks.items()]


def fitted_legend(figure: Figure, handles: Sequence[Artist], width: float) -> Legend:
    """A legend along the bottom in as few rows as fit, read row by row, its columns about equally long."""
    for columns in range(min(len(handles), 8), 0, -1):
        rows = -(-len(handles) // columns)
        columns = -(-len(handles) // rows)
        ordered = [handle for i in range(columns) for handle in handles[i::columns]]  # matplotlib fills columns first
        legend = figure.legend(handles=ordered, loc="lower center", ncols=columns, handlelength=2.4, columnspacing=1.6)
        if columns == 1 or legend.get_window_extent().width / figure.dpi <= width - 0.1:
            break
        legend.remove()
    for text in legend.get_texts():
        text.set_parse_math(False)  # a setting's value may hold dollar signs
    return legend


def wrapped(text: str, inches: float, size: float, *, bold: bool = False) -> str:
    """Text broken into as few lines as fit a width; bold ones about equally long."""
    widest = max(12, int(inches / (GLYPH * (1.18 if bold else 1) * size * POINT)))
    lines = textwrap.wrap(text, widest)
    longest = max(map(len, text.split()), default=0)
    while bold and widest > longest and len(textwrap.wrap(text, widest - 1)) == len(lines):
        widest -= 1
        lines = textwrap.wrap(text, widest)
    return "\n".join(lines)
