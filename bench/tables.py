"""Tables that a sweep ends with."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench import catalogue
from bench.stats import median_interval, window_decades
from bench.store import Store
from bench.stored import StoredCell
from bench.study import Study, remaining_by_rate

TRAINS = (
    "`trains` is how many numbers train for an m x n weight, r being the rank and other names options; where L counts, for the L "
    "layers of a stack together. `lokr` splits m = a b and n = c d; `over_size` is that of the method that `op` is over."
)
KEEPS = (
    "`keeps` is how many numbers stay from step to step beside what trains, for an m x n matrix, or, where a rule takes none "
    "alone, for an m x r and an r x n factor. Counts of steps are left out; `?` is known to the library alone."
)
COUNTS = {"parameterization": (["trains"], ["size"], [TRAINS, ""]), "optimizer": (["keeps"], ["memory"], [KEEPS, ""])}


def cell_table(store: Store, keys: list[str]) -> pd.DataFrame:
    """A row a cell: names with the settings that differ, the chosen rate, and the headline measure on the reporting seeds."""
    study = Study.of(StoredCell(store, key) for key in keys)
    rows = []
    for (problem, method), cell in study.cells.items():
        median, low, high = median_interval(study.costs(problem, method, "headline").to_numpy())
        steps = study.costs(problem, method, "steps_to_1e-02")
        parameterization, _, optimizer = method.partition(" + ")
        chosen = cell.summary["chosen_lr"]
        rows.append(
            {
                "problem": problem,
                "parameterization": parameterization,
                "optimizer": optimizer,
                "median": median,
                "low": low,
                "high": high,
                "lr": chosen,
                "edge": not cell.summary["bracketed"] and cell.summary["trials"] > 1,
                "window_decades": 0.0 if chosen is None else window_decades(remaining_by_rate(cell), chosen),
                "steps_to_target": float(np.median(steps)),
            }
        )
    return pd.DataFrame(rows)


def print_winners(store: Store, keys: list[str], console: Console | None = None) -> None:
    """For each problem the best cell of every parameterization, the winner first, over the optimizers that were swept."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 110)
    cells = cell_table(store, keys)
    table = Table(
        title="Best cell of each parameterization at the learning rate that tuning chose",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("problem / parameterization", no_wrap=True)
    table.add_column("optimizer", no_wrap=True)
    for column in ("median over seeds [95 %]", "rate", "window", "steps to 1 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for problem, group in cells.groupby("problem", sort=False):
        best = group.sort_values(["median", "high"]).drop_duplicates("parameterization")
        lead = best.iloc[0]
        table.add_row(f"[bold]{problem}[/bold]")
        for row in best.itertuples():
            mark = "*" if row.Index == lead.name else "~" if row.low <= lead.high else " "
            tuned = row.lr is not None and np.isfinite(row.lr)
            table.add_row(
                f" {mark} {row.parameterization}",
                row.optimizer,
                f"{row.median:.3g} \\[{row.low:.3g}, {row.high:.3g}]",
                ("edge " if row.edge else "") + f"{row.lr:.3g}" if tuned else "none",
                f"{row.window_decades:.1f} dec" if tuned else "none",
                f"{row.steps_to_target:.0f}" if np.isfinite(row.steps_to_target) else "never",
            )
        table.add_section()
    console.print(table)
    console.print(
        "median of the relative error ‖W - M‖/‖M‖; where data is held out, of the test RMSE in its units;\n"
        "in models, of the test error, the perplexity, the distance of samples, or 100 - ROUGE-L\n"
        "* lowest median    ~ its interval reaches the winner's    edge: the best rate is the last one tried\n"
        "window: rates that leave at most 10x the excess loss that the best leaves, and keep half of its gain\n"
        "steps to 1 %: until 1 % of the excess loss is left",
        style="dim",
    )


def catalogue_page() -> str:
    """docs/catalogue.md: every entry of the three axes with its options and source."""
    lines = [
        "# The catalogue",
        "",
        "Written by `python -m bench list --markdown`; every line comes from a file's own docstring.",
        "",
    ]
    for axis in catalogue.AXES:
        counts, formulas, meaning = COUNTS.get(axis, ([], [], []))
        heads = ["name", "what it is", *counts, "options and their defaults", "source"]
        lines += [f"## {axis}", "", *meaning, f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name, cls in catalogue.entries(axis).items():
            counted = [f"`{getattr(cls, formula) or '?'}`" for formula in formulas]
            options = ", ".join(f"`{field.name}={default_of(field)!r}`" for field in fields(cls))
            cells = [f"`{name}`", catalogue.summary(cls).replace("|", "\\|"), *counted, options, cls.reference]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += ["## What goes with what", "", "Every optimizer trains every parameterization on every problem, but for these:", ""]
    lines += [f"* {line}" for line in exceptions("`")]
    return "\n".join(lines) + "\n"


def exceptions(quote: str = "") -> Iterator[str]:
    """A line for every entry that does not go with all others, and why."""

    def listed(names: list[str]) -> str:
        return ", ".join(f"{quote}{name}{quote}" for name in names) or "none"

    for name, accepted, refused in catalogue.partners():
        reasons = sorted(refused.items(), key=lambda reason: len(reason[1]))  # the commonest last
        few = len(accepted) < len(catalogue.entries("parameterization")) / 2
        named = [f"not {listed(others)}: {reason}" for reason, others in (reasons[:-1] if few else reasons)]
        rest = [f"not others: {reasons[-1][0]}"] if few else []
        trains = f"trains {listed(accepted)}" if few else "trains most"
        yield f"{quote}optimizer={name}{quote} {trains}; {'; '.join(named + rest)}"
    for axis, name, words, problems in catalogue.needs():
        yield f"{quote}{axis}={name}{quote} needs {' and '.join(words)}: {quote}problem{quote} is one of {listed(problems)}"


def default_of(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
