"""Tables that a sweep ends with."""

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

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
        console.width = max(console.width, 116)
    cells = cell_table(store, keys)
    table = Table(title="Best cell of each parameterization: median over reporting seeds [95 % interval] at the rate that tuning chose")
    for column in ("problem, measure", "parameterization", "optimizer", "median [interval]", "rate", "window", "steps to 1 %"):
        table.add_column(column, justify="right" if column in ("median [interval]", "rate", "window", "steps to 1 %") else "left", no_wrap=True)
    for problem, group in cells.groupby("problem", sort=False):
        best = group.sort_values(["median", "high"]).drop_duplicates("parameterization")
        lead = best.iloc[0]
        for row in best.itertuples():
            ties = row.Index != lead.name and row.low <= lead.high
            winner = row.Index == lead.name
            name = row.parameterization + (" *" if winner else " ~" if ties else "")
            rate = "none" if row.lr is None or not np.isfinite(row.lr) else f"{row.lr:.3g}" + ("" if row.bracketed else " (edge)")
            table.add_row(
                f"{problem}, {row.measure}" if winner else "",
                name,
                row.optimizer,
                f"{row.median:.3g} [{row.low:.3g}, {row.high:.3g}]",
                rate,
                f"{row.window_decades:.1f} dec",
                "never" if not np.isfinite(row.steps_to_target) else f"{row.steps_to_target:.0f}",
                style="bold" if winner else None,
            )
        table.add_section()
    console.print(table)
    console.print(
        "* lowest median   ~ interval reaches the winner's   (edge): the best rate lies on the grid's edge\n"
        "window: decades of learning rates whose tuning score is within 10x of the best   steps to 1 %: until the excess loss is 1 % of the start's"
    )

