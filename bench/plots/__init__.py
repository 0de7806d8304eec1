"""Draws a sweep: one file a figure, each turning the panels of an optimizer into figures by name.

Plots never compute more than medians and quantiles of what the tables hold.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.plots import condition, convergence, sensitivity, spectra
from bench.plots.style import house_style
from bench.plots.sweep import Panel, panels
from bench.store import Store
from linalg.checks import check_choice

FIGURES: dict[str, Callable[[str, Sequence[Panel]], dict[str, Figure]]] = {
    "convergence": convergence.figures,
    "sensitivity": sensitivity.figures,
    "condition": condition.figures,
    "spectra": spectra.figures,
}


def draw(store: Store, name: str, keys: Sequence[str], figures: Sequence[str]) -> list[Path]:
    """Draw figures of a sweep, one an optimizer, as PNG and SVG into `plots/<name>/` of the store.

    What no cell has measured is not drawn. The same results give the same bytes.

    Args:
        name: the sweep's.
        keys: its cells, finished ones.
        figures: of `FIGURES`.

    Returns:
        The files, in the order of `figures`, then of the optimizers by the alphabet.

    Raises:
        InputError: where there is no such figure.
    """
    for figure in figures:
        check_choice("figures", figure, FIGURES)
    folder = store.root / "plots" / name
    by_optimizer = panels(store, keys)
    paths = []
    for figure in figures:
        for optimizer, own in by_optimizer.items():
            with house_style():
                for stem, drawn in FIGURES[figure](optimizer, own).items():
                    paths += save(drawn, folder / f"{stem}-{optimizer}")
    return paths


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG, without a date; the paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # it has done its work, and would do it again for every file
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        written.append(path.with_name(path.name + suffix))
        figure.savefig(written[-1], metadata=metadata)
    return written
