"""What the charts of a problem draw: medians and quantiles over seeds, worked out here, never on the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.plots.axes import ROOM, SMALLEST, fit_view
from bench.plots.sensitivity import scores
from bench.plots.spectra import FEWEST, spectrum
from bench.stats import in_window, quantiles
from bench.stored import StoredCell
from bench.study import remaining_by_rate

KEYS = ("role", "lane", "lr", "seed", "step")
WORDS = {
    "loss": "training loss",
    "relative_error": "relative error ‖W − M‖ / ‖M‖",
    "validation_rmse": "validation RMSE",
    "test_rmse": "test RMSE",
    "batch_loss": "loss of the steps' own batches",
    "validation_loss": "validation loss",
    "validation_error": "validation error",
    "test_loss": "test loss",
    "test_error": "test error",
    "test_perplexity": "test perplexity",
    "mmd": "distance of samples, MMD",
    "rouge_l_shortfall": "100 - ROUGE-L",
    "gradient_norm": "norm of the gradient",
    "step_length": "length of a step ‖ΔW‖",
    "condition_product": "condition of the update, σ1 / σr",
    "condition_factors": "condition of the worst factor, σ1 / σr",
    "condition_gauss_newton": "condition of the Gauss-Newton map on its range",
    "rank": "numerical rank of W",
    "effective_rank": "effective rank of W",
    "stable_rank": "stable rank of W",
    "angle_left": "angle to the target's left subspace, radians",
    "angle_right": "angle to the target's right subspace, radians",
}
IN_MODELS = {  # of all layers' updates
    "condition_product": "condition of the worst layer's update, σ1 / σr",
    "update_rank": "ranks of the updates, summed over layers",
    "effective_rank": "effective ranks of the updates, summed over layers",
    "stable_rank": "stable ranks of the updates, summed over layers",
}
LINEAR = (
    "update_rank",
    "mmd",
    "validation_error",
    "test_error",
    "rank",
    "effective_rank",
    "stable_rank",
    "angle_left",
    "angle_right",
)

Curve = dict[str, Any]


def is_probe(name: str) -> bool:
    """Whether a column tells of the run's state, not of how far it got: over the seeds where it is defined."""
    return name.startswith(("condition", "angle")) or name.endswith("rank") or name in ("gradient_norm", "step_length")


def words(name: str, in_model: bool = False) -> str:
    """A column's name for a reader."""
    prefix = "condition_factor_"
    return (
        (IN_MODELS.get(name) if in_model else None)
        or WORDS.get(name)
        or (f"condition of factor {name.removeprefix(prefix)}" if name.startswith(prefix) else name.replace("_", " "))
    )


def curves_of(cell: StoredCell) -> dict[str, Curve]:
    """By column of `curves`, the steps `x` with the median `m` and the quartiles `l` and `h` over the reporting seeds.

    Where a seed has diverged, what tells how far it got is infinite; steps that only some seeds reached before a timeout are
    left out of such a column, because a median over fewer seeds is another population's.
    """
    table = cell.store.load(cell.key, "curves")
    if not len(table):  # a packed store keeps those of few cells
        return {}
    table = table.loc[table["role"] == "report"]
    names = [name for name in table if name not in KEYS]
    if not len(table):
        return {}
    steps, j = np.unique(table["step"].to_numpy(dtype=float), return_inverse=True)
    lanes, i = np.unique(table["lane"].to_numpy(), return_inverse=True)
    wide = np.full((len(lanes), len(steps), len(names)), np.nan)
    wide[i, j] = table[names].to_numpy(dtype=float)
    lost = np.isposinf(wide[:, :, names.index("loss")])
    for column, name in enumerate(names):
        values = wide[:, :, column]
        if not is_probe(name) and not np.isnan(values).all():
            values[lost] = np.inf
            values[:, np.isnan(values).any(0)] = np.nan
    low, middle, high = quantiles(wide, 0.25, 0.5, 0.75)
    found = {}
    for column, name in enumerate(names):
        kept = ~np.isnan(middle[:, column])
        if kept.any():
            found[name] = curve(steps[kept], *(each[kept, column] for each in (low, middle, high)))
    return found


def curve(x: np.ndarray, low: np.ndarray, middle: np.ndarray, high: np.ndarray) -> Curve:
    """A line with its band, the band left out where it has no width."""
    line = {"x": x.tolist(), "m": middle.tolist()}
    return line if (low == middle).all() and (high == middle).all() else {**line, "l": low.tolist(), "h": high.tolist()}


def divergence(cell: StoredCell) -> dict[str, Any]:
    """The reporting seeds that diverged: how many of how many, and the first probed steps at which they had."""
    lanes = cell.reported
    at = lanes.loc[lanes["status"] == "diverged", "diverged_at"]
    return {"seeds": len(lanes), "diverged": len(at), "at": sorted(at.dropna().tolist())}


def quantities(drawn: Sequence[dict[str, Curve]]) -> list[dict[str, Any]]:
    """What can be chosen to draw, with its words, whether its axis is logarithmic, and the range that shows most of it."""
    found, in_model = [], any("update_rank" in each for each in drawn)
    for name in dict.fromkeys(name for each in drawn for name in each):
        curves = [each[name] for each in drawn if name in each]
        starts = [] if is_probe(name) else [each["m"][0] for each in curves if np.isfinite(each["m"][0])]
        room = (np.inf, 1e12) if is_probe(name) else (ROOM, np.inf)
        fitted = view(curves, max(starts, default=np.inf), room)
        found.append({"id": name, "words": words(name, in_model), "log": name not in LINEAR, "view": fitted})
    return found


def view(curves: Sequence[Curve], start: float = np.inf, room: tuple[float, float] = (ROOM, np.inf)) -> list[float] | None:
    """The range of a logarithmic axis that no single line can spoil, as in the figures; None where there is nothing to show."""
    edges = ((each.get("l", each["m"]), each["m"], each.get("h", each["m"])) for each in curves)
    bands = [tuple(np.maximum(np.asarray(edge, dtype=float), SMALLEST) for edge in band) for band in edges]
    found = fit_view([(low, middle, high) for low, middle, high in bands], start or np.inf, room=room)
    return list(found) if found else None


def sensitivity_of(cell: StoredCell) -> dict[str, Any]:
    """By rate, on the tuning seeds: the median and the range of the score, the share that diverged, what is in the window."""
    rates, values = scores(cell)
    low, middle, high = quantiles(values, 0, 0.5, 1)
    remaining = remaining_by_rate(cell)
    chosen = cell.summary["chosen_lr"]
    inside = in_window(remaining, chosen) if chosen is not None else []
    return {
        **curve(rates, low, middle, high),
        "diverged": np.isinf(values).mean(0).tolist(),
        "inside": [rate in inside for rate in rates.tolist()],
        "seeds": len(values),
    }


def spectrum_of(cell: StoredCell, column: str) -> Curve | None:
    """Singular values of the final update (`value`) or of what it should be (`target`), the leading ones; None without any."""
    index, values = spectrum(cell, column)
    if not len(index) or np.isnan(values).all():
        return None
    count = max(FEWEST, 2 * (cell.settings.get("parameterization.rank") or 0))
    shown = slice(None, len(index) if len(index) <= 1.25 * count else count)
    low, middle, high = quantiles(values[:, shown], 0.25, 0.5, 0.75)
    return curve(index[shown], low, middle, high)
