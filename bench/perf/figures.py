"""Two figures: what a lane-step costs against the number of lanes, and against the size of the weight."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.perf.cells import RANKS, RATES, Cell
from bench.plots.style import COLOURS, MARKERS, NOTE, REFERENCE, house_style
from bench.store import replacing

LABELS = {"engine": "engine", "loop": "torch loop", "jax": "JAX", "jax_gram": "JAX, engine's algebra"}
LOOKS = {name: (COLOURS[i], MARKERS[i]) for i, name in enumerate(LABELS)}
SIZES = (32, 64, 128, 256, 512, 1024)
FAMILIES = (("lora", "sgd"), ("lora", "adam"), ("deep_lora", "adam"))
PANEL_INCHES = (3.6, 3.2)
MOST_TICKS = 6
LABEL_GAP = 0.065  # of a panel's height, between the middles of two labels


def lane_cells(device: str, quick: bool) -> list[Cell]:
    """LoRA with Adam on two sizes with 1, 2, 4, ... lanes."""
    counts = [2**i for i in range(6 if quick else 13)]
    return [
        Cell("lora", "adam", n, n, RANKS[n], device=device, seeds=max(1, lanes // RATES), rates=min(lanes, RATES))
        for n in (32, 100)
        for lanes in counts
    ]


def size_cells(device: str, quick: bool) -> list[Cell]:
    """Square weights of rank n / 8, at most 16."""
    sizes = SIZES[:3] if quick else SIZES
    return [Cell(method, rule, n, n, min(16, n // 8), device=device).capped() for method, rule in FAMILIES for n in sizes]


def draw_lanes(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """`lanes.png` and `lanes.svg`."""
    with house_style():
        panels = list(rows.groupby("n"))
        figure, axes = grid(len(panels), "A lane costs less in company: time against the number of lanes")
        for ax, (n, group) in zip(axes, panels, strict=True):
            group = group.sort_values("lanes").assign(loop_us=group["loop_us"].median())  # one lane after another
            draw(ax, group, "lanes", f"LoRA, Adam, {n} x {n}, rank {group['rank'].iloc[0]}")
            ax.set_xlabel("lanes")
        name_lines(axes)
        return save(figure, folder / "lanes")


def draw_sizes(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """`sizes.png` and `sizes.svg`, with the limits of the machine."""
    with house_style():
        found = set(zip(rows["parameterization"], rows["optimizer"], strict=True))
        families = [family for family in FAMILIES if family in found]
        figure, axes = grid(len(families), "Time against the size of the weight, and what this machine allows")
        for ax, (method, rule) in zip(axes, families, strict=True):
            group = rows.loc[(rows["parameterization"] == method) & (rows["optimizer"] == rule)].sort_values("n")
            limit = group[["arithmetic_us", "bandwidth_us"]].max(axis=1)
            ax.plot(group["n"], limit, color=REFERENCE, linestyle=(0, (4, 2)), linewidth=1.0, label="limit")
            draw(ax, group, "n", f"{method}, {rule}")
            ax.set_xlabel("n, of an n x n weight")
        name_lines(axes)
        return save(figure, folder / "sizes")


def grid(panels: int, title: str) -> tuple[Figure, list[Axes]]:
    width, height = PANEL_INCHES
    figure = Figure(figsize=(panels * width + 1.0, height + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure, list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])


def draw(axes: Axes, group: pd.DataFrame, x: str, title: str) -> None:
    """A line for each contestant that was measured."""
    for name, label in LABELS.items():
        measured = group[f"{name}_us"].notna()
        if measured.any():
            colour, marker = LOOKS[name]
            (line,) = axes.plot(group.loc[measured, x], group.loc[measured, f"{name}_us"], label=label, color=colour, marker=marker)
            line.set(markeredgecolor="white", markeredgewidth=0.5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    places = group[x].to_list()
    axes.set_xticks(places[:: -(-len(places) // MOST_TICKS)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(title, loc="left")


def name_lines(panels: Sequence[Axes]) -> None:
    """Each line's name beside its end, moved apart where they would overlap; the axis of all panels is settled by now."""
    panels[0].set_ylabel("µs a lane and step, one thread")
    for axes in panels:
        low, high = (np.log(edge) for edge in axes.get_ylim())
        ends = [((np.log(np.asarray(line.get_ydata())[-1]) - low) / (high - low), line) for line in axes.get_lines()]
        above = -LABEL_GAP
        for height, line in sorted(ends, key=lambda end: end[0]):
            above = max(height, above + LABEL_GAP)
            said = axes.annotate(str(line.get_label()), (1.02, above), xycoords="axes fraction", annotation_clip=False)
            said.set(size=NOTE, color=line.get_color(), va="center")


def save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        with replacing(path) as partial:
            figure.savefig(partial, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths
