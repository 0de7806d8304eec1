"""One cell of the cross product: a problem, a parameterization and an optimizer with all their settings."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.catalogue import name_of
from bench.engine import Advance
from bench.runs import Run, run
from bench.stats import window_decades
from linalg import InputError
from linalg.checks import check, check_integer, check_number
from optimizers import Optimizer
from parameterizations import Parameterization
from problems import Problem

FORMAT = 3  # of the stored files; a new one makes old cells run again
LEAST_RATIO = 1.01  # between neighbours of a grid that may grow


def rounded(rate: float) -> float:
    """To six digits, so that a rate reads as it was given."""
    return float(f"{rate:.6g}")


@dataclass(frozen=True)
class LearningRates:
    """The grid: `values`, or `count` rates from `min` to `max` in equal ratios; None for the optimizer's own span.

    While the best rate lies on the grid's edge, the grid grows there in the same ratio, by at most `extend` rates a side.
    """

    min: float | None = None
    max: float | None = None
    count: int = 9
    values: tuple[float, ...] | None = None
    extend: int = 6

    def __post_init__(self) -> None:
        check_integer("lr.extend", self.extend, least=0)
        check_integer("lr.count", self.count)
        for key in ("min", "max"):
            if getattr(self, key) is not None:
                check_number(f"lr.{key}", getattr(self, key), above=0)
        if self.values is not None:
            values = self.values if isinstance(self.values, (list, tuple)) else (self.values,)
            check(len(values) > 0, "lr.values", self.values, "at least one learning rate")
            for value in values:
                check_number("lr.values", value, above=0)
            object.__setattr__(self, "values", tuple(sorted({rounded(value) for value in values})))

    def grid(self, optimizer: Optimizer, span: tuple[float, float] | None = None) -> list[float]:
        """The rates before any extension, rising; `span` takes the place of the optimizer's."""
        if self.values is not None:
            return list(self.values)
        least, most = span or optimizer.span
        low, high = self.min or least, self.max or most
        if low > high:
            raise InputError(f"lr.min={low}: must be at most lr.max={high}")
        if self.count == 1:
            return [rounded(self.min or self.max or (low * high) ** 0.5)]
        return sorted({rounded(rate) for rate in np.geomspace(low, high, self.count)})


@dataclass(frozen=True)
class Cell:
    """All that decides a cell's numbers."""

    problem: Problem
    parameterization: Parameterization
    optimizer: Optimizer
    lr: LearningRates = LearningRates()
    tune: tuple[int, ...] = (0, 1, 2)
    report: tuple[int, ...] = (100, 101, 102, 103, 104)
    steps: int = 500
    schedule: str = "constant"
    warmup: int = 0
    dtype: str | None = None
    device: str = "cpu"
    probes: str = "basic"
    timeout: float | None = None

    def __post_init__(self) -> None:
        shared = sorted(set(self.tune) & set(self.report))
        check(not shared, "seeds", shared, "either for tuning or for reporting: a rate is chosen on seeds that are not reported")
        for name in ("tune", "report"):
            seeds = getattr(self, name)
            check(len(seeds) > 0 and len(set(seeds)) == len(seeds), f"seeds.{name}", list(seeds), "at least one seed, none twice")
            for seed in seeds:
                check_integer(f"seeds.{name}", seed, least=0)

    @property
    def names(self) -> dict[str, str]:
        return {axis: name_of(getattr(self, axis)) for axis in ("problem", "parameterization", "optimizer")}

    def describe(self) -> dict[str, Any]:
        """Plain data: every setting with its value, the same whatever order they were given in."""
        settings = {name: getattr(self, name) for name in ("steps", "schedule", "warmup", "dtype", "device", "probes", "timeout")}
        described: dict[str, Any] = {}
        for axis, name in self.names.items():
            entry = getattr(self, axis)
            cls = type(entry)
            described[axis] = {"name": name, "_target_": f"{cls.__module__}.{cls.__qualname__}", **asdict(entry)}
        seeds = {"tune": list(self.tune), "report": list(self.report)}
        plain = json.loads(json.dumps({**described, **settings, "lr": asdict(self.lr), "seeds": seeds}, default=str))
        return dict(plain)

    @property
    def key(self) -> str:
        """The cell's folder: its three names and a hash of every setting, of the data behind it and of the format."""
        content = json.dumps([FORMAT, self.describe(), self.problem.fingerprint()], sort_keys=True)
        return "-".join([*self.names.values(), hashlib.sha256(content.encode()).hexdigest()[:12]])

    def run(self, progress: Callable[[float, float], None] | None = None, keep: Path | None = None) -> "CellResult":
        """Choose the learning rate on the tuning seeds, then run the reporting seeds at it.

        Args:
            progress: called with the share of the work that is done, as far as it can be foreseen, and with the
                share that was found in `keep`.
            keep: see `bench.runs.run`.
        """
        runs: dict[str, list[Run]] = {"tune": [], "report": []}
        grid = self.lr.grid(self.optimizer, self.problem.span(self.optimizer))
        work = self.steps * (len(grid) * len(self.tune) + len(self.report))
        taken = kept = 0.0

        def advance(lane_steps: float, /, *, found: bool = False) -> None:
            nonlocal taken, kept
            taken, kept = taken + lane_steps, kept + lane_steps * found
            if progress is not None:
                progress(min(taken / work, 0.99), min(kept / work, 0.99))

        tried: dict[float, float] = {}
        inside: dict[float, float] = {}
        rates: list[float] = grid
        while rates:
            runs["tune"].append(self._run(rates, self.tune, "none", advance, keep))
            lanes = runs["tune"][-1].lanes
            tried |= median_scores(lanes)
            inside |= lanes["remaining"].groupby(lanes["lr"]).median().to_dict()
            rates = self._beyond(tried, grid)
        chosen = best_rate(tried)
        if np.isfinite(tried[chosen]):
            runs["report"].append(self._run([chosen], self.report, self.probes, advance, keep))
        return CellResult.combine(runs, chosen, tried, inside)

    def _run(self, rates: list[float], seeds: tuple[int, ...], probes: str, progress: Advance, keep: Path | None) -> Run:
        return run(
            self.problem,
            self.parameterization,
            self.optimizer,
            lr=rates,
            seeds=list(seeds),
            steps=self.steps,
            schedule=self.schedule,
            warmup=self.warmup,
            dtype=self.dtype,
            device=self.device,
            probes=probes,
            timeout=self.timeout,
            progress=progress,
            keep=keep,
            tuning=seeds == self.tune,
        )

    def _beyond(self, tried: dict[float, float], grid: list[float]) -> list[float]:
        """The next rate past the edge that the best one lies on; none once it is bracketed or `extend` is spent."""
        rates = sorted(tried)
        if len(grid) < 2 or grid[-1] / grid[0] < LEAST_RATIO ** (len(grid) - 1):
            return []  # there is no direction to go in, or no end to going
        ratio = (grid[-1] / grid[0]) ** (1 / (len(grid) - 1))
        best = best_rate(tried)
        if best == rates[0] and sum(rate < grid[0] for rate in rates) < self.lr.extend:
            return [rounded(rates[0] / ratio)]
        if best == rates[-1] and sum(rate > grid[-1] for rate in rates) < self.lr.extend:
            return [rounded(rates[-1] * ratio)]
        return []


