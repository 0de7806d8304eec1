"""One legend for all panels of a figure."""

import textwrap
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from bench.plots.sheet import sheet
from bench.plots.style import LINE
from bench.plots.sweep import Line


def methods(lines: Sequence[Line]) -> list[Artist]:
    """A handle a label, in the order of the colours."""
    looks = {line.label: line.look for line in sorted(lines, key=lambda line: (line.look.slot, line.look.variant))}
    return [
        Line2D([], [], label=textwrap.fill(label, 40), lw=LINE * sheet().stroke * 1.3, **look.line) for label, look in looks.items()
    ]


def fitted_legend(figure: Figure, handles: Sequence[Artist], width: float) -> Legend:
    """A legend along the bottom in as few rows as fit, read row by row, its columns about equally long."""
    length, gap = (1.9, 1.1) if sheet().is_printed else (2.4, 1.6)  # in font sizes
    for columns in range(min(len(handles), 8), 0, -1):
        rows = -(-len(handles) // columns)
        columns = -(-len(handles) // rows)
        ordered = [handle for i in range(columns) for handle in handles[i::columns]]  # matplotlib fills columns first
        legend = figure.legend(handles=ordered, loc="lower center", ncols=columns, handlelength=length, columnspacing=gap)
        if columns == 1 or legend.get_window_extent().width / figure.dpi <= width - 0.1:
            break
        legend.remove()
    for text in legend.get_texts():
        text.set_parse_math(False)  # a setting's value may hold dollar signs
    return legend
