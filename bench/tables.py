"""Tables that a sweep ends with."""

from dataclasses import MISSING, Field, fields
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench import catalogue
from bench.stats import median_interval
from bench.store import Store


def cell_table(store: Store, keys: list[str]) -> pd.DataFrame:
    """A row a cell: its names and settings, the chosen rate, and the headline measure on the reporting seeds with its interval."""
    rows = []
    for key in keys:
        summary, lanes = store.summary(key), store.load(key, "lanes")
        reported = lanes.loc[lanes["role"] == "report"]
        measure = "test_rmse" if "final_test_rmse" in lanes else "relative_error"
        values = reported["headline"].to_numpy() if len(reported) else np.array([np.inf])
        median, low, high = median_interval(values)
        steps = reported["steps_to_1e-02"].to_numpy() if len(reported) else np.array([np.inf])
        rows.append(
            {
                "key": key,
                **{axis: summary[axis] for axis in ("problem", "parameterization", "optimizer")},
                "measure": measure,
                "median": median,
                "low": low,
                "high": high,
                "lr": summary["chosen_lr"],
                "bracketed": summary["bracketed"],
                "window_decades": summary["window_decades"],
                "trials": summary["trials"],
                "steps_to_target": float(np.median(steps)),
                "diverged": int((reported["status"] == "diverged").sum()),
                "parameters": summary["parameters"],
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
                ("" if row.bracketed else "edge ") + f"{row.lr:.3g}" if tuned else "none",
                f"{row.window_decades:.1f} dec" if tuned else "none",
                f"{row.steps_to_target:.0f}" if np.isfinite(row.steps_to_target) else "never",
            )
        table.add_section()
    console.print(table)
    console.print(
        "median of the relative error ‖W - M‖/‖M‖, or of the test RMSE in the data's units where data is held out\n"
        "* lowest median    ~ its interval reaches the winner's    edge: the best rate is the last one tried\n"
        "window: learning rates whose score is within 10x of the best    steps to 1 %: until 1 % of the excess loss is left",
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
        lines += [f"## {axis}", "", "| name | what it is | options and their defaults | source |", "|---|---|---|---|"]
        for name, cls in catalogue.entries(axis).items():
            options = ", ".join(f"`{field.name}={default_of(field)!r}`" for field in fields(cls))
            lines.append(f"| `{name}` | {catalogue.summary(cls)} | {options} | {cls.reference} |".replace("|W", "\\|W"))
        lines.append("")
    lines += ["## Pairs that do not go together", ""]
    lines += [
        f"* `optimizer={optimizer}` with `parameterization={name}`: {reason}." for optimizer, name, reason in catalogue.refusals()
    ]
    return "\n".join(lines) + "\n"


def default_of(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
