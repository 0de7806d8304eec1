"""What a sweep's figures show: stored cells sorted into panels of labelled lines."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.labels import differences, of_anything, of_method, of_problem, order
from bench.packed import Packed
from bench.plots.sheet import SCREEN, Sheet
from bench.plots.style import Look, slots
from bench.store import Store
from bench.stored import StoredCell
from bench.study import Study, run_settings, varies


@dataclass(frozen=True)
class Line:
    """A cell in a panel."""

    cell: StoredCell
    label: str
    look: Look


@dataclass(frozen=True)
class Panel:
    """A problem with the methods that were run on it."""

    title: str
    lines: list[Line]


@dataclass(frozen=True)
class Choice:
    """What is drawn of a sweep, and how it is kept.

    Args:
        problems, optimizers: by name; all where there are none.
        sheet: what figures are made to fit.
        kinds: of file, of png, svg and pdf.
    """

    problems: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    sheet: Sheet = SCREEN
    kinds: tuple[str, ...] = ("png", "svg")

    def has(self, summary: Mapping[str, Any]) -> bool:
        """Whether the cell with that summary is drawn."""
        fits = {"problem": self.problems, "optimizer": self.optimizers}
        return all(not wanted or summary[axis] in wanted for axis, wanted in fits.items())


EVERY = Choice()


def panels(store: Store, keys: Iterable[str]) -> dict[str, list[Panel]]:
    """The panels by optimizer, in an order that does not depend on that of `keys`.

    Cells that share all three names are told apart by the settings in which they differ: those of the problem make
    panels of their own, all others lines of their own. A setting of the method is named wherever the sweep has a method with
    several values of it, so that a label means the same in every panel; one of the run, such as how many steps it takes, only
    where some problem has cells with several.
    """
    cells = [StoredCell(store, key) for key in sorted(set(keys))]
    places = slots({cell.summary["parameterization"] for cell in cells})
    titles: dict[StoredCell, str] = {}
    for name, group in grouped(cells, "problem").items():
        group.sort(key=lambda cell: order(cell.settings, of_problem))
        named = differences([cell.settings for cell in group], of_problem)
        titles |= {cell: ", ".join([name, *own]) for cell, own in zip(group, named, strict=True)}
    alike = {path for path in run_settings(cells) if not varies(cells, [titles[cell] for cell in cells], path)}
    drawn = {}
    for optimizer, group in grouped(cells, "optimizer").items():
        lines = labelled(group, places, lambda path: of_method(path) and path not in alike)
        drawn[optimizer] = [
            Panel(title, told_apart([line for line in lines if titles[line.cell] == title]))
            for title in dict.fromkeys(titles.values())
            if any(titles[line.cell] == title for line in lines)
        ]
    return drawn


def labelled(cells: Iterable[StoredCell], places: dict[str, int], wanted: Callable[[str], bool]) -> list[Line]:
    """Lines in the order of the methods' places, the settings of one method in that of their values."""
    lines = []
    by_method = grouped(cells, "parameterization")
    for name in sorted(by_method, key=places.__getitem__):
        group = sorted(by_method[name], key=lambda cell: order(cell.settings, of_method))
        named = differences([cell.settings for cell in group], wanted)
        variants = list(dict.fromkeys(named))
        for cell, own in zip(group, named, strict=True):
            lines.append(Line(cell, ", ".join([name, *own]), Look(places[name], variants.index(own))))
    return lines


def told_apart(lines: list[Line]) -> list[Line]:
    """Lines of one panel, those that share a label told apart: by settings seldom worth naming, or by a piece of the key."""
    found = []
    for line in lines:
        same = [each for each in lines if each.label == line.label]
        if len(same) > 1:
            named = differences([each.cell.settings for each in same], of_anything)
            own = named[same.index(line)] if len(set(named)) == len(same) else (line.cell.key[-6:],)
            line = replace(line, label=", ".join([line.label, *own]), look=replace(line.look, variant=same.index(line)))
        found.append(line)
    return found


def grouped(cells: Iterable[StoredCell], axis: str) -> dict[str, list[StoredCell]]:
    """Cells by their name on an axis, names by the alphabet."""
    found: dict[str, list[StoredCell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.summary[axis]):
        found.setdefault(cell.summary[axis], []).append(cell)
    return found


def has_curves(cell: StoredCell) -> bool:
    """Whether the cell's curves were kept; a packed store has those of some cells only."""
    return not isinstance(cell.store, Packed) or len(cell.store.load(cell.key, "curves")) > 0


def thinned(panels: Iterable[Panel], wanted: Callable[[StoredCell], bool]) -> list[Panel]:
    """The panels with the lines of some cells only, looks and labels as they were; those without any left out."""
    found = [replace(panel, lines=[line for line in panel.lines if wanted(line.cell)]) for panel in panels]
    return [panel for panel in found if panel.lines]


def rivals(optimizers: Iterable[str]) -> list[str]:
    """The optimizers that one may choose between: not those that are told the answer."""
    from bench.report.costs import ORACLES  # here, as the report's package needs this one

    return [optimizer for optimizer in optimizers if optimizer not in ORACLES]


def with_the_best_optimizer(by_optimizer: Mapping[str, Iterable[Panel]]) -> list[Panel]:
    """One line a parameterization, and settings of it: on each problem the cell of the optimizer that the tuning seeds prefer."""
    lines = [line for optimizer in rivals(by_optimizer) for panel in by_optimizer[optimizer] for line in panel.lines]
    places = {line.cell.summary["parameterization"]: line.look.slot for line in lines}
    study = Study.of(line.cell for line in lines)
    names = {method: method.rpartition(" + ")[0] for method in study.methods}
    variants: dict[str, list[str]] = {}
    for (_, method), cell in sorted(study.cells.items(), key=lambda item: order(item[1].settings, of_method)):
        known = variants.setdefault(cell.summary["parameterization"], [])
        known += [] if names[method] in known else [names[method]]
    found = []
    for problem in study.problems:
        lines = []
        for method in sorted(variants, key=places.__getitem__):
            for variant, name in enumerate(variants[method]):
                same = [each for each in study.methods_on(problem) if names[each] == name]
                if same:
                    cell = study.cells[problem, study.preferred(problem, same)]
                    lines.append(Line(cell, name, Look(places[method], variant)))
        found.append(Panel(problem, lines))
    return found
