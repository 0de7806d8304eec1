"""Finished cells lined up as problems by methods, seeds paired: what tables, reports and claims are made of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bench import stats
from bench.cell import best_rate, median_scores
from bench.labels import QUIET, differences, of_problem, short, written
from bench.stored import StoredCell
from linalg import InputError

SOLVED = {"remaining": stats.SOLVED, "headline": stats.SOLVED**0.5}  # costs below these are the same


@dataclass(frozen=True)
class Study:
    """Cells by problem and method; a method is a parameterization and an optimizer, both with the settings that differ.

    A setting of the run, such as `steps`, is part of a method's name only where one problem has several values of it.
    """

    cells: Mapping[tuple[str, str], StoredCell]

    @classmethod
    def of(cls, cells: Iterable[StoredCell]) -> "Study":
        """Name the cells; those that still share both names are told apart by a piece of their key."""
        listed = sorted(cells, key=lambda cell: cell.key)
        problems = named(listed, "problem", of_problem)
        within_problem = [path for path in run_settings(listed) if varies(listed, problems, path)]
        methods = [
            " + ".join(pair)
            for pair in zip(
                named(listed, "parameterization", lambda path: path.startswith("parameterization.") or path in within_problem),
                named(listed, "optimizer", lambda path: path.startswith("optimizer.")),
                strict=True,
            )
        ]
        places = list(zip(problems, methods, strict=True))
        twice = {place for place in places if places.count(place) > 1} if len(set(places)) < len(places) else set()
        names = [
            (problem, f"{method}, {cell.key[-6:]}" if (problem, method) in twice else method)
            for cell, (problem, method) in zip(listed, places, strict=True)
        ]
        return cls(dict(sorted(zip(names, listed, strict=True), key=lambda item: item[0])))

    @cached_property
    def problems(self) -> list[str]:
        return list(dict.fromkeys(problem for problem, _ in self.cells))

    @cached_property
    def methods(self) -> list[str]:
        return sorted({method for _, method in self.cells})

    def methods_on(self, problem: str) -> list[str]:
        return [method for method in self.methods if (problem, method) in self.cells]

    def shared(self, methods: Sequence[str]) -> list[str]:
        """The problems that all of these methods ran on."""
        return [problem for problem in self.problems if all((problem, method) in self.cells for method in methods)]

    def where(self, **settings: Any) -> "Study":
        """The cells whose names and settings are these, with the names that they have here.

        Args:
            settings: problem, parameterization or optimizer by name, and any setting by its path with two underscores for a dot,
                such as parameterization__rank=4 or lr__count=9.
        """
        wanted = {path.replace("__", "."): value for path, value in settings.items()}

        def fits(cell: StoredCell) -> bool:
            return all(cell.summary.get(path, cell.settings.get(path)) == value for path, value in wanted.items())

        return Study({place: cell for place, cell in self.cells.items() if fits(cell)})

    def preferred(self, problem: str, methods: Iterable[str]) -> str:
        """Of several methods the one that the tuning seeds prefer at its best rate; the first by name of those that tie.

        Raises:
            InputError: where none of them ran on the problem.
        """
        scores = {method: tuned_score(self.cells[problem, method]) for method in sorted(methods) if (problem, method) in self.cells}
        if not scores:
            raise InputError(f"problem={problem}: none of these methods ran on it")
        return min(scores, key=scores.__getitem__)

    def costs(self, problem: str, method: str, measure: str = "remaining") -> pd.Series:
        """A column of the reporting lanes by seed, infinite where a seed diverged or no rate was found to report.

        Args:
            measure: a column of `lanes`, such as remaining, headline, final_loss or steps_to_1e-02.

        Raises:
            InputError: where the cell lacks the measure.
        """
        cell = self.cells[problem, method]
        return reported_costs(cell, measure)

    def pairs(self, problem: str, a: str, b: str, measure: str = "remaining") -> tuple[np.ndarray, np.ndarray]:
        """(k,) costs of two methods on the same seeds.

        Raises:
            InputError: where their reporting seeds differ: such costs have no pairs.
        """
        first, second = (self.costs(problem, method, measure) for method in (a, b))
        if list(first.index) != list(second.index):
            raise InputError(
                f"seeds.report: {a} ran on {list(first.index)} of {problem}, {b} on {list(second.index)}; pairs need the same"
            )
        return first.to_numpy(), second.to_numpy()


def reported_costs(cell: StoredCell, measure: str) -> pd.Series:
    """What `Study.costs` gives, of one cell."""
    if measure not in cell.lanes:
        raise InputError(f"measure={measure!r}: must be one of {', '.join(cell.lanes.columns)}")
    seeds = sorted(cell.config["seeds"]["report"])
    costs = cell.reported.set_index("seed")[measure].astype(float).reindex(seeds, fill_value=np.inf)
    return costs.clip(lower=SOLVED.get(measure, -np.inf))


def remaining_by_rate(cell: StoredCell) -> dict[float, float]:
    """The median share of the excess loss that each rate leaves on the tuning seeds."""
    lanes = cell.tuned
    return {float(rate): float(left) for rate, left in lanes["remaining"].groupby(lanes["lr"]).median().items()}


def tuned_score(cell: StoredCell) -> float:
    """The median score on the tuning seeds at the best rate: what a choice between methods may go by."""
    scores = median_scores(cell.tuned)
    return scores[best_rate(scores)]


def named(cells: Sequence[StoredCell], axis: str, wanted: Callable[[str], bool]) -> list[str]:
    """The name of each cell on an axis, with the settings in which cells of that name differ."""
    names = [cell.summary[axis] for cell in cells]
    labels = list(names)
    for name in set(names):
        group = [i for i, each in enumerate(names) if each == name]
        for i, own in zip(group, differences([cells[i].settings for i in group], wanted), strict=True):
            labels[i] = ", ".join([name, *own])
    return labels


def run_settings(cells: Sequence[StoredCell]) -> list[str]:
    """Paths of what is neither the problem's nor the parameterization's nor the optimizer's; seeds are nobody's settings."""
    paths = dict.fromkeys(path for cell in cells for path in cell.settings)
    return [path for path in paths if path not in QUIET and short(path) == path and not path.startswith("seeds.")]


def varies(cells: Sequence[StoredCell], problems: Sequence[str], path: str) -> bool:
    """Whether cells of one problem have several values of a setting."""
    values: dict[str, set[str]] = {}
    for cell, problem in zip(cells, problems, strict=True):
        values.setdefault(problem, set()).add(written(path, cell.settings.get(path)))
    return any(len(found) > 1 for found in values.values())
