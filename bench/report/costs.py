"""What every cell cost, by seed, with intervals and with what paired seeds say of it beside the best."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bench.runs import TARGETS
from bench.stats import Comparison, Interval, compare, log_ratios, median_interval
from bench.stored import StoredCell
from bench.study import SOLVED, Study
from linalg import InputError

STEPS = tuple(f"steps_to_{fraction:.0e}" for fraction in TARGETS)
MEASURES = ("headline", "remaining", *STEPS)
FAST = "steps_to_1e-02"  # what tells methods apart that get equally far
COMPARED = ("headline", "remaining", FAST)  # measures in which methods are compared seed by seed
ORACLES = ("svd_oracle",)  # optimizers that are told the answer: shown, but never the method to use
UNBOUNDED = 2**30

Costs = dict[str, np.ndarray]  # by measure, (k,) in the order of the reporting seeds


@dataclass(eq=False)
class CostTable:
    """The costs of a study's cells, read once.

    They are those of `Study.costs`, a measure that a cell lacks being infinite; there they are read measure by measure, which
    takes a minute where a sweep has 1600 cells.
    """

    study: Study
    _intervals: dict[tuple[str, ...], Interval] = field(default_factory=dict)
    _comparisons: dict[tuple[str, ...], Comparison | None] = field(default_factory=dict)

    @cached_property
    def by_cell(self) -> dict[tuple[str, str], Costs]:
        return {place: costs_of(cell) for place, cell in self.study.cells.items()}

    def costs(self, problem: str, method: str, measure: str) -> np.ndarray:
        return self.by_cell[problem, method][measure]

    def seeds(self, problem: str, method: str) -> list[int]:
        return sorted(self.study.cells[problem, method].config["seeds"]["report"])

    def interval(self, problem: str, method: str, measure: str) -> Interval:
        place = (problem, method, measure)
        if place not in self._intervals:
            values = self.costs(*place)
            alike = (values == values[0]).all()  # every resample has this median
            self._intervals[place] = Interval(*[float(values[0])] * 3) if alike else median_interval(values)
        return self._intervals[place]

    def comparison(self, problem: str, a: str, b: str, measure: str = "headline") -> Comparison | None:
        """`compare` of a against b on one problem; None where their reporting seeds differ: such costs have no pairs."""
        place = (problem, a, b, measure)
        if place not in self._comparisons:
            paired = self.seeds(problem, a) == self.seeds(problem, b)
            costs = [self.costs(problem, method, measure) for method in (a, b)]
            self._comparisons[place] = compare([log_ratios(*costs)]) if paired else None
        return self._comparisons[place]

    def rated(self, problem: str, measure: str = "headline") -> list[str]:
        """A problem's methods, no oracles: lowest median first, then lowest upper end of the interval, then fewest steps."""

        def place(method: str) -> tuple[float, float, float, str]:
            value, _, high = self.interval(problem, method, measure)
            return value, high, float(self.interval(problem, method, FAST).value), method

        return sorted((method for method in self.study.methods_on(problem) if not oracle(self.study, problem, method)), key=place)

    def best(self, problem: str, measure: str = "headline", among: Sequence[str] | None = None) -> str | None:
        """The first of `rated`, or of those of them that are `among`; None where all diverged, or never got there."""
        rated = [method for method in self.rated(problem, measure) if among is None or method in among]
        return rated[0] if rated and np.isfinite(self.interval(problem, rated[0], measure).value) else None

    def bounded(self, problem: str) -> list[str]:
        """The methods whose weights have a bounded rank, oracles left out."""
        cells = self.study.cells
        found = [method for method in self.study.methods_on(problem) if rank_is_bounded(cells[problem, method])]
        return [method for method in found if not oracle(self.study, problem, method)]

    def verdict(self, problem: str, method: str, measure: str, best: str | None) -> str:
        """What paired seeds say of a method beside the best one: best, better, worse, equal, inconclusive; or unpaired."""
        if best is None:
            return "none"
        if method == best:
            return "best"
        found = self.comparison(problem, method, best, measure)
        return found.verdict if found else "unpaired"


def costs_of(cell: StoredCell) -> Costs:
    """By measure, what `Study.costs` gives."""
    seeds = sorted(cell.config["seeds"]["report"])
    reported = cell.reported
    place = {seed: i for i, seed in enumerate(seeds)}
    rows = [place[seed] for seed in reported["seed"].tolist()] if len(reported) else []
    found = {}
    for measure in MEASURES:
        values = np.full(len(seeds), np.inf)
        if len(rows) and measure in reported:
            values[rows] = reported[measure].to_numpy(dtype=float)
        values = np.where(np.isnan(values), np.inf, values)  # what was not measured did not get there
        found[measure] = np.maximum(values, SOLVED.get(measure, -np.inf))
    return found


def oracle(study: Study, problem: str, method: str) -> bool:
    return study.cells[problem, method].summary["optimizer"] in ORACLES


def rank_is_bounded(cell: StoredCell) -> bool:
    """Whether the parameterization keeps the update's rank below what a large enough matrix could have."""
    from bench.config import rebuilt

    try:
        return rebuilt(cell.config).parameterization.reach((UNBOUNDED, UNBOUNDED)) < UNBOUNDED
    except (ImportError, InputError, TypeError, ValueError):  # a class from elsewhere that this machine lacks
        return cell.summary["parameterization"] != "full"