def median_scores(lanes: pd.DataFrame) -> dict[float, float]:
    """By rate, the median of the lanes' scores, those below rounding at their resolution."""
    scores = lanes["score"].clip(lower=lanes["resolution"])
    return {float(rate): float(score) for rate, score in scores.groupby(lanes["lr"]).median().items()}


def best_rate(scores: dict[float, float]) -> float:
    """The rate of the lowest score, the middle one of those that tie; the lowest rate where every one has diverged."""
    rates = sorted(scores)
    values = np.array([np.nan_to_num(scores[rate], nan=np.inf) for rate in rates])
    if not np.isfinite(values).any():
        return rates[0]
    ties = np.flatnonzero(values == values.min())
    return rates[int(ties[(len(ties) - 1) // 2])]


@dataclass
class CellResult:
    """A finished cell's tables: those of `Run` with a `role` column (tune or report), and what the tuning found.

    Args:
        summary: chosen_lr, bracketed, window_decades (see `bench.stats`), trials, grid, parameters, state_bytes.
        seconds: wall time of the steps and of the probes.
    """

    curves: pd.DataFrame
    lanes: pd.DataFrame
    spectra: pd.DataFrame
    summary: dict[str, Any]
    seconds: dict[str, float]
    pictures: pd.DataFrame

    @classmethod
    def combine(
        cls, runs: dict[str, list[Run]], chosen: float, scores: dict[float, float], remaining: dict[float, float]
    ) -> "CellResult":
        """Number the lanes through and sum up the tuning: scores and what remained of the excess, by rate."""
        tables: dict[str, list[pd.DataFrame]] = {"curves": [], "lanes": [], "spectra": [], "pictures": []}
        first = 0
        for role, several in runs.items():
            for each in several:
                for name, frames in tables.items():
                    frame = getattr(each, name)
                    if len(frame):
                        frame = frame.assign(lane=frame["lane"] + first)
                        frame.insert(0, "role", role)
                        frames.append(frame)
                first += len(each.lanes)
        rates = sorted(scores)
        finite = np.isfinite(scores[chosen])
        everything = [each for several in runs.values() for each in several]
        summary = {
            "chosen_lr": chosen if finite else None,
            "bracketed": bool(finite and rates[0] < chosen < rates[-1]),
            "window_decades": window_decades(remaining, chosen),
            "trials": len(rates),
            "grid": rates,
            **everything[0].cost,
        }
        seconds = {name: sum(each.seconds[name] for each in everything) for name in ("steps", "probes")}
        whole = {name: pd.concat(parts, ignore_index=True) if parts else pd.DataFrame() for name, parts in tables.items()}
        return cls(**whole, summary=summary, seconds=seconds)
