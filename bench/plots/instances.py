"""What all methods of a sweep ran on, and what each cost there: what a comparison over problems rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.plots.sweep import Line, Panel
from bench.stored import StoredCell
from bench.study import reported_costs
from linalg import InputError

SPEED, DEPTH = "steps_to_1e-02", "remaining"  # how soon, and how far
LEAST_SHARE = 0.5  # of the instances that a comparison of many methods should rest on


@dataclass(frozen=True)
class Instances:
    """Methods, and what all of them ran on.

    Args:
        lines: one of each method, for its label and look.
        problems: their titles.
        costs: by measure and label the costs (k,) of each problem's seeds, in the same order for every method.
        left_out: labels of methods that ran on too few instances.
    """

    lines: list[Line]
    problems: list[str]
    costs: dict[str, dict[str, list[np.ndarray]]]
    left_out: list[str]

    @property
    def counts(self) -> list[int]:
        """Seeds by problem."""
        return [len(each) for each in next(iter(self.costs[SPEED].values()))]

    def all(self, measure: str) -> np.ndarray:
        """(methods, instances) costs."""
        return np.array([np.concatenate(self.costs[measure][line.label]) for line in self.lines])


def lined_up(panels: Sequence[Panel]) -> Instances | None:
    """Methods and the instances, a problem with a reporting seed each, that all of them ran on.

    Methods that ran on the fewest are left out until the rest share `LEAST_SHARE` of all; if they never do, the methods that
    share the most stay. None where no two methods share any.
    """
    lines = {line.label: line for panel in panels for line in panel.lines}
    measured = {(line.label, panel.title): costs_of(line.cell) for panel in panels for line in panel.lines}
    ran = {
        label: {(title, seed) for (own, title), costs in measured.items() if own == label for seed in costs.get(SPEED, {})}
        for label in lines
    }
    every = set().union(*ran.values())
    best: set[tuple[str, int]] = set()
    kept: list[str] = []
    while len(ran) > 1:
        shared = set.intersection(*ran.values())
        if len(shared) > len(best):
            best, kept = shared, list(ran)
        if len(best) >= LEAST_SHARE * len(every):
            break
        fewest = min(map(len, ran.values()))
        ran = {label: own for label, own in ran.items() if len(own) > fewest}
    if not best:
        return None
    titles = dict.fromkeys(panel.title for panel in panels if any(own == panel.title for own, _ in best))
    seeds = {title: sorted(seed for own, seed in best if own == title) for title in titles}
    costs = {
        measure: {
            label: [np.array([measured[label, title][measure][seed] for seed in own]) for title, own in seeds.items()]
            for label in kept
        }
        for measure in (SPEED, DEPTH)
    }
    return Instances([lines[label] for label in kept], list(titles), costs, [label for label in lines if label not in kept])


def costs_of(cell: StoredCell) -> Mapping[str, Mapping[int, float]]:
    """By measure and reporting seed, what was not measured being infinite; nothing where the store is older than a measure."""
    try:
        return {measure: reported_costs(cell, measure).fillna(np.inf).to_dict() for measure in (SPEED, DEPTH)}
    except InputError:
        return {}
