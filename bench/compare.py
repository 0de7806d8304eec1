"""Two methods, or two folders of results, against each other on the same seeds."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import audit
from bench.packed import opened
from bench.stats import Comparison, Interval, compare, interquartile_mean, log_ratios, median, probability_of_improvement
from bench.store import Store
from bench.stored import StoredCell
from bench.study import SOLVED, Study, reported_costs
from linalg import InputError
from linalg.checks import check_choice

MEASURES = ("remaining", "headline", "final_loss", "steps_to_1e-01", "steps_to_1e-02", "steps_to_1e-04", "steps_to_1e-06")
WORDS = {"better": "better", "worse": "worse", "equal": "equal within 5 %", "inconclusive": "undecided"}


@dataclass(frozen=True)
class Row:
    """One problem: what each side costs, and what their paired seeds say of a against b."""

    problem: str
    sides: tuple[str, str]
    medians: tuple[float, float]
    logs: np.ndarray
    costs: tuple[np.ndarray, np.ndarray]

    @property
    def comparison(self) -> Comparison:
        return compare([self.logs])


def of_methods(study: Study, a: str, b: str, measure: str) -> list[Row]:
    """A row for each problem that both sides ran on.

    Args:
        a, b: a method's whole name, such as `lora + adam`, or the name of a parameterization, which stands for its best optimizer
            on each problem by the tuning seeds.

    Raises:
        InputError: where there is no such method, or where the two never met.
    """
    sides = [matching(study, name) for name in (a, b)]
    rows = []
    for problem in study.problems:
        present = [[method for method in methods if (problem, method) in study.cells] for methods in sides]
        if all(present):
            chosen = [study.preferred(problem, methods) for methods in present]
            rows.append(row_of(problem, (chosen[0], chosen[1]), study.pairs(problem, chosen[0], chosen[1], measure), measure))
    if not rows:
        raise InputError(f"compare {a} {b}: no problem has results of both")
    return rows


def row_of(problem: str, sides: tuple[str, str], costs: tuple[np.ndarray, np.ndarray], measure: str) -> Row:
    logs = log_ratios(*costs, SOLVED.get(measure, 0.0))
    return Row(problem, sides, (float(median(costs[0])), float(median(costs[1]))), logs, costs)


def matching(study: Study, name: str) -> list[str]:
    """The methods of that name, or of that parameterization."""
    found = [method for method in study.methods if method == name]
    found = found or [method for method in study.methods if method.partition(" + ")[0] == name]
    found = found or [method for method in study.methods if method.partition(",")[0].partition(" + ")[0] == name]
    if not found:
        raise InputError(f"{name}: must be a method or a parameterization with results: {'; '.join(study.methods)}")
    return found


def of_folders(before: Store, after: Store, measure: str) -> list[Row]:
    """A row for each cell that both folders have, by its configuration.

    Raises:
        InputError: where they have none in common, or where one's seeds are not the other's.
    """
    found = [by_settings(store) for store in (before, after)]
    common = sorted(set(found[0]) & set(found[1]), key=lambda settings: found[0][settings].key)
    if not common:
        raise InputError(f"compare {before.root} {after.root}: no cell of one has the settings of a cell of the other")
    rows = []
    study = Study.of(found[0][settings] for settings in common)
    names = {cell.key: f"{problem} / {method}" for (problem, method), cell in study.cells.items()}
    for settings in common:
        cells = [each[settings] for each in found]
        first, second = (reported_costs(cell, measure) for cell in cells)
        sides = str(before.root), str(after.root)
        rows.append(row_of(names[cells[0].key], sides, (first.to_numpy(), second.reindex(first.index).to_numpy()), measure))
    return rows


def by_settings(store: Store) -> dict[str, StoredCell]:
    """A store's cells by all their settings, whatever format they were stored in."""
    keys = store.keys()
    return {json.dumps(cell.config, sort_keys=True): cell for cell in (StoredCell(store, key) for key in keys)}


def summary(rows: Sequence[Row], a: str, b: str) -> list[str]:
    """The verdict in words, over all problems."""
    verdicts = [row.comparison.verdict for row in rows]
    counts = ", ".join(f"{WORDS[each]} on {verdicts.count(each)}" for each in WORDS if verdicts.count(each))
    overall = compare([row.logs for row in rows], interquartile_mean, over_problems=len(rows) > 1)
    chance = probability_of_improvement([row.costs[0] for row in rows], [row.costs[1] for row in rows])
    lines = [f"{a} against {b}: {counts}, of {len(rows)}."]
    said = {"better": f"{a} is better", "worse": f"{b} is better", "equal": "they are equal", "inconclusive": "undecided"}
    lines.append(f"Over all: cost ratio {shown(overall.ratio)} (interquartile mean): {said[overall.verdict]}.")
    lines.append(f"A run of {a} beats a run of {b} with probability {shown(chance)}.")
    fewest = min(len(row.logs) for row in rows)
    if fewest < 10:
        lines.append(f"{fewest} reporting seeds are for a look; ten or more (seeds.report=10) for a claim.")
    return lines


def shown(found: Interval) -> str:
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def main(arguments: list[str]) -> int:
    """Compare two methods, or two folders of results, problem by problem on the same seeds."""
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=main.__doc__)
    parser.add_argument(
        "a", metavar="A", help="a method such as 'lora + adam', a parameterization such as lora, or a folder of results"
    )
    parser.add_argument("b", metavar="B", help="the same; the baseline, or what was there before")
    parser.add_argument(
        "--measure", default="remaining", help=f"one of {', '.join(MEASURES)} (default: %(default)s of the excess loss)"
    )
    parser.add_argument("--results", default="results", help="the folder of what is kept (default: %(default)s)")
    parser.add_argument("--sweep", default=None, help="the sweep's name; all if none is given")
    options = parser.parse_args(arguments)
    check_choice("--measure", options.measure, MEASURES)
    folders = [Path(side).is_dir() for side in (options.a, options.b)]
    if all(folders):
        rows = of_folders(opened(options.a), opened(options.b), options.measure)
    else:
        store = opened(options.results)
        keys = store.sweep(options.sweep)[1] if options.sweep else store.keys()
        cells = [StoredCell(store, key) for key in keys]
        audit.check(cells)
        rows = of_methods(Study.of(cells), options.a, options.b, options.measure)
    show(rows, options.a, options.b, options.measure)
    return 0


def show(rows: Sequence[Row], a: str, b: str, measure: str) -> None:
    """Print the table and the verdict."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 130)
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{measure}: medians, and ratio by paired seeds", title_justify="left"
    )
    table.add_column("problem")
    for column in (a, b, "ratio [95 %]", "seeds won, tied, lost"):
        table.add_column(column, justify="right", no_wrap=column not in (a, b))
    table.add_column("verdict")
    for row in rows:
        found = row.comparison
        sides = [
            f"{value:.3g}" + (f" ({side})" if side not in (a, b) else "")
            for value, side in zip(row.medians, row.sides, strict=True)
        ]
        counts = f"{found.wins}, {found.ties}, {found.losses}"
        table.add_row(escape(row.problem), *map(escape, sides), escape(shown(found.ratio)), counts, WORDS[found.verdict])
    console.print(table)
    for line in summary(rows, a, b):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
