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
WORTHWHILE = 100  # cells times figures from which on processes are worth their start

Share = list[tuple[str, str]]  # (optimizer, figure): what one process draws


def draw(store: Store, name: str, keys: Sequence[str], figures: Sequence[str], processes: int | None = None) -> list[Path]:
    """Draw figures of a sweep, one an optimizer, as PNG and SVG into `plots/<name>/` of the store.

    What no cell has measured is not drawn. The same results give the same bytes, however many processes draw them.

    Args:
        name: the sweep's.
        keys: its cells, finished ones.
        figures: of `FIGURES`.
        processes: how many draw; None for one a core where there is much to draw and joblib is installed.

    Returns:
        The files, in the order of `figures`, then of the optimizers by the alphabet.

    Raises:
        InputError: where there is no such figure.
    """
    for figure in figures:
        check_choice("figures", figure, FIGURES)
    optimizers = sorted({store.summary(key)["optimizer"] for key in keys})
    wanted = [
        (optimizer, figure) for optimizer in optimizers for figure in dict.fromkeys(figures)
    ]  # a process needs few optimizers
    if processes is None:
        processes = cores() if len(keys) * len(figures) >= WORTHWHILE else 1
    shares = [share for share in cut(wanted, processes) if share]
    drawn = {each: paths for done in side_by_side(store, name, keys, shares) for each, paths in done.items()}
    return [path for figure in dict.fromkeys(figures) for optimizer in optimizers for path in drawn[optimizer, figure]]


def cut(wanted: Share, processes: int) -> list[Share]:
    """What is wanted in as many consecutive shares, about equally long; the measure is how many figures an entry makes."""
    weights = [len(condition.QUANTITIES) if figure == "condition" else 1 for _, figure in wanted]
    shares: list[Share] = [[] for _ in range(processes)]
    before = 0
    for each, weight in zip(wanted, weights, strict=True):
        shares[int(processes * (before + weight / 2) / sum(weights))].append(each)
        before += weight
    return shares


def cores() -> int:
    """How many processes joblib would start; 1 where it is not installed."""
    try:
        from joblib import cpu_count
    except ImportError:
        return 1
    return int(cpu_count())


def side_by_side(store: Store, name: str, keys: Sequence[str], shares: Sequence[Share]) -> list[dict[tuple[str, str], list[Path]]]:
    """Every share's files, each share drawn by a process of its own, one alone by this.

    Joblib's processes outlive a call: those that ran the cells draw, and have everything imported already.
    """
    if len(shares) < 2:
        return [draw_share(store, name, keys, share) for share in shares]
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=len(shares))(delayed(draw_share)(store, name, keys, share) for share in shares))


def draw_share(store: Store, name: str, keys: Sequence[str], share: Share) -> dict[tuple[str, str], list[Path]]:
    """Draw some figures; the files of each."""
    folder = store.root / "plots" / name
    by_optimizer = panels(store, keys)
    drawn: dict[tuple[str, str], list[Path]] = {}
    for optimizer, figure in share:
        with house_style():
            made = FIGURES[figure](optimizer, by_optimizer[optimizer])
            drawn[optimizer, figure] = [path for stem, each in made.items() for path in save(each, folder / f"{stem}-{optimizer}")]
    return drawn


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG, without a date; the paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, options in (
        (".png", {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 4}}),
        (".svg", {"metadata": {"Date": None}}),
    ):
        written.append(path.with_name(path.name + suffix))
        figure.savefig(written[-1], **options)
    return written
