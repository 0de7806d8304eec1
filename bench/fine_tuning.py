"""Runs lanes of a problem that lives in a model: one after the other, each with adapters of its own on a copy of the model."""

import gc
import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adapters import attach
from adapters._install import pair_of
from adapters._pair import Pair
from adapters._report import state_bytes
from adapters._sites import Site, sites
from adapters._state import read_state, replace_file, write_state
from bench import store
from bench.engine import BlockResult, Settings
from bench.memory import PeakMemory
from linalg import FactoredMatrix, InputError
from optimizers import Optimizer, Torch, schedule_factor, torch_optimizer
from optimizers.torch import optimizer_class
from parameterizations import Full, Parameterization
from problems import FineTuning, Task

RANK = 8  # of methods that have none of their own
KEEP_EVERY = 30.0  # seconds between two checkpoints of a lane
ROWS, WHOLE, DONE = "rows.json", "trained.safetensors", "lane.json"
FACTS = ("step", "rows", "batch_losses", "peak", "seconds")  # of a lane, as they are written beside its tensors
LIBRARIES = ("torch", "transformers", "peft", "diffusers")
RELATIVE = 1e-3  # to the largest: singular values below do not count to the rank of an update


@dataclass
class Lane:
    """One fine-tuning run: a model with adapters, and the optimizer that moves them.

    Args:
        task: what is trained on.
        seed: of everything drawn.
        lr: the learning rate.
    """

    task: Task
    parameterization: Parameterization
    optimizer: Optimizer
    seed: int
    lr: float
    settings: Settings
    model: nn.Module = field(init=False)
    rule: torch.optim.Optimizer = field(init=False)
    step: int = 0
    batch_losses: list[float] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"steps": 0.0, "probes": 0.0})
    peak: int = 0

    def __post_init__(self) -> None:
        settings = self.settings
        model = self.task.model().to(device=settings.device, dtype=settings.dtype)
        self.model = adapted(model, self.task, self.parameterization, self.seed, settings.steps)
        self.model.train()
        trained = [tensor for tensor in self.model.parameters() if tensor.requires_grad]
        if isinstance(self.optimizer, Torch):
            cls: Any = optimizer_class(self.optimizer.target)
            self.rule = cls(trained, lr=self.lr, **self.optimizer.options)
        else:
            self.rule = torch_optimizer(self.optimizer, self.model, self.lr, seed=self.seed)

    @property
    def sites(self) -> list[Site]:
        return [] if isinstance(self.parameterization, Full) else sites(self.model)

    @property
    def pairs(self) -> list[Pair]:
        return [pair for site in self.sites if (pair := pair_of(site)) is not None]

    @property
    def whole(self) -> dict[str, Tensor]:
        """What a run changes and no adapter has: a head, whole weights, and what batch normalisation counts."""
        own = {id(tensor) for pair in self.pairs for tensor in pair.source.parameters()}
        named = self.model.named_parameters()
        trained = {name: tensor for name, tensor in named if tensor.requires_grad and id(tensor) not in own}
        counted = {
            f"{name}.{key}": tensor
            for name, module in self.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            for key, tensor in module.named_buffers(recurse=False)
        }
        return trained | counted

    def advance(self) -> float:
        """Take one step; returns the batch's loss before it."""
        settings = self.settings
        self.model.train()
        factor = schedule_factor(settings.schedule, self.step, settings.steps, settings.warmup)
        for group in self.rule.param_groups:
            group["lr"] = self.lr * factor
        self.rule.zero_grad()
        pieces, total = self.task.accumulation, 0.0
        for piece in range(pieces):
            batch = self.task.batch(self.step * pieces + piece)
            loss = self.task.losses(self.model, {name: tensor.to(settings.device) for name, tensor in batch.items()}).sum() / pieces
            loss.backward()
            total += float(loss.detach())
        self.rule.step()
        self.step += 1
        self.batch_losses.append(total)
        return self.batch_losses[-1]

    def measure(self) -> dict[str, float]:
        """The task's measures at the present weights, and the probes of the update."""
        self.model.eval()
        selection = self.task.selection
        with torch.no_grad():
            row = self.task.measure(self.model)
            best = self.task.stops_early and not any(before[selection] <= row[selection] for before in self.rows)
            if not self.settings.tuning and (best or self.step == self.settings.steps or not self.rows):
                row |= self.task.test(self.model)
            if self.settings.probes != "none" and self.pairs:
                row |= of_updates(self.spectra())
        return {"step": self.step, **row}

    def spectra(self) -> list[Tensor]:
        """(k,) singular values of every layer's update, largest first, float64."""
        return [FactoredMatrix(pair.plain(trimmed=False)).svdvals(of="update").cpu() for pair in self.pairs]

    def cost(self) -> dict[str, int]:
        """Numbers that train, and bytes of their gradients, of the optimizer's state, of the model, and of a step at its height."""
        trained = [tensor for tensor in self.model.parameters() if tensor.requires_grad]
        gradients = sum(tensor.numel() * tensor.element_size() for tensor in trained)
        return {
            "parameters": sum(tensor.numel() for tensor in trained),
            "state_bytes": state_bytes(self.rule, trained),
            "gradient_bytes": gradients,
            "model_bytes": sum(tensor.numel() * tensor.element_size() for tensor in self.model.parameters()),
            "peak_bytes": self.peak,
        }

    def run(self, progress: Callable[[float], None] | None = None, keep: Path | None = None, timeout: float | None = None) -> str:
        """Take every step, measuring on the way, from where the folder `keep` says that an earlier run stood.

        Returns:
            ok, diverged or timeout.
        """
        grid = evaluation_grid(self.settings.steps, self.task.evaluations)
        if keep is not None and self.resume(keep) and progress is not None:
            progress(self.step)
        kept = time.perf_counter()
        begun = kept - sum(self.seconds.values())  # a resumed lane has no more time than one that was not cut off
        while True:
            started = time.perf_counter()
            if self.step in grid and not (self.rows and self.rows[-1]["step"] == self.step):
                since = int(self.rows[-1]["step"]) if self.rows else 0
                mean = float(np.mean(self.batch_losses[since:])) if self.step else float("nan")
                self.rows.append({**self.measure(), "batch_loss": mean})
                self.seconds["probes"] += time.perf_counter() - started
                if not np.isfinite(self.rows[-1]["loss"]):
                    self.rows[-1]["loss"] = np.inf
                    return "diverged"
            if self.step >= self.settings.steps:
                return "ok"
            if timeout is not None and time.perf_counter() - begun > timeout:
                return "timeout"
            if keep is not None and time.perf_counter() - kept > KEEP_EVERY:
                self.keep(keep)
                kept = time.perf_counter()
            started = time.perf_counter()
            if self.step == 0:
                with PeakMemory(self.model.parameters()) as memory:
                    loss = self.advance()
                self.peak = memory.peak
            else:
                loss = self.advance()
            self.seconds["steps"] += time.perf_counter() - started
            if progress is not None:
                progress(1)
            if not np.isfinite(loss):
                self.rows.append({"step": self.step, "loss": np.inf})
                return "diverged"

    def leave(self, status: str) -> dict[str, Any]:
        """What remains of the run, as plain data."""
        together = torch.cat(self.spectra()).sort(descending=True).values.tolist() if self.pairs and status == "ok" else []
        return {
            "status": status,
            "grid": evaluation_grid(self.settings.steps, self.task.evaluations),
            "rows": self.rows,
            "batch_losses": self.batch_losses,
            "spectra": {str(self.step): together} if together and self.settings.probes != "none" else {},
            "seconds": self.seconds,
            "cost": self.cost(),
        }

    def keep(self, folder: Path) -> None:
        """Write where the run stands, the last file last: a kill leaves the earlier state whole."""
        fresh = folder / f"step-{self.step}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        write_state(fresh, self.pairs, self.rule)
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in self.whole.items()}, fresh / WHOLE)
        facts = {name: getattr(self, name) for name in FACTS}
        replace_file(fresh / ROWS, lambda path: path.write_text(json.dumps(facts)))
        for other in folder.glob("step-*"):
            if other != fresh:
                shutil.rmtree(other, ignore_errors=True)

    def resume(self, folder: Path) -> bool:
        """Go on from what `keep` wrote, if there is anything that can be read; what cannot be is thrown away."""
        for found in sorted(folder.glob("step-*"), key=lambda path: -int(path.name.partition("-")[2])):
            try:
                self.take(found)
                return True
            except (InputError, OSError, ValueError, KeyError, RuntimeError, SafetensorError):  # a full disk, a power cut
                shutil.rmtree(found, ignore_errors=True)
                self.__post_init__()  # part of it may have been taken
        return False

    def take(self, found: Path) -> None:
        """Go on from what lies in one folder."""
        facts = json.loads((found / ROWS).read_text())
        kept = load_file(found / WHOLE)
        read_state(found, self.pairs, self.rule)
        with torch.no_grad():
            for name, tensor in self.whole.items():
                tensor.copy_(kept[name])
        for name in FACTS:
            setattr(self, name, facts[name])


