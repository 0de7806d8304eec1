"""Whether stored cells keep the protocol: what is checked before anything is said of them."""

from collections.abc import Iterable

import numpy as np

from bench.cell import best_rate, median_scores
from bench.stored import StoredCell
from linalg import InputError


def faults(cell: StoredCell) -> list[str]:
    """What a cell's tables have that the protocol forbids, in words; empty where all is well."""
    found = []
    seeds, summary = cell.config["seeds"], cell.summary
    tuned, reported = cell.tuned, cell.reported
    if shared := sorted(set(seeds["tune"]) & set(seeds["report"])):
        found.append(f"seeds {shared} both pick the rate and are reported")
    for rate, lanes in tuned.groupby("lr"):
        if sorted(lanes["seed"]) != sorted(seeds["tune"]):
            found.append(f"rate {rate:g} was tuned on seeds {sorted(lanes['seed'])}, not on {sorted(seeds['tune'])}")
    scores = median_scores(tuned)
    chosen = best_rate(scores)
    if not np.isfinite(scores[chosen]):
        if len(reported) or summary["chosen_lr"] is not None:
            found.append("a rate is reported although every rate diverged on the tuning seeds")
    else:
        if summary["chosen_lr"] != chosen:
            found.append(f"rate {summary['chosen_lr']} was chosen, but the tuning seeds' best is {chosen:g}")
        if others := sorted(set(reported["lr"]) - {chosen}):
            found.append(f"rates {others} are reported, but tuning chose {chosen:g}")
        if sorted(reported["seed"]) != sorted(seeds["report"]):
            found.append(f"seeds {sorted(reported['seed'])} are reported, not {sorted(seeds['report'])}")
    for lanes in (tuned, reported):
        failed = lanes.loc[lanes["status"] != "ok"]
        if np.isfinite(failed["score"]).any():
            found.append("a lane that did not end well has a finite score")
        if np.isfinite(failed.loc[failed["status"] == "diverged", "final_loss"]).any():
            found.append("a lane that diverged has a finite loss")
        if lanes["score"].isna().any():
            found.append("a lane has no score")
    return found


def check(cells: Iterable[StoredCell]) -> None:
    """Raise `InputError` with the first cell that breaks the protocol, and how."""
    for cell in cells:
        if found := faults(cell):
            raise InputError(f"{cell.key}: {'; '.join(found)}")
