"""For each problem the answer in words and numbers: which method, which others are as good, and how careful to be with the rate."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bench.report.costs import FAST, CostTable
from bench.stats import in_window
from bench.stored import StoredCell
from bench.study import remaining_by_rate

LITTLE_CARE, SOME_CARE = 2.0, 1.0  # decades of window from which on a rate needs little, or some care


@dataclass(frozen=True)
class Window:
    """The rates that are good enough, among those tried in tuning.

    Args:
        chosen: the rate that tuning chose; None where every rate diverged.
        low, high: the lowest and the highest rate inside.
        decades: log10 of high over low.
        ratio: of neighbouring rates about the chosen one; 1 where one rate was tried.
        edge: whether the chosen rate is the first or the last one tried, so that a better one may lie beyond.
        open_low, open_high: whether the window ends where the grid does, so that it may reach further.
        holes: rates between low and high that are not inside.
    """

    chosen: float | None
    low: float = np.nan
    high: float = np.nan
    decades: float = 0.0
    ratio: float = 1.0
    edge: bool = False
    open_low: bool = False
    open_high: bool = False
    holes: tuple[float, ...] = ()

    @classmethod
    def of(cls, cell: StoredCell) -> "Window":
        summary, remaining = cell.summary, remaining_by_rate(cell)
        chosen, rates = summary["chosen_lr"], sorted(remaining)
        if chosen is None:
            return cls(None)
        inside = in_window(remaining, chosen) or [chosen]
        near = rates[max(0, rates.index(chosen) - 1) : rates.index(chosen) + 2]
        return cls(
            chosen,
            low=inside[0],
            high=inside[-1],
            decades=float(np.log10(inside[-1] / inside[0])),
            ratio=max((b / a for a, b in pairwise(near)), default=1.0),
            edge=len(rates) > 1 and not summary["bracketed"],
            open_low=inside[0] == rates[0],
            open_high=inside[-1] == rates[-1],
            holes=tuple(rate for rate in rates if inside[0] < rate < inside[-1] and rate not in inside),
        )

    @property
    def care(self) -> str:
        """How careful to be, in one word or two."""
        if self.chosen is None:
            return "no rate works"
        if self.ratio == 1:
            return "unknown"
        return "little care" if self.decades >= LITTLE_CARE else "some care" if self.decades >= SOME_CARE else "much care"

    @property
    def reading(self) -> str:
        """What the window means for somebody who has to choose a rate."""
        if self.chosen is None:
            return "every rate that was tried diverged"
        if self.ratio == 1:
            return f"only one rate was tried, {self.chosen:.3g}"
        if self.low == self.high:
            words = f"only {self.chosen:.3g} will do among the rates tried; its neighbours are a factor of {self.ratio:.2g} away"
        else:
            most = "at least " if self.open_low or self.open_high else ""
            words = f"any rate from {self.low:.3g} to {self.high:.3g} will do, {most}a factor of {factor(self.high / self.low)}"
        if self.holes:
            words += f", but not {', '.join(f'{rate:.3g}' for rate in self.holes)}"
        if self.edge:
            words += "; the best rate is the last one tried, so a better one may lie beyond"
        return words


def factor(ratio: float) -> str:
    """A ratio as one says it: 3.16, 31.6, 10,000."""
    return f"{ratio:.3g}" if ratio < 1000 else f"{round(float(f'{ratio:.3g}')):,}"


def window_record(cell: StoredCell) -> dict[str, Any]:
    window = Window.of(cell)
    return {**asdict(window), "care": window.care, "reading": window.reading}


def answer(table: CostTable, problem: str, windows: dict[str, dict[str, Any]], among: list[str] | None = None) -> dict[str, Any]:
    """The best method of a problem, what is as good on the same seeds, and which of these is the fastest and the most forgiving.

    A method whose median is infinite is not called as good, whatever the pairs say: half of its seeds diverged.

    Args:
        windows: `window_record` by method.
        among: the methods to choose from; all but the oracles if None.
    """
    best = table.best(problem, among=among)
    candidates = [method for method in table.rated(problem) if among is None or method in among]
    if best is None:
        return {"best": None, "candidates": len(candidates)}
    same: list[dict[str, Any]] = []
    worse, unpaired, unreliable = 0, [], []
    for method in candidates:
        if method == best:
            continue
        found = table.comparison(problem, method, best)
        if found is None:
            unpaired.append(method)
        elif found.verdict == "worse":
            worse += 1
        elif not np.isfinite(table.interval(problem, method, "headline").value):
            unreliable.append(method)
        else:
            value = list(table.interval(problem, method, "headline"))
            same.append({"method": method, "ratio": list(found.ratio), "verdict": found.verdict, "value": value})
    equals = [best, *(str(each["method"]) for each in same)]
    fastest = min(equals, key=lambda method: table.interval(problem, method, FAST))
    widest = max(equals, key=lambda method: (windows[method]["decades"], -equals.index(method)))
    return {
        "best": best,
        "value": list(table.interval(problem, best, "headline")),
        "seeds": len(table.costs(problem, best, "headline")),
        "same": same,
        "worse": worse,
        "unpaired": unpaired,
        "unreliable": unreliable,
        "candidates": len(candidates),
        "window": windows[best],
        "fastest": {"method": fastest, "steps": list(table.interval(problem, fastest, FAST))},
        "widest": {"method": widest, **windows[widest]},
    }


def answers(table: CostTable, problem: str, windows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The answer among all methods and, where that one's rank has no bound, among those whose rank has."""
    whole, bounded = answer(table, problem, windows), table.bounded(problem)
    low_rank = whole["best"] is not None and whole["best"] not in bounded and bool(bounded)
    return {"all": whole, "bounded": answer(table, problem, windows, bounded) if low_rank else None}
