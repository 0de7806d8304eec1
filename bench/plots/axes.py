"""Logarithmic axes whose ticks are always few and legible, with room above the data for what has no number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from bench.plots.sheet import MOST_TICKS, WIDE_ENOUGH, inside, most_ticks, sheet, size_of
from bench.plots.style import FAINT

SMALLEST = 1e-16  # anything below, zero included, is drawn here
ROOM = 1e3  # how far below the others' middle a line is followed, at least
LABELLED = 0.2  # of the range in decades, beyond it where lines leave: their last values stand there
MOST_STRIP = (0.4, 0.6)  # of a panel's height, on a screen and in print
ROW = 0.055
APART = 0.07  # of a panel's height: between the middles of two tick labels
DIGITS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9))

LEFT: Literal[0] = 0  # matplotlib's markers TICKLEFT and TICKDOWN, whose types say less
DOWN: Literal[3] = 3
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")  # what mathtext would set takes a parse for every size

Band = tuple[np.ndarray, np.ndarray, np.ndarray]
Tick = tuple[float, str]


@dataclass(frozen=True)
class View:
    """A panel's range of values, `low` to `high`, and a strip of rows above it for lanes that have none.

    Args:
        rows: how many the strip has, 0 for no strip.
        row_height: of one, as a share of the panel's height.
        blank: whether there is no value at all; the axis then has no scale, only the strip.
    """

    low: float
    high: float
    rows: int = 0
    row_height: float = ROW
    blank: bool = False

    @property
    def strip(self) -> float:
        """The strip's share of the panel's height."""
        return min(MOST_STRIP[sheet().is_printed], 0.02 + self.row_height * self.rows) if self.rows else 0.0

    @property
    def top(self) -> float:
        return self.low * (self.high / self.low) ** (1 / (1 - self.strip))

    def row(self, i: float) -> float:
        """The value at which the middle of row `i`, counted from the lowest, lies."""
        share = 1 - self.strip + self.strip * (i + 0.5) / max(1, self.rows)
        return float(self.low * (self.top / self.low) ** share)

    def apply(self, axes: Axes, label: str = "") -> None:
        """Set the y axis, tick it, and set the strip apart, its name among the tick labels."""
        axes.set_yscale("log")
        axes.set_ylim(self.low, self.top)
        ticks, minor = ([], []) if self.blank else log_ticks(self.low, self.high, most_ticks(axes)[1])
        if self.rows:
            middle = self.row((self.rows - 1) / 2)
            apart = (self.top / self.low) ** max(APART, 1.1 * sheet().tick / 72 / inside(axes)[1] if sheet().is_printed else 0.0)
            label = label if not sheet().is_printed or size_of(axes)[0] >= WIDE_ENOUGH else "∞"
            ticks = [(value, text if value * apart <= middle else "") for value, text in ticks] + [(middle, label)]
            edge = 1 - self.strip
            axes.add_patch(Rectangle((0, edge), 1, self.strip, transform=axes.transAxes, color="#F3F3F3", zorder=0.6, lw=0))
            axes.plot([0, 1], [edge, edge], transform=axes.transAxes, color=FAINT, lw=0.8, zorder=0.7)
        set_ticks(axes.yaxis, ticks, minor)

    def clip(self, axes: Axes, artists: Iterable) -> None:
        """Keep artists out of the strip."""
        for artist in artists:
            artist.set_clip_path(Rectangle((0, 0), 1, 1 - self.strip, transform=axes.transAxes))


def fit_view(
    lines: Sequence[Band], start: float = np.inf, also: Sequence[float] = (), room: tuple[float, float] = (ROOM, np.inf)
) -> tuple[float, float] | None:
    """The lowest and highest value of a range that no single line can spoil.

    It holds the medians, with two exceptions. Where training has a start, the range reaches above that by a third of the
    decades that the lowest median lies below it, and at most tenfold. And lines far beyond the others leave the panel: below,
    where the lowest point lies further than a factor `room[0]` under that of the middle line, and than that line lies under
    the top; above, the same with `room[1]`. The bands of lines that stay widen the range by at most half of it either way, as
    do the values `also` that are no further off. What is not finite does not count; None where nothing is.

    Args:
        lines: lower edge, median and upper edge of each line's band.
        start: infinite for none.
    """
    lines = [line for line in lines if np.isfinite(line[1]).any()]
    if not lines:
        return None
    lowest, highest = (np.array([pick(finite(median)) for _, median, _ in lines]) for pick in (np.min, np.max))
    cap = start * (np.clip((start / lowest.min()) ** (1 / 3), 1.1, 10) if lowest.min() < start else 10)
    top = min(highest.max(), cap)
    middle = min(np.quantile(lowest, 0.5, method="lower"), top)
    low = lowest >= min(middle * middle / top, middle / room[0])
    bottom = min(lowest[low].min(), top)
    middle = np.quantile(highest, 0.5, method="higher")
    with np.errstate(over="ignore"):  # beyond infinity there is nothing to leave to
        high = highest <= max(middle * middle / bottom, middle * room[1])
    top = max(bottom, min(highest[high].max(), cap))
    slack = max(top / bottom, 1.02) ** 0.5
    near = np.array([value for value in also if bottom / slack <= value])
    lower = [near, *(finite(line[0]) for line, stays in zip(lines, low, strict=True) if stays)]
    upper = [finite(line[2]) for line, stays in zip(lines, high, strict=True) if stays]
    least = max(np.concatenate(lower).min(initial=bottom), bottom / slack, SMALLEST)
    most = min(np.concatenate(upper).max(initial=top), top * slack, max(cap, top))
    if most < 1.001 * least:  # all the same: a scale around it
        return float(least / 3), float(most * 3)
    margins = [(most / least) ** (0.06 if stay.all() else LABELLED) for stay in (low, high)]
    return float(least / margins[0]), float(most * margins[1])


def finite(values: np.ndarray) -> np.ndarray:
    return np.maximum(values[np.isfinite(values)], SMALLEST)


def log_ticks(low: float, high: float, most: int = MOST_TICKS) -> tuple[list[Tick], list[float]]:
    """Major and minor ticks: powers of ten where there are two of them or more between `low` and `high`, else round numbers."""
    first, last = np.ceil(np.log10(low) - 1e-9), np.floor(np.log10(high) + 1e-9)
    powers = np.arange(first, last + 1)
    minor: list[float] = []
    if len(powers) >= 2:
        stride = -(-len(powers) // most)
        ticks = [(float(10**power), power_of_ten(int(power))) for power in powers if power % stride == 0]
        fine = [10.0**power * digit for power in np.arange(first - 1, last + 1) for digit in range(2, 10)]
        minor = fine if stride == 1 and len(powers) <= 4 else [float(10**power) for power in powers]
    else:
        ticks = [(step, f"{step:.6g}") for step in round_numbers(low, high, most)]
    return ticks, [value for value in minor if low <= value <= high]


def round_numbers(low: float, high: float, most: int = MOST_TICKS) -> list[float]:
    """A few numbers with few digits between two that are less than a hundredfold apart."""
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for digits in DIGITS:
        found = [10.0**power * digit for power in powers for digit in digits if low <= 10.0**power * digit <= high]
        if len(found) >= 3:
            return found[:: -(-len(found) // most)]
    return [float(step) for step in MaxNLocator(4).tick_values(low, high) if low <= step <= high]


def tick_steps(axes: Axes, measured: Sequence[np.ndarray]) -> None:
    """The step axis of curves measured at these steps: even where they all are, else step 0, then decades of equal width."""
    last = max((float(steps[-1]) for steps in measured), default=1.0)
    axes.set_xlabel("step")
    if measured and all(are_even(steps) for steps in measured):
        axes.set_xlim(-0.02 * last, 1.02 * last)
        whole = MaxNLocator(most_ticks(axes)[0], integer=True).tick_values(0, last)
        set_ticks(axes.xaxis, [(step, f"{step:.0f}") for step in whole if 0 <= step <= last], [])
        return
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(-0.06, max(last, 1) * 1.15)
    powers = range(int(np.log10(max(last, 1))) + 1)
    stride = -(-len(powers) // most_ticks(axes)[0])
    ticks = [(0.0, "0")] + [(10.0**power, str(10**power) if power < 4 else power_of_ten(power)) for power in powers[::stride]]
    set_ticks(axes.xaxis, ticks, [10.0**power * digit for power in powers for digit in range(2, 10) if 10**power * digit <= last])


def are_even(steps: np.ndarray) -> bool:
    """Whether a run was measured at equal distances, as models are, but for rounding."""
    apart = np.diff(steps)
    return len(apart) > 1 and bool(np.ptp(apart) <= 1)


def set_ticks(axis: Axis, ticks: Sequence[Tick], minor: Sequence[float]) -> None:
    """Labelled ticks, and minor ones as the marks of one line: matplotlib's are five artists each, laid out one by one."""
    axis.set_major_locator(FixedLocator([value for value, _ in ticks]))
    axis.set_major_formatter(FixedFormatter([text for _, text in ticks]))
    axis.set_minor_locator(NullLocator())
    axes, edge = axis.axes, np.zeros(len(minor))
    if axis is axes.xaxis:
        marks = Line2D(minor, edge, marker=DOWN, transform=axes.get_xaxis_transform())
    else:
        marks = Line2D(edge, minor, marker=LEFT, transform=axes.get_yaxis_transform())
    marks.set(ls="none", color="black", ms=2, mew=0.6, in_layout=False)
    axes.figure.add_artist(marks)  # the figure's: the lines of a panel are its data


def power_of_ten(power: int) -> str:
    return "10" + str(power).translate(RAISED)
