"""Runs one method on one problem over learning rates and seeds, and lays the result out as tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.blocks import block_bytes, cut_blocks, working_set
from bench.catalogue import check_cell
from bench.engine import Advance, Block, BlockResult, Settings
from bench.probes import LEVELS
from linalg import InputError
from linalg.checks import check, check_choice, check_integer, check_number
from optimizers import Optimizer, check_schedule
from parameterizations import Parameterization
from problems import FineTuning, Instance, Problem, Task

DTYPES = {"float32": torch.float32, "float64": torch.float64}
COSTS = ("parameters", "state_bytes", "gradient_bytes", "model_bytes", "peak_bytes")
TARGETS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)  # fractions of the excess loss that steps-to-target is given for


@dataclass
class Run:
    """What lanes left behind.

    Args:
        curves: a row for each lane and probed step: lane, lr, seed, step, loss, relative_error, and the probes.
        lanes: a row a lane: lane, lr, seed, status, initial_loss, final_loss, best_loss, score, the instance's measures at
            the end, steps_to_<fraction> (infinite where the target was not reached).
        spectra: a row for each lane and singular value of its update, at the end and, with all probes, on about ten steps
            on the way, with the truth's beside it.
        pictures: a row a picture, of the first lane, where the problem has any: lane, lr, seed, set, index, png.
        seconds: wall time of the steps and of the probes.
        cost: trainable parameters and bytes of optimizer state of one lane; in a model, of gradients, the model and a step, too.
    """

    curves: pd.DataFrame
    lanes: pd.DataFrame
    spectra: pd.DataFrame
    seconds: dict[str, float]
    cost: dict[str, int]
    pictures: pd.DataFrame = field(default_factory=pd.DataFrame)


def run(
    problem: Problem,
    parameterization: Parameterization,
    optimizer: Optimizer,
    *,
    lr: float | Sequence[float],
    seeds: int | Sequence[int] = (0,),
    steps: int = 500,
    schedule: str = "constant",
    warmup: int = 0,
    dtype: torch.dtype | str | None = None,
    device: str = "cpu",
    probes: str = "basic",
    timeout: float | None = None,
    progress: Advance | None = None,
    keep: Path | None = None,
    tuning: bool = False,
) -> Run:
    """Run every learning rate on every seed.

    Args:
        lr: one learning rate or several.
        seeds: which seeds, or how many (0, 1, ...).
        steps: updates a lane.
        schedule, warmup: constant, linear or cosine; steps of linear warm-up.
        dtype: float32 or float64; the problem's own if None.
        device: where the lanes run.
        probes: none, basic or all.
        timeout: seconds for all lanes, shared out equally; those that run out stop where they are and are marked `timeout`.
        progress: told the lane-steps done since the last call.
        tuning: whether a learning rate is chosen by these lanes; lanes of a model leave their tests out then.
        keep: a folder where lanes of a model checkpoint, and from which they go on; others take seconds, and start again.

    Raises:
        InputError: where an argument is out of range or the three do not go together.
    """
    rates = [float(rate) for rate in np.atleast_1d(np.asarray(lr, dtype=float))]
    check(len(rates) > 0, "lr", lr, "at least one learning rate")
    for rate in rates:
        check_number("lr", rate, above=0)
    seeds = list(seeds) if isinstance(seeds, Sequence) else list(range(int(seeds)))
    check(len(seeds) > 0, "seeds", seeds, "at least one seed")
    for seed in seeds:
        check_integer("seeds", seed, least=0)
    check(len(set(seeds)) == len(seeds), "seeds", seeds, "different from each other")
    check_schedule(schedule, steps, warmup)
    check_choice("probes", probes, LEVELS)
    if timeout is not None:
        check_number("timeout", timeout, above=0)
    check_cell(problem, optimizer, parameterization)
    settings = Settings(steps, schedule, warmup, as_dtype(dtype) or problem.dtype, as_device(device), probes, tuning)
    if isinstance(problem, FineTuning):
        problem.require()
        from bench.model_runs import run_lanes  # it brings what adapters need, which others do without

        found, kind = run_lanes(
            problem,
            parameterization,
            optimizer,
            seeds=seeds,
            rates=rates,
            settings=settings,
            timeout=timeout,
            progress=progress,
            keep=keep,
        )
        return tabulate(found, [kind] * len(seeds), seeds, rates, [None] * len(seeds), settings.dtype)
    instances = [problem.draw(seed, dtype=settings.dtype, device=settings.device) for seed in seeds]
    lane, seed = working_set(instances[0], parameterization, optimizer, settings)
    results: list[tuple[slice, slice, BlockResult]] = []
    for by_seed, by_rate in cut_blocks(len(seeds), len(rates), lane, block_bytes(settings.device), seed):
        lanes = (by_seed.stop - by_seed.start) * (by_rate.stop - by_rate.start)
        share = None if timeout is None else timeout * lanes / (len(seeds) * len(rates))
        block = Block(instances[by_seed], parameterization, optimizer, seeds[by_seed], rates[by_rate], settings, share)
        results.append((by_seed, by_rate, block.run()))
        if progress is not None:
            progress(lanes * steps)
    floors = [instance.best(parameterization.reach(instance.shape)) for instance in instances]
    return tabulate(results, instances, seeds, rates, floors, settings.dtype)


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if isinstance(dtype, torch.dtype):
        check_choice("dtype", dtype, DTYPES.values())
        return dtype
    if dtype is None:
        return None
    check_choice("dtype", dtype, DTYPES)
    return DTYPES[dtype]


def as_device(device: str) -> str:
    """The device's name, once a tensor could be made there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={device!r}: cannot be used ({str(error).splitlines()[0]})") from error
    return str(device)


