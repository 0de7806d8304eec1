"""What figures are made to fit, a screen or a printed page: font sizes, strokes, how many panels go side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linalg import InputError

WIDTHS = {"column": 3.35, "page": 6.9}  # inches of a printed page of two columns
LEAST, MOST = 2.5, 20.0  # inches that a figure may have
PANEL_SIZE = (3.3, 2.75)  # inches of a panel on a screen
ALONE = (5.6, 3.7)  # of the only one
NARROWEST, WIDEST = 1.6, 2.4  # inches of a printed panel with its labels, the latter where there are several
HIGHEST = 3.2
MOST_TICKS = 6
AROUND = (0.55, 0.5)  # inches of a printed panel that labels and names take, across and upwards
WIDE_ENOUGH = 2.6  # inches from which on words stand among a printed panel's tick labels


@dataclass(frozen=True)
class Sheet:
    """Sizes of all that a figure holds.

    Args:
        width: of figures, inches; None for as wide as their panels come to.
        name: what the files' names end with.
        title, panel, text, tick, note: font sizes in points.
        stroke: lines and markers as multiples of those on a screen.
        marked: points a line that carry the method's marker, about.
        dots: an inch, of what is saved as pixels.
    """

    width: float | None = None
    name: str = ""
    title: float = 14.0
    panel: float = 11.0
    text: float = 10.5
    tick: float = 9.5
    note: float = 8.5
    stroke: float = 1.0
    marked: int = 7
    dots: int = 150

    @classmethod
    def printed(cls, width: str | float) -> "Sheet":
        """For print: fonts of 7 to 9 points.

        Args:
            width: `column`, `page`, or inches.

        Raises:
            InputError: where it is none of these.
        """
        allowed = f"{', '.join(WIDTHS)}, or inches from {LEAST:g} to {MOST:g}"
        try:
            inches = WIDTHS[width] if isinstance(width, str) and width in WIDTHS else float(width)
        except ValueError:
            raise InputError(f"width={width!r}: must be {allowed}") from None
        if not LEAST <= inches <= MOST:
            raise InputError(f"width={width}: must be {allowed}")
        name = str(width) if width in WIDTHS else f"{inches:g}in"
        return cls(inches, name, title=9.0, panel=8.0, text=7.5, tick=7.0, note=7.0, stroke=0.7, marked=5, dots=300)

    @property
    def is_printed(self) -> bool:
        return self.width is not None

    def grid(self, count: int, narrowest: float = NARROWEST) -> tuple[int, float, float]:
        """How many columns that many panels have, and a panel's width and height in inches with all that stands there.

        On a page as few places as can be stay empty, then as few rows.
        """
        if self.width is None:
            width, height = ALONE if count == 1 else PANEL_SIZE
            columns = {1: 1, 2: 2, 4: 2}.get(count, 3 if count <= 12 else 4)
            return columns, width * (1.15 if columns == 2 else 1), height
        most = max(1, min(count, int(self.width / narrowest)))
        least = min(most, ceil(self.width / WIDEST))
        columns = min(range(least, most + 1), key=lambda each: (-count % each, -each))
        width = self.width / columns
        return columns, width, min(HIGHEST, 0.55 + 0.57 * width)


SCREEN = Sheet()
_CURRENT = ContextVar("sheet", default=SCREEN)


def sheet() -> Sheet:
    """What is being drawn on."""
    return _CURRENT.get()


@contextmanager
def drawn_on(each: Sheet) -> Iterator[None]:
    """Draw on that sheet until leaving."""
    token = _CURRENT.set(each)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def size_of(axes: Axes) -> tuple[float, float]:
    """Inches of a panel's share of the grid, wide and high."""
    figure, grid = axes.figure, axes.get_gridspec()
    assert isinstance(figure, Figure)
    assert grid is not None
    width, height = figure.get_size_inches()
    return width / grid.ncols, height / grid.nrows


def around() -> float:
    """Inches that names and labels take above and below a panel, about."""
    return AROUND[1] if sheet().is_printed else 0.35 * PANEL_SIZE[1]


def inside(axes: Axes) -> tuple[float, float]:
    """Inches between a panel's axes, about."""
    width, height = size_of(axes)
    return (width - AROUND[0], height - AROUND[1]) if sheet().is_printed else (0.8 * width, 0.65 * height)


def most_ticks(axes: Axes) -> tuple[int, int]:
    """How many labels of ticks fit along a panel and up its side."""
    if not sheet().is_printed:
        return MOST_TICKS, MOST_TICKS
    across, upwards = inside(axes)
    return min(MOST_TICKS, max(2, int(across / 0.32))), min(MOST_TICKS, max(2, int(upwards / 0.2)))


def row_share(axes: Axes, share: float) -> float:
    """A strip's row with words as a share of the panel's height: that of a screen, in print what the words need."""
    return 1.15 * sheet().note / 72 / inside(axes)[1] if sheet().is_printed else share


def rows_beyond(rows: int) -> float:
    """Inches that a printed panel grows by, so that a strip with that many rows of words leaves room for lines."""
    return max(0, rows - 2) * 1.15 * sheet().note / 72 if sheet().is_printed else 0.0
