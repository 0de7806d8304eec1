"""Draws a sweep: one file a figure, each turning the panels of an optimizer into figures by name.

Plots never compute more than what `bench.stats` says of what the tables hold.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.plots import condition, convergence, profiles, samples, sensitivity, spectra
from bench.plots.files import save
from bench.plots.sheet import Sheet
from bench.plots.style import house_style
from bench.plots.sweep import EVERY, Choice, Panel, has_curves, panels, rivals, thinned, with_the_best_optimizer
from bench.store import Store
from bench.stored import StoredCell
from linalg.checks import check_choice

__all__ = ["FIGURES", "Choice", "Sheet", "draw", "house_style", "left_out", "save"]

FIGURES: dict[str, Callable[[str, Sequence[Panel]], dict[str, Figure]]] = {
    "convergence": convergence.figures,
    "sensitivity": sensitivity.figures,
    "condition": condition.figures,
    "spectra": spectra.figures,
    "profiles": profiles.figures,
    "samples": samples.figures,
}
OF_CURVES = ("convergence", "condition")  # figures that need the curves, which a packed store has of some cells only
WORTHWHILE = 100  # cells times figures from which on processes are worth their start

Share = list[tuple[str, str]]  # (optimizer, figure): what one process draws


def draw(
    store: Store,
    name: str,
    keys: Sequence[str],
    figures: Sequence[str],
    processes: int | None = None,
    choice: Choice = EVERY,
) -> list[Path]:
    """Draw figures of a sweep, one an optimizer, into `plots/<name>/` of the store; of `profiles` also one over all optimizers.

    What no cell has measured is not drawn. The same results give the same bytes, however many processes draw them.

    Args:
        name: the sweep's.
        keys: its cells, finished ones.
        figures: of `FIGURES`.
        processes: how many draw; None for one a core where there is much to draw and joblib is installed.
        choice: the problems and optimizers, how wide, and as which kinds of file; all of them as PNG and SVG unless given.

    Returns:
        The files, in the order of `figures`, then of the optimizers by the alphabet.

    Raises:
        InputError: where there is no such figure, or none of the cells has such a problem or optimizer.
    """
    for figure in figures:
        check_choice("figures", figure, FIGURES)
    summaries = [store.summary(key) for key in keys]
    for axis, asked in (("problem", choice.problems), ("optimizer", choice.optimizers)):
        for each in asked:
            check_choice(axis, each, sorted({summary[axis] for summary in summaries}))
    optimizers = sorted({summary["optimizer"] for summary in summaries if choice.has(summary)})
    wanted = [
        (optimizer, figure) for optimizer in optimizers for figure in dict.fromkeys(figures)
    ]  # a process needs few optimizers
    if "profiles" in figures and len(rivals(optimizers)) > 1:
        wanted.append((profiles.ALL, "profiles"))
    if processes is None:
        processes = cores() if len(keys) * len(figures) >= WORTHWHILE else 1
    shares = [share for share in cut(wanted, processes) if share]
    drawn = {each: paths for done in side_by_side(store, name, keys, shares, choice) for each, paths in done.items()}
    order = [(optimizer, figure) for figure in dict.fromkeys(figures) for optimizer in [*optimizers, profiles.ALL]]
    return [path for each in order for path in drawn.get(each, [])]


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


def side_by_side(
    store: Store, name: str, keys: Sequence[str], shares: Sequence[Share], choice: Choice
) -> list[dict[tuple[str, str], list[Path]]]:
    """Every share's files, each share drawn by a process of its own, one alone by this.

    Joblib's processes outlive a call: those that ran the cells draw, and have everything imported already.
    """
    if len(shares) < 2:
        return [draw_share(store, name, keys, share, choice) for share in shares]
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=len(shares))(delayed(draw_share)(store, name, keys, share, choice) for share in shares))


def draw_share(store: Store, name: str, keys: Sequence[str], share: Share, choice: Choice) -> dict[tuple[str, str], list[Path]]:
    """Draw some figures; the files of each."""
    folder = store.root / "plots" / name
    by_optimizer = {each: thinned(shown, lambda cell: choice.has(cell.summary)) for each, shown in panels(store, keys).items()}
    drawn: dict[tuple[str, str], list[Path]] = {}
    for optimizer, figure in share:
        shown = with_the_best_optimizer(by_optimizer) if optimizer == profiles.ALL else by_optimizer[optimizer]
        if figure in OF_CURVES:
            shown = thinned(shown, has_curves)
        with house_style(choice.sheet):
            made = FIGURES[figure](optimizer, shown) if shown else {}
            ending = f"{optimizer}-{choice.sheet.name}" if choice.sheet.name else optimizer
            drawn[optimizer, figure] = [
                path for stem, each in made.items() for path in save(each, folder / f"{stem}-{ending}", choice.kinds)
            ]
    return drawn


def left_out(store: Store, keys: Sequence[str], figures: Sequence[str], choice: Choice = EVERY) -> str:
    """A line on cells whose curves the store was packed without, where a figure needs them; empty where there are none."""
    needy = [figure for figure in OF_CURVES if figure in figures]
    cells = [StoredCell(store, key) for key in keys]
    cells = [cell for cell in cells if choice.has(cell.summary)] if needy else []
    lacking = sum(not has_curves(cell) for cell in cells)
    if not lacking:
        return ""
    return f"{lacking} of {len(cells)} cells are packed without their curves: they are not in {' and '.join(needy)}"
