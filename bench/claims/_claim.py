"""What a claim is, what it is settled from, and how a verdict is reached."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from bench import audit
from bench.stats import Comparison, Interval, compare, interval, log_ratios, median
from bench.store import Store
from bench.stored import StoredCell
from bench.study import SOLVED, Study
from linalg import InputError

HOLDS, CONDITION, FAILS, INCONCLUSIVE, NOT_RUN = VERDICTS = (
    "holds",
    "holds with a condition",
    "does not hold",
    "inconclusive",
    "not run",
)
SEEDS = tuple(range(100, 110))  # of what is measured without a sweep


@dataclass(frozen=True)
class Figure:
    """A measured number with its interval, and the lanes or measurements that it is made of.

    Args:
        cells: keys of the stored cells, in the order of the claim's sentence.
        measure: the lanes' column, or the name of what was measured without a sweep.
    """

    name: str
    value: Interval
    seeds: int
    cells: tuple[str, ...] = ()
    measure: str = ""

    def __str__(self) -> str:
        value, low, high = self.value
        return f"{value:.3g} [{low:.3g}, {high:.3g}]"


@dataclass(frozen=True)
class Finding:
    """What came out: a verdict of `VERDICTS`, why in words, and the figures behind it."""

    verdict: str
    said: str
    figures: tuple[Figure, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict!r}: must be one of {', '.join(VERDICTS)}")
        if self.verdict != NOT_RUN and not self.figures:
            raise ValueError("a verdict needs a figure")


@dataclass(frozen=True)
class Claim:
    """A sentence, restated as something this suite can measure.

    Args:
        name: within its file; the claim is called `<file>.<name>`.
        sentence: what is claimed.
        source: where it stands.
        matched: what was equal for all sides, and what was tuned.
        experiments: the sweeps that it is settled from; none where `settle` measures by itself.
        settle: from the evidence to what came out.
        revised: what of the rule or of the settings was changed after results had been seen; empty where nothing was.
    """

    name: str
    sentence: str
    source: str
    matched: str
    experiments: tuple[str, ...]
    settle: Callable[["Evidence"], Finding] = field(repr=False)
    revised: str = ""

    @property
    def scaled(self) -> bool:
        """Whether it takes a study in real models, of hours: such a claim is settled where it is named, or asked for."""
        return any(name.startswith("scaled_") for name in self.experiments)


def claim(
    name: str, sentence: str, *, source: str, matched: str, experiments: str | Sequence[str] = (), revised: str = ""
) -> Callable[[Callable[["Evidence"], Finding]], Claim]:
    """Make a claim of the function that settles it."""
    listed = (experiments,) if isinstance(experiments, str) else tuple(experiments)
    return lambda settle: Claim(name, sentence, source, matched, listed, settle, revised)


@dataclass(eq=False)
class Evidence:
    """What a claim is settled from: finished sweeps, audited, and measurements that it makes; both are written down.

    Args:
        sweeps: cells of the experiments by their name.
    """

    sweeps: Mapping[str, Sequence[StoredCell]]
    measured: dict[tuple[str, int], float] = field(default_factory=dict)
    drawings: dict[str, Drawing] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, experiments: Iterable[str]) -> "Evidence":
        """Raise `InputError` where an experiment has no results, or they break the protocol."""
        sweeps = {}
        for name in experiments:
            keys = store.sweep(name)[1]
            if not keys:
                raise InputError(f"experiment={name}: has no results in {store.root}")
            sweeps[name] = [StoredCell(store, key) for key in keys]
            audit.check(sweeps[name])
        return cls(sweeps)

    @cached_property
    def study(self) -> Study:
        """The cells of all its experiments, lined up."""
        return Study.of({cell.key: cell for cells in self.sweeps.values() for cell in cells}.values())

    def experiment(self, name: str) -> Study:
        """The cells of one of its experiments, lined up."""
        return Study.of(self.sweeps[name])

    def measure(self, name: str, function: Callable[[int], float], seeds: Sequence[int] = SEEDS) -> np.ndarray:
        """(k,) what a function gives for each seed; kept under the name, so that the figure can be traced."""
        values = [float(function(seed)) for seed in seeds]
        self.measured |= {(name, seed): value for seed, value in zip(seeds, values, strict=True)}
        return np.array(values)

    def measured_figure(self, name: str, function: Callable[[int], float], seeds: Sequence[int] = SEEDS) -> Figure:
        """The median of what a function gives for each seed."""
        values = self.measure(name, function, seeds)
        return Figure(name, interval([values]), len(values), measure=name)


def one(study: Study) -> str:
    """The only method of a study; for `Study.where`.

    Raises:
        InputError: where it holds none or several.
    """
    if len(study.methods) != 1:
        raise InputError(f"one method was meant, but there are {', '.join(study.methods) or 'none'}")
    return study.methods[0]


def median_of(study: Study, problem: str, method: str, measure: str, name: str = "") -> Figure:
    """The median over reporting seeds of a lane's column."""
    costs = study.costs(problem, method, measure).to_numpy()
    cell = study.cells[problem, method]
    return Figure(name or f"{method} on {problem}: {measure}", interval([costs]), len(costs), (cell.key,), measure)