def run_lanes(
    problem: FineTuning,
    parameterization: Parameterization,
    optimizer: Optimizer,
    *,
    seeds: Sequence[int],
    rates: Sequence[float],
    settings: Settings,
    timeout: float | None = None,
    progress: Callable[[float], None] | None = None,
    keep: Path | None = None,
) -> tuple[list[tuple[slice, slice, BlockResult]], type[Task]]:
    """Run every rate on every seed, one lane after the other, so that one task and one model are in memory at a time.

    Args:
        timeout: seconds for all lanes, shared out equally.
        keep: a folder where finished lanes are kept, and where an unfinished one stands; lanes of other settings or versions
            may lie beside them.

    Returns:
        A block a lane, and the kind of task, which says what its measures are for.
    """
    share = None if timeout is None else timeout / (len(seeds) * len(rates))
    stamp = stamp_of(problem, parameterization, optimizer, settings)
    found = []
    for i, seed in enumerate(seeds):
        task = problem.draw(seed)
        for j, rate in enumerate(rates):
            folder = None if keep is None else keep / f"{stamp}-seed-{seed}-lr-{rate!r}"
            left = None if folder is None else finished(folder)
            if left is None:
                lane = Lane(task, parameterization, optimizer, seed, rate, settings)
                left = lane.leave(lane.run(progress, folder, share))
                del lane
                gc.collect()  # models, hooks and adapters refer to each other in circles
                if folder is not None:
                    finish(folder, left)
            elif progress is not None:
                progress(settings.steps)
            found.append((slice(i, i + 1), slice(j, j + 1), as_block(left, settings)))
    return found, type(task)


