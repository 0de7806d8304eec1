"""Runs lanes of a problem that lives in a model: together over one base where that is quicker, else one after the other."""

import base64
import gc
import hashlib
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters._state import replace_file
from bench import store
from bench.blocks import block_bytes
from bench.course import Course
from bench.engine import Advance, BlockResult, Settings
from bench.fine_tuning import Lane
from bench.stacked import Stack, apart, mixed, unshared
from optimizers import Optimizer
from parameterizations import Parameterization
from problems import FineTuning, Task

DONE = "lane.json"
LIBRARIES = ("torch", "transformers", "peft", "diffusers")


@dataclass(frozen=True)
class Method:
    """What all lanes of a run have in common."""

    problem: FineTuning
    parameterization: Parameterization
    optimizer: Optimizer
    settings: Settings

    def lane(self, task: Task, seed: int, rate: float) -> Lane:
        return Lane(task, self.parameterization, self.optimizer, seed, rate, self.settings)

    @property
    def stamp(self) -> str:
        """What tells lanes from those of other settings, or of other versions of what they are run by."""
        axes = [f"{type(each).__module__}.{each!r}" for each in vars(self).values()]
        versions = [store.installed(name) for name in LIBRARIES]
        return digest([axes, versions, self.problem.fingerprint()])


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def run_lanes(
    problem: FineTuning,
    parameterization: Parameterization,
    optimizer: Optimizer,
    *,
    seeds: Sequence[int],
    rates: Sequence[float],
    settings: Settings,
    timeout: float | None = None,
    progress: Advance | None = None,
    keep: Path | None = None,
) -> tuple[list[tuple[slice, slice, BlockResult]], type[Task]]:
    """Run every rate on every seed.

    Lanes share a base where the method allows it and a step of two stays in the last cache; elsewhere one task and one model are
    in memory at a time. See docs/scaled.md for what that is worth.

    Args:
        timeout: seconds for all lanes, shared out equally.
        keep: a folder where finished lanes are kept, and where unfinished ones stand; lanes of other settings or versions may
            lie beside them.

    Returns:
        A block a lane, and the kind of task, which says what its measures are for.
    """
    problem.require(tested=True)
    method = Method(problem, parameterization, optimizer, settings)
    share = None if timeout is None else timeout / (len(seeds) * len(rates))
    planned = [(seed, rate) for seed in seeds for rate in rates]
    names = {(seed, rate): f"{method.stamp}-seed-{seed}-lr-{rate!r}" for seed, rate in planned}
    folders = None if keep is None else {lane: keep / name for lane, name in names.items()}
    task = problem.draw(seeds[0], device=settings.device)
    left: dict[tuple[int, float], dict[str, Any]] = {}
    if folders is not None:
        left = {lane: found for lane in planned if (found := finished(folders[lane])) is not None}
    cost: dict[str, int] = {}
    together = 1
    if len(left) < len(planned):
        cost, together = tried(method, task, seeds, rates[0])
    tasks = {seeds[0]: task}
    for first in range(0, len(planned), together):
        group = planned[first : first + together]
        if all(lane in left for lane in group):
            if progress is not None:
                progress(settings.steps * len(group), found=True)
            continue
        tasks = {seed: tasks.get(seed) or problem.draw(seed, device=settings.device) for seed, _ in group}
        chosen = [(tasks[seed], seed, rate) for seed, rate in group]
        course: Course = method.lane(*chosen[0]) if together == 1 else Stack(chosen, parameterization, optimizer, settings)
        # what stands between is of the whole group, so that a resumed one is made up as it was
        standing = None if keep is None else keep / f"{method.stamp}-{digest(group)}"
        course.run(progress, standing, None if share is None else share * len(group))
        for place, lane in enumerate(group):
            own = course.cost() if isinstance(course, Lane) else {}
            left[lane] = {**course.leave(place), "cost": {**cost, **own}, "pictures": {}}
            if lane == planned[0] and not settings.tuning and left[lane]["status"] == "ok":
                shown = course.evaluate(place, course.tasks[place].pictures)
                left[lane]["pictures"] = {name: [as_text(each) for each in images] for name, images in shown.items()}
            if folders is not None and left[lane]["status"] != "timeout":
                finish(folders[lane], left[lane])
        if standing is not None and all(left[lane]["status"] != "timeout" for lane in group):
            shutil.rmtree(standing, ignore_errors=True)
        del course
        gc.collect()  # models, hooks and adapters refer to each other in circles
    places = [(slice(i, i + 1), slice(j, j + 1)) for i in range(len(seeds)) for j in range(len(rates))]
    return [(*place, as_block(left[lane], settings)) for place, lane in zip(places, planned, strict=True)], type(task)


def tried(method: Method, task: Task, seeds: Sequence[int], rate: float) -> tuple[dict[str, int], int]:
    """The cost of a lane, and how many lanes go together.

    `peak_bytes` is of its second step: the first makes what the rule keeps.
    """
    lane = method.lane(task, seeds[0], rate)
    lane.advance()
    cost = {"peak_bytes": lane.peak(), **lane.cost()}
    together = max(1, block_bytes(method.settings.device) // max(1, cost["peak_bytes"]))
    if together > 1 and (apart(method.parameterization, method.optimizer, task) or mixed(lane)):
        together = 1
    if together > 1:
        others = [(method.problem.draw(seed, device=method.settings.device), seed) for seed in seeds[1:2]]
        if unshared([lane, *(method.lane(*other, rate) for other in others)]):
            together = 1
    del lane
    gc.collect()
    return cost, together


def as_text(image: Tensor) -> str:
    """An image (c, h, w) from -1 to 1 as PNG in base 64."""
    from PIL import Image

    levels = ((image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    written = io.BytesIO()
    Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels).save(written, "png")
    return base64.b64encode(written.getvalue()).decode()


def finished(folder: Path) -> dict[str, Any] | None:
    """What a lane left, where it ran to its end."""
    try:
        return dict(json.loads((folder / DONE).read_text()))
    except (OSError, ValueError):  # not there, or cut short: it runs again
        return None


def finish(folder: Path, left: Mapping[str, Any]) -> None:
    """Keep what a lane leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / DONE, lambda path: path.write_text(json.dumps(left)))


def as_block(left: Mapping[str, Any], settings: Settings) -> BlockResult:
    """What a lane left as a block of one."""
    rows, status, grid = left["rows"], left["status"], left["grid"]
    by_step = {row["step"]: row for row in rows}
    if status == "diverged":
        by_step |= {
            step: {"loss": np.inf} for step in grid if step >= rows[-1]["step"] and "validation_loss" not in by_step.get(step, {})
        }
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    curves = {
        name: torch.tensor([[[by_step.get(step, {}).get(name, np.nan)]] for step in grid], dtype=torch.float64) for name in names
    }
    spectra = {int(step): torch.tensor([[values]], dtype=torch.float64) for step, values in left["spectra"].items()}
    return BlockResult(
        steps=list(grid),
        curves=curves,
        status=[[status]],
        spectra=spectra,
        step_seconds=left["seconds"]["steps"],
        probe_seconds=left["seconds"]["probes"],
        pictures={name: [base64.b64decode(each) for each in images] for name, images in left["pictures"].items()},
        **left["cost"],
    )