def against(
    study: Study, a: str, b: str, problems: Sequence[str], measure: str = "remaining", **options: Any
) -> tuple[Comparison, Figure]:
    """a against b by paired seeds on some problems: the comparison, and its ratio as a figure.

    Args:
        options: of `bench.stats.compare`.
    """
    logs = [log_ratios(*study.pairs(problem, a, b, measure), SOLVED.get(measure, 0.0)) for problem in problems]
    found = compare(logs, **options)
    where = problems[0] if len(problems) == 1 else f"{len(problems)} problems"
    keys = tuple(study.cells[problem, method].key for problem in problems for method in (a, b))
    return found, Figure(f"{measure}, {a} / {b}, on {where}", found.ratio, min(map(len, logs)), keys, measure)


def by_problem(study: Study, a: str, b: str, measure: str = "remaining", claimed: str = "better") -> Finding:
    """Settle `a is better than b` problem by problem: it holds where every problem says so, with a condition where some do, not
    where none does and none is undecided.

    Args:
        claimed: better, worse or equal.
    """
    verdicts: dict[str, str] = {}
    figures = []
    for problem in study.shared([a, b]):
        comparison, figure = against(study, a, b, [problem], measure)
        verdicts[problem] = comparison.verdict
        figures.append(figure)
    return Finding(settled(verdicts, claimed), told(verdicts), tuple(figures))


def settled(verdicts: Mapping[str, str], claimed: str = "better") -> str:
    """The verdict over several problems, or settings."""
    found = list(verdicts.values())
    if all(each == claimed for each in found):
        return HOLDS
    if claimed in found:
        return CONDITION
    return INCONCLUSIVE if "inconclusive" in found else FAILS


def told(verdicts: Mapping[str, str]) -> str:
    """Where it is how."""
    words = {"better": "better", "worse": "worse", "equal": "equal within 5 %", "inconclusive": "undecided"}
    parts = [(said, [where for where, verdict in verdicts.items() if verdict == each]) for each, said in words.items()]
    return "; ".join(f"{said} on {', '.join(where)}" for said, where in parts if where) + "."


def at_most(figure: Figure, bound: float) -> bool | None:
    """Whether a figure's whole interval lies at or below a bound; None where the bound lies within."""
    return True if figure.value.high <= bound else False if figure.value.low > bound else None


def by_bound(figures: Sequence[Figure], bound: float, said: str) -> Finding:
    """Settle `all of these are at most so large`."""
    found = [at_most(figure, bound) for figure in figures]
    verdict = HOLDS if all(found) else FAILS if False in found else INCONCLUSIVE
    return Finding(verdict, said, tuple(figures))


def spread_of(values: Sequence[np.ndarray], name: str, cells: Sequence[str] = (), measure: str = "", **options: Any) -> Figure:
    """A figure of values by problem and seed; their median unless `statistic` says otherwise."""
    return Figure(name, interval(values, options.pop("statistic", median), **options), min(map(len, values)), tuple(cells), measure)


def kept(evidence: Evidence, name: str, values: Iterable[Any], seeds: Sequence[int] | None = None) -> np.ndarray:
    """(k,) what was measured on all seeds at once, `SEEDS` if none are given, written down seed by seed."""
    seeds = SEEDS if seeds is None else seeds
    return evidence.measure(name, dict(zip(seeds, map(float, values), strict=True)).__getitem__, seeds)


def typical(evidence: Evidence, name: str, values: Iterable[Any], seeds: Sequence[int] | None = None) -> Figure:
    """The median over seeds."""
    return spread_of([kept(evidence, name, values, seeds)], name, measure=name)


def worst(evidence: Evidence, name: str, values: Iterable[Any]) -> Figure:
    """The largest over seeds: for what must hold on every one."""
    return spread_of([kept(evidence, name, values)], f"{name}, worst seed", measure=name, statistic=largest)


def largest(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.max(-1))