def stamp_of(problem: FineTuning, parameterization: Parameterization, optimizer: Optimizer, settings: Settings) -> str:
    """What tells lanes from those of other settings, or of other versions of what they are run by."""
    axes = [f"{type(each).__module__}.{each!r}" for each in (problem, parameterization, optimizer, settings)]
    versions = [store.installed(name) for name in LIBRARIES]
    return hashlib.sha256(json.dumps([axes, versions, problem.fingerprint()]).encode()).hexdigest()[:8]


def finished(folder: Path) -> dict[str, Any] | None:
    """What a lane left, where it ran to its end."""
    try:
        return dict(json.loads((folder / DONE).read_text()))
    except (OSError, ValueError):  # not there, or cut short: it runs again
        return None


def finish(folder: Path, left: dict[str, Any]) -> None:
    """Keep what a lane leaves, and no longer where it stood."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / DONE, lambda path: path.write_text(json.dumps(left)))
    for other in folder.glob("step-*"):
        shutil.rmtree(other, ignore_errors=True)


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
        **left["cost"],
    )


def adapted(model: nn.Module, task: Task, parameterization: Parameterization, seed: int, steps: int) -> nn.Module:
    """The model with adapters on the task's layers, from the parameterization's start; everything else but the head is frozen.

    Raises:
        InputError: where no layer of the model has such a name, or the parameterization does not fit one.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, kinds())]
    chosen = [name for name in names if any(name == end or name.endswith(f".{end}") for end in task.targets)]
    heads = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in task.head]
    if not chosen:
        raise InputError(
            f"problem.targets={list(task.targets)}: no layer of the model ends so; there are {', '.join(names[:8])}, ..."
        )
    if isinstance(parameterization, Full):
        model.requires_grad_(False)
        for name in chosen:
            model.get_submodule(name).weight.requires_grad_(True)
        for name in heads:
            model.get_submodule(name).requires_grad_(True)
        return model
    from peft import LoraConfig, get_peft_model

    rank = getattr(parameterization, "rank", None) or RANK
    alpha = getattr(parameterization, "alpha", None) or rank
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, modules_to_save=heads or None)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a method says of a size is in docs/adapters.md, and not for every lane
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
        return attach(wrapped, parameterization, loss=lambda each: first_loss(each, task), steps=steps, seed=seed)


def kinds() -> tuple[type[nn.Module], ...]:
    """The layers that adapters fit: GPT-2's linear ones have a class of their own."""
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, nn.Conv2d, Conv1D


def first_loss(model: nn.Module, task: Task) -> Tensor:
    """The loss of the first step's batch, for methods that start from its gradient."""
    device = next(model.parameters()).device
    return task.losses(model, {name: tensor.to(device) for name, tensor in task.batch(0).items()}).sum()


def of_updates(spectra: Sequence[Tensor]) -> dict[str, float]:
    """Probes of all layers' updates from their singular values: ranks added up, the largest of the condition numbers."""
    found = {"update_rank": 0.0, "effective_rank": 0.0, "stable_rank": 0.0, "condition_product": 0.0}
    for values in spectra:
        if not values.isfinite().all() or not values[0] > 0:
            continue
        shares = values / values.sum()
        found["update_rank"] += int((values > values[0] * RELATIVE).sum())
        found["effective_rank"] += float((-torch.special.xlogy(shares, shares).sum()).exp())
        found["stable_rank"] += float((values / values[0]).square().sum())
        found["condition_product"] = max(found["condition_product"], float(values[0] / values[-1]) if values[-1] > 0 else np.inf)
    return found


def evaluation_grid(steps: int, evaluations: int) -> list[int]:
    """0, `steps`, and what lies between at equal distances."""
    return sorted({round(steps * i / evaluations) for i in range(evaluations + 1)})
