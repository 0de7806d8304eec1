"""All problems at once: profiles of steps to a target, and the probability of improvement."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.report.costs import FAST, ORACLES, STEPS, CostTable
from bench.stats import performance_profile, probability_of_improvement, superiority

FACTORS = np.geomspace(1, 1000, 61)
RANKED = ("headline", "remaining", FAST)  # measures with a matrix of superiorities
RESAMPLES = 1000  # of the intervals: forty methods on forty problems, twice
COMMON = "lora + adam"  # the baseline that most papers have
LEAST_SHARE = 0.5  # of the problems that a comparison of many methods should rest on


def across(table: CostTable) -> dict[str, Any]:
    """Profiles and probabilities over the problems that enough methods share."""
    methods, problems = lined_up(table)
    left_out = [
        {"method": method, "problems": sum(each == method for _, each in table.study.cells)}
        for method in table.study.methods
        if method not in methods
    ]
    base = {"methods": methods, "problems": problems, "left_out": left_out}
    if len(methods) < 2 or not problems:
        return {**base, "profiles": None, "improvement": None}
    return {**base, "profiles": profiles(table, methods, problems), "improvement": improvement(table, methods, problems)}


def lined_up(table: CostTable) -> tuple[list[str], list[str]]:
    """Methods, and the problems that all of them ran on with the same seeds.

    Methods that ran on the fewest problems are left out until the rest share at least `LEAST_SHARE` of the problems.
    """
    study = table.study
    oracles = {method for (_, method), cell in study.cells.items() if cell.summary["optimizer"] in ORACLES}
    methods = [method for method in study.methods if method not in oracles]
    counts = {method: sum(each == method for _, each in study.cells) for method in methods}
    while methods:
        shared = [problem for problem in study.shared(methods) if same_seeds(table, problem, methods)]
        fewest = min(counts[method] for method in methods)
        if len(shared) >= max(1, LEAST_SHARE * len(study.problems)) or fewest == max(counts[method] for method in methods):
            return methods, shared
        methods = [method for method in methods if counts[method] > fewest]
    return [], []


def same_seeds(table: CostTable, problem: str, methods: Sequence[str]) -> bool:
    return len({tuple(table.seeds(problem, method)) for method in methods}) == 1


def profiles(table: CostTable, methods: Sequence[str], problems: Sequence[str]) -> dict[str, Any]:
    """By target, each method's share of instances (a problem with a seed) within each factor of the fewest steps."""
    found = {}
    for measure in STEPS:
        costs = np.array([np.concatenate([table.costs(problem, method, measure) for problem in problems]) for method in methods])
        found[measure] = {
            "shares": performance_profile(costs, FACTORS).tolist(),
            "instances": costs.shape[1],
            "solved": int(np.isfinite(costs).any(0).sum()),
        }
    return {"factors": FACTORS.tolist(), "targets": found}


def improvement(table: CostTable, methods: Sequence[str], problems: Sequence[str]) -> dict[str, Any]:
    """By measure, the mean `superiority` over problems of each method over each other; with intervals beside two baselines.

    The best overall is the method of the highest mean superiority over the others.
    """
    found: dict[str, Any] = {}
    for measure in RANKED:
        costs = [[table.costs(problem, method, measure) for problem in problems] for method in methods]
        matrix = np.full((len(methods), len(methods)), 0.5)
        for i, a in enumerate(costs):
            for j, b in enumerate(costs[:i]):
                matrix[i, j] = np.mean([superiority(x, y) for x, y in zip(a, b, strict=True)])
                matrix[j, i] = 1 - matrix[i, j]
        means = (matrix.sum(1) - 0.5) / (len(methods) - 1)
        best = int(means.argmax())
        intervals = {}
        if measure == "headline":
            baselines = dict.fromkeys([best, *(i for i, method in enumerate(methods) if method == COMMON)])
            for j in baselines:
                intervals[methods[j]] = [
                    [0.5] * 3 if i == j else list(probability_of_improvement(costs[i], costs[j], RESAMPLES))
                    for i in range(len(methods))
                ]
        found[measure] = {"matrix": matrix.tolist(), "means": means.tolist(), "best": methods[best], "intervals": intervals}
    return found
