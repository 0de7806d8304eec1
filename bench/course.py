"""The way that lanes of a model go together: steps, measures on a grid, and checkpoints from which a killed run goes on."""

import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters._state import replace_file
from bench.engine import Advance, Settings
from linalg import FactoredMatrix, InputError, condition, effective_rank, stable_rank
from problems import Task

KEEP_EVERY = 30.0  # seconds between two checkpoints
HISTORY, TENSORS = "history.json", "tensors.safetensors"
RELATIVE = 1e-3  # to the largest: singular values below do not count to the rank of an update

# What a file that was cut short by a full disk or a power cut raises.
UNREADABLE = (InputError, OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)

Factors = tuple[Tensor, Tensor]
Found = TypeVar("Found")


@dataclass
class History:
    """What has been seen of one lane.

    Args:
        status: ok, diverged or timeout.
        batch_losses: one a step, before it.
        rows: of measures, each with its step.
    """

    status: str = "ok"
    batch_losses: list[float] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)


class Course:
    """Lanes that take their steps at the same time. A subclass gives `advance`, `evaluate`, `updates`, `write` and `read`.

    Args:
        tasks: one a lane.
    """

    def __init__(self, tasks: Sequence[Task], settings: Settings) -> None:
        self.tasks, self.settings = list(tasks), settings
        self.restart()

    def restart(self) -> None:
        """Stand at the beginning. A subclass builds its model here."""
        self.step = 0
        self.histories = [History() for _ in self.tasks]
        self.seconds = {"steps": 0.0, "probes": 0.0}

    def advance(self) -> list[float]:
        """Take one step of every lane; returns their losses before it."""
        raise NotImplementedError

    def evaluate(self, lane: int, measure: Callable[[Any], Found]) -> Found:
        """What a function says of the lane's model, in evaluation mode."""
        raise NotImplementedError

    def updates(self, lane: int) -> list[Factors]:
        """left (m, k) and right (k, n) of every layer's update, scale included."""
        raise NotImplementedError

    def write(self, folder: Path) -> dict[str, Tensor]:
        """Write into a folder what the next step depends on, or return it as tensors."""
        raise NotImplementedError

    def read(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Put everything where `write` was called."""
        raise NotImplementedError

    @property
    def grid(self) -> list[int]:
        return evaluation_grid(self.settings.steps, self.tasks[0].evaluations)

    @property
    def going(self) -> list[int]:
        """The lanes that have neither diverged nor run out of time."""
        return [lane for lane, history in enumerate(self.histories) if history.status == "ok"]

    @torch.no_grad()
    def measure(self, lane: int = 0) -> dict[str, float]:
        """The task's measures at the present weights, and the probes of the update."""
        task, rows = self.tasks[lane], self.histories[lane].rows
        row = self.evaluate(lane, task.measure)
        best = task.stops_early and not any(before[task.selection] <= row[task.selection] for before in rows)
        if not self.settings.tuning and (best or self.step == self.settings.steps or not rows):
            row |= self.evaluate(lane, task.test)
        if self.settings.probes != "none" and (updates := self.updates(lane)):
            row |= of_updates(spectra(updates))
        return {"step": self.step, **row}

    def run(self, progress: Advance | None = None, keep: Path | None = None, timeout: float | None = None) -> list[str]:
        """Take every step, measuring on the way, from where the folder `keep` says that an earlier run stood.

        Args:
            progress: told the lane-steps taken since the last call.
            timeout: seconds for all lanes together, those of an earlier run included.

        Returns:
            ok, diverged or timeout, lane by lane.
        """
        if keep is not None and self.resume(keep) and progress is not None:
            progress(self.step * len(self.tasks), found=True)
        kept = time.perf_counter()
        begun = kept - sum(self.seconds.values())
        while True:
            if self.step in self.grid:
                self.look()
            if self.step >= self.settings.steps or not self.going:
                return [history.status for history in self.histories]
            now = time.perf_counter()
            if timeout is not None and now - begun > timeout:
                self.try_to_keep(keep)  # for a run that is given more time
                for lane in self.going:
                    self.histories[lane].status = "timeout"
                return [history.status for history in self.histories]
            if now - kept > KEEP_EVERY:
                keep = self.try_to_keep(keep)
                kept = time.perf_counter()
            started = time.perf_counter()
            losses = self.advance()
            self.seconds["steps"] += time.perf_counter() - started
            if progress is not None:
                progress(len(self.tasks))
            for lane in self.going:
                history = self.histories[lane]
                history.batch_losses.append(losses[lane])
                if not np.isfinite(losses[lane]):
                    history.rows.append({"step": self.step, "loss": np.inf})
                    history.status = "diverged"

    def look(self) -> None:
        """Measure every lane that has not been measured here."""
        started = time.perf_counter()
        for lane in self.going:
            history = self.histories[lane]
            last = int(history.rows[-1]["step"]) if history.rows else 0
            if history.rows and last == self.step:
                continue
            mean = float(np.mean(history.batch_losses[last:])) if self.step else float("nan")
            row = {**self.measure(lane), "batch_loss": mean}
            history.rows.append(row)
            if not np.isfinite(row["loss"]):
                row["loss"] = np.inf
                history.status = "diverged"
        self.seconds["probes"] += time.perf_counter() - started

    def leave(self, lane: int = 0) -> dict[str, Any]:
        """What remains of a lane, as plain data; of the seconds its share."""
        history = self.histories[lane]
        probed = self.settings.probes != "none" and history.status == "ok" and (updates := self.updates(lane))
        together = torch.cat(spectra(updates)).sort(descending=True).values.tolist() if probed else []
        return {
            **asdict(history),
            "grid": self.grid,
            "spectra": {str(self.step): together} if together else {},
            "seconds": {name: value / len(self.tasks) for name, value in self.seconds.items()},
        }

    def try_to_keep(self, folder: Path | None) -> Path | None:
        """Keep where the run stands, if there is a folder; None where its optimizer's state is nothing that files hold."""
        try:
            if folder is not None:
                self.keep(folder)
            return folder
        except InputError as error:
            warnings.warn(f"{error}: what is killed begins anew", stacklevel=2)
            return None

    def keep(self, folder: Path) -> None:
        """Write where the run stands, the last file last: a kill leaves the earlier state whole."""
        fresh = folder / f"step-{self.step}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.write(fresh).items()}
        save_file(flat, fresh / TENSORS)
        facts = {"step": self.step, "seconds": self.seconds, "lanes": [asdict(each) for each in self.histories]}
        replace_file(fresh / HISTORY, lambda path: path.write_text(json.dumps(facts)))
        for other in folder.glob("step-*"):
            if other != fresh:
                shutil.rmtree(other, ignore_errors=True)

    def resume(self, folder: Path) -> bool:
        """Go on from what `keep` wrote, if there is anything that can be read; what cannot be is thrown away."""
        for found in sorted(folder.glob("step-*"), key=lambda path: -int(path.name.partition("-")[2])):
            try:
                facts = json.loads((found / HISTORY).read_text())
                self.step, self.seconds = facts["step"], facts["seconds"]
                self.read(found, load_file(found / TENSORS))
                self.histories = [History(**each) for each in facts["lanes"]]
                return True
            except (torch.OutOfMemoryError, PermissionError):  # of the machine, not of what lies there
                raise
            except UNREADABLE:
                shutil.rmtree(found, ignore_errors=True)
                self.restart()  # part of it may have been taken
        return False


def spectra(updates: Sequence[Factors]) -> list[Tensor]:
    """(k,) singular values of every update, largest first, float64, on the CPU."""
    return [FactoredMatrix(pair).svdvals(of="update").cpu() for pair in updates]


def of_updates(values: Sequence[Tensor]) -> dict[str, float]:
    """Probes of all layers' updates from their singular values: ranks added up, the largest condition number, NaN of none."""
    found = {"update_rank": 0.0, "effective_rank": 0.0, "stable_rank": 0.0, "condition_product": float("nan")}
    for each in values:
        if not each.isfinite().all() or not each[0] > 0:
            continue
        found["update_rank"] += int((each > each[0] * RELATIVE).sum())
        found["effective_rank"] += float(effective_rank(each))
        found["stable_rank"] += float(stable_rank(each))
        found["condition_product"] = float(np.fmax(found["condition_product"], float(condition(each))))
    return found


def evaluation_grid(steps: int, evaluations: int) -> list[int]:
    """0, `steps`, and what lies between at equal distances."""
    return sorted({round(steps * i / evaluations) for i in range(evaluations + 1)})