def tabulate(
    results: list[tuple[slice, slice, BlockResult]],
    instances: Sequence[Instance | type[Task]],
    seeds: Sequence[int],
    rates: Sequence[float],
    floors: Sequence[float | None],
    dtype: torch.dtype,
) -> Run:
    """Blocks to tables, lanes numbered by seed, then rate."""
    curves, spectra = [], []
    pictures: list[dict[str, object]] = []
    lanes: list[dict[str, object]] = []
    for by_seed, by_rate, result in results:
        steps = np.array(result.steps)
        numbers = np.arange(len(seeds))[by_seed, None] * len(rates) + np.arange(len(rates))[by_rate]
        keys = {"lane": numbers, "lr": np.broadcast_to(rates[by_rate], numbers.shape), "seed": np.array(seeds)[by_seed, None]}
        values = {name: curve.permute(1, 2, 0).numpy() for name, curve in result.curves.items()}  # (seeds, rates, steps)
        curves.append(columns(keys, {"step": steps, **values}))
        for i, j in np.ndindex(*numbers.shape):
            seed = by_seed.start + i
            own = {"step": steps, **{name: value[i, j] for name, value in values.items()}}
            row = summarize(own, result.status[i][j], instances[seed], floors[seed], dtype)
            lane = {"lane": int(numbers[i, j]), "lr": rates[by_rate][j], "seed": seeds[seed]}
            lanes.append({**lane, **row})
            for name, images in result.pictures.items():
                pictures += [{**lane, "set": name, "index": place, "png": image} for place, image in enumerate(images)]
        for step, singular in result.spectra.items():
            truth = [instance.spectrum for instance in instances[by_seed]]
            length = singular.shape[-1]
            none = np.full(length, np.nan)
            target = np.stack([none if each is None else each.cpu().numpy()[:length] for each in truth])[:, None]
            spectra.append(
                columns(keys, {"step": step, "index": np.arange(1, length + 1), "value": singular.numpy(), "target": target})
            )
    first = results[0][2]
    return Run(
        curves=joined(curves, ["lane", "step"]),
        lanes=pd.DataFrame(lanes).sort_values("lane").reset_index(drop=True),
        spectra=joined(spectra, ["lane", "step", "index"]) if spectra else pd.DataFrame(),
        seconds={
            "steps": sum(result.step_seconds for *_, result in results),
            "probes": sum(result.probe_seconds for *_, result in results),
        },
        cost={name: number for name in COSTS if (number := getattr(first, name)) is not None},
        pictures=pd.DataFrame(pictures),
    )


