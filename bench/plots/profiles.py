"""All problems at once: how often each method is how far behind the fastest, and how often it gets further than a baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.plots.axes import power_of_ten, set_ticks
from bench.plots.instances import DEPTH, SPEED, Instances, lined_up
from bench.plots.layout import finish, frame, name_panel, say
from bench.plots.sheet import most_ticks, sheet
from bench.plots.style import REFERENCE
from bench.plots.sweep import Line, Panel
from bench.plots.words import wrapped
from bench.stats import Interval, performance_profile, probability_of_improvement

ALL = "all"  # in place of an optimizer: the best one of each parameterization
BASELINE = "lora"
NARROWEST = 2.6  # inches of a panel in print
HEIGHTS = (1.8, 1.4)  # inches of a profile's axis, on a screen and in print
NAME = 1.2  # inches of a method's name beside the right panel
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def figures(optimizer: str, panels: Sequence[Panel]) -> dict[str, Figure]:
    """Performance profiles beside the probability of improvement; nothing where no two methods share a problem and a seed."""
    found = lined_up(panels)
    if found is None:
        return {}
    baseline = next((line for line in found.lines if line.cell.summary["parameterization"] == BASELINE), found.lines[0])
    others = [line for line in found.lines if line is not baseline]
    figure, (left, right) = frame(2, narrowest=NARROWEST, insides=heights([line.label for line in others]))
    draw_profiles(left, found)
    draw_improvement(right, baseline, {line.label: improvement(found, line, baseline) for line in others}, others)
    which = "the best optimizer of each method" if optimizer == ALL else optimizer
    finish(figure, f"Profiles with {which}: higher and further left is better", reading(found, optimizer), found.lines)
    return {"profiles": figure}


def heights(labels: Sequence[str]) -> list[float]:
    """Inches between the axes of each row of panels: one row, or two where the sheet is narrow."""
    lines = max(wrapped(label, NAME, sheet().tick).count("\n") + 1 for label in labels)
    left, right = HEIGHTS[sheet().is_printed], 1.5 * lines * sheet().tick / 72 * (len(labels) + 0.5)
    return [left, max(0.35, right)] if sheet().grid(2, NARROWEST)[0] == 1 else [max(left, right)]


def improvement(found: Instances, line: Line, baseline: Line) -> Interval:
    return probability_of_improvement(found.costs[DEPTH][line.label], found.costs[DEPTH][baseline.label])


def factors_of(costs: np.ndarray) -> np.ndarray:
    """(f,) where a profile of costs (methods, instances) jumps, 1 first."""
    best = costs.min(0)
    floor = np.where(best > 0, best, np.finfo(float).tiny)
    behind = np.isfinite(costs) & (costs > best)
    return np.unique([1.0, *np.divide(costs, floor, out=np.ones_like(costs), where=behind).ravel()])


def draw_profiles(axes: Axes, found: Instances) -> None:
    """A step line a method; the gap above its right end is the share of instances that it never solves."""
    costs = found.all(SPEED)
    name_panel(axes, "Steps to the target", "share of instances solved within a factor of the fastest method")
    if not np.isfinite(costs).any():
        say(axes, "no run reaches the target")
        return
    factors = factors_of(costs)
    edge = max(factors[-1], 2.0) ** 1.08
    at = np.append(factors, edge)
    axes.set(xlabel="factor of the fastest method's steps", ylabel="share of instances solved")
    axes.set_xscale("log")
    axes.set_xlim(1.0, edge)
    axes.set_ylim(-0.02, 1.02)
    set_ticks(axes.xaxis, factor_ticks(edge, most_ticks(axes)[0]), [])
    set_ticks(axes.yaxis, [(share, f"{share:g}") for share in SHARES], [])
    for line, shares in zip(found.lines, performance_profile(costs, at), strict=True):
        start = 0.03 * (line.look.slot % 5)  # markers of lines that lie on each other stay apart
        axes.plot(at, shares, **line.look.line, drawstyle="steps-post", markevery=(start, 0.15), label=line.label, zorder=3)
    never = axes.secondary_yaxis("right", functions=(the_rest, the_rest))
    never.set_yticks(SHARES, [f"{share:g}" for share in SHARES])
    never.set_ylabel("share never solved", color=REFERENCE)
    never.tick_params(colors=REFERENCE, labelsize=sheet().tick)
    never.spines["right"].set_visible(False)


def factor_ticks(edge: float, most: int) -> list[tuple[float, str]]:
    """Round factors from 1 up to the right end, powers of ten where others are too many."""
    for digits in ((1, 2, 5), (1,)):
        found = [10.0**power * digit for power in range(int(np.log10(edge)) + 1) for digit in digits if 10.0**power * digit <= edge]
        if len(found) <= most:
            break
    stride = -(-len(found) // most)
    return [(factor, f"{factor:g}" if factor < 1e4 else power_of_ten(round(np.log10(factor)))) for factor in found[::stride]]


def the_rest(share: Any) -> Any:
    return 1 - share


def draw_improvement(axes: Axes, baseline: Line, found: Mapping[str, Interval], lines: Sequence[Line]) -> None:
    """A dot and its interval a method, the best at the top."""
    name_panel(axes, f"Better than {baseline.label}", "probability that a run leaves less of its excess loss")
    ordered = sorted(lines, key=lambda line: found[line.label].value)
    axes.axvline(0.5, color=REFERENCE, ls=(0, (4, 2)), lw=1.1 * sheet().stroke, zorder=2)
    for place, line in enumerate(ordered):
        value, low, high = found[line.label]
        axes.plot([low, high], [place, place], color=line.look.colour, lw=2 * sheet().stroke, zorder=3, label=f"_{line.label}")
        dot = line.look.line | {"linestyle": "none"}
        axes.plot([value], [place], **dot, ms=7 * sheet().stroke, label=line.label, zorder=4, clip_on=False)
    axes.set_xlabel(f"probability of improvement over {baseline.label}", parse_math=False)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(ordered) - 0.4))
    set_ticks(axes.xaxis, [(share, f"{share:g}") for share in SHARES], [])
    set_ticks(axes.yaxis, [(float(i), wrapped(line.label, NAME, sheet().tick)) for i, line in enumerate(ordered)], [])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)  # a setting's value may hold dollar signs


def reading(found: Instances, optimizer: str) -> str:
    """How to read the figure: what an instance is, and how many there are."""
    counts, problems = sorted(set(found.counts)), found.problems
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds += " reporting seed" + "s" * (counts[-1] > 1)
    shown = f"{len(problems)} problems × {seeds}" if len(problems) > 1 else f"{problems[0]}, {seeds}"
    said = f"{sum(found.counts)} instance{'s' * (sum(found.counts) > 1)} ({shown}). Target: 1\u00a0% of the excess training loss."
    said += " Whiskers: 95\u00a0% over seeds." if counts[-1] > 1 else " A single seed has no interval."
    if optimizer == ALL:
        said += " On each problem, the optimizer that the tuning seeds prefer."
    return said + (f" Ran on too few: {', '.join(found.left_out)}." if found.left_out else "")