def columns(keys: dict[str, np.ndarray], values: dict[str, Any]) -> dict[str, np.ndarray]:
    """A table's columns from keys (seeds, rates) and values that broadcast to (seeds, rates, p), one row an entry."""
    wide = {name: key[..., None] for name, key in keys.items()} | values
    shape = np.broadcast_shapes(*(np.shape(value) for value in wide.values()))
    return {name: np.broadcast_to(value, shape).ravel() for name, value in wide.items()}


def joined(tables: list[dict[str, np.ndarray]], order: list[str]) -> pd.DataFrame:
    """One table of several, sorted; a column that some lack is NaN there."""
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [len(next(iter(table.values()))) for table in tables]
    whole = {
        name: np.concatenate([table.get(name, np.full(count, np.nan)) for table, count in zip(tables, rows, strict=True)])
        for name in names
    }
    sorting = np.lexsort([whole[name] for name in reversed(order)])
    return pd.DataFrame({name: column[sorting] for name, column in whole.items()})


def summarize(
    curve: dict[str, np.ndarray], status: str, instance: Instance | type[Task], floor: float | None, dtype: torch.dtype
) -> dict[str, object]:
    """A lane's row, from its values (p,) by name on the p probed steps.

    Its score is the selection measure at the end, or at its lowest along the run where that is a validation error; two
    scores below `resolution` are the same. A lane that ran out of time has none.
    """
    curve = {name: values[~np.isnan(curve["loss"])] for name, values in curve.items()}  # where it was measured
    steps, loss, selected = curve["step"], curve["loss"], curve[instance.selection]
    measured = np.flatnonzero(~np.isnan(loss))
    diverged = status == "diverged"
    last = measured[-1]
    chosen = measured[np.nanargmin(selected[measured])] if instance.stops_early and not diverged else last
    names = [name for name in curve if name not in ("step", "loss")]
    headline = curve[instance.headline][chosen] if instance.headline in curve else np.nan
    row: dict[str, object] = {
        "status": status,
        "initial_loss": loss[0],
        "final_loss": np.inf if diverged else loss[last],
        "best_loss": np.nanmin(loss),
        "floor": np.nan if floor is None else floor,
        "score": np.inf if status != "ok" else selected[chosen],
        "headline": np.inf if diverged else headline,
        "remaining": np.inf if status != "ok" else remaining(selected[0], selected[chosen], instance, floor),
        "resolution": resolution(selected[0], dtype, squared=instance.selection == "loss"),
        "score_step": int(steps[chosen]),
        "diverged_at": float(steps[np.isposinf(loss)][0]) if diverged else np.nan,
    }
    row |= {f"final_{name}": np.inf if diverged else curve[name][last] for name in names}
    excess = loss - (floor or 0.0)
    for fraction in TARGETS:
        row[f"steps_to_{fraction:.0e}"] = steps_to(steps, excess, fraction * excess[0])
    return row


def remaining(start: float, score: float, instance: Instance | type[Task], floor: float | None) -> float:
    """What a run leaves of the excess loss that it started with; of a validation loss, or the square of a validation RMSE, the
    floor is taken to be zero: nobody knows it."""
    if instance.selection != "loss":
        share = score / start if start else 1.0
        return share**2 if instance.selection_root else share
    excess = start - (floor or 0.0)
    return max(score - (floor or 0.0), 0.0) / excess if excess > 0 else 1.0


def resolution(start: float, dtype: torch.dtype, *, squared: bool) -> float:
    """The smallest score that means anything: 10 eps of the start for an error, the square of 10 eps for a squared one."""
    eps = 10 * torch.finfo(dtype).eps
    return float(start * (eps**2 if squared else eps))


def steps_to(steps: np.ndarray, excess: np.ndarray, target: float) -> float:
    """The first step at which the excess loss is at most `target`, log-linear between probed steps; infinite if never."""
    reached = np.flatnonzero(excess <= target)
    if not len(reached):
        return np.inf
    i = int(reached[0])
    if i == 0 or not excess[i] > 0 or not np.isfinite(excess[i - 1]):
        return float(steps[i])
    low, high = np.log(excess[i]), np.log(excess[i - 1])
    share = (high - np.log(target)) / (high - low) if high > low else 1.0
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
