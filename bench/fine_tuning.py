"""A lane of a problem that lives in a model: adapters of its own on a copy of the model, and the optimizer that moves them."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adapters import attach
from adapters._install import pair_of
from adapters._pair import Pair
from adapters._report import state_bytes
from adapters._sites import Site, sites
from adapters._state import read_state, write_state
from bench.course import Course, Factors, Found, History
from bench.engine import Settings
from bench.memory import PeakMemory
from linalg import InputError
from optimizers import Optimizer, Torch, schedule_factor, torch_optimizer
from optimizers.torch import optimizer_class
from parameterizations import Full, LoRA, Parameterization
from problems import Task

RANK = 8  # of methods that have none of their own


class Lane(Course):
    """One fine-tuning run.

    Args:
        task: what is trained on.
        seed: of everything drawn.
        lr: the learning rate.
    """

    def __init__(
        self, task: Task, parameterization: Parameterization, optimizer: Optimizer, seed: int, lr: float, settings: Settings
    ) -> None:
        self.task, self.parameterization, self.optimizer, self.seed, self.lr = task, parameterization, optimizer, seed, lr
        super().__init__([task], settings)

    def restart(self) -> None:
        super().restart()
        settings = self.settings
        model = self.task.model().to(device=settings.device, dtype=settings.dtype)
        self.model = adapted(model, self.task, self.parameterization, self.seed, settings.steps)
        self.model.train()
        self.rule: torch.optim.Optimizer
        if isinstance(self.optimizer, Torch):
            cls: Any = optimizer_class(self.optimizer.target)
            try:
                self.rule = cls(self.trained, lr=self.lr, **self.optimizer.options)
            except Exception as error:  # whatever a class from elsewhere raises
                said = " ".join(str(error).split())
                raise InputError(f"optimizer._target_={self.optimizer.target!r}: cannot take what trains here ({said})") from error
        else:
            self.rule = torch_optimizer(self.optimizer, self.model, self.lr, seed=self.seed)

    @property
    def history(self) -> History:
        return self.histories[0]

    @property
    def trained(self) -> list[nn.Parameter]:
        return [tensor for tensor in self.model.parameters() if tensor.requires_grad]

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

    def advance(self) -> list[float]:
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
        return [total]

    def evaluate(self, lane: int, measure: Callable[[nn.Module], Found]) -> Found:
        self.model.eval()
        with torch.no_grad():
            return measure(self.model)

    def updates(self, lane: int = 0) -> list[Factors]:
        return [pair.plain(trimmed=False) for pair in self.pairs]

    def cost(self) -> dict[str, int]:
        """Numbers that train, and bytes of their gradients, of the optimizer's state, and of the model."""
        return {
            "parameters": sum(tensor.numel() for tensor in self.trained),
            "state_bytes": state_bytes(self.rule, self.trained),
            "gradient_bytes": sum(tensor.numel() * tensor.element_size() for tensor in self.trained),
            "model_bytes": sum(tensor.numel() * tensor.element_size() for tensor in self.model.parameters()),
        }

    def peak(self) -> int:
        """Bytes of the next step at its height beside the model's weights, with what the optimizer keeps already; it is taken."""
        self.rule.zero_grad()
        kept = self.cost()["state_bytes"]
        state = [leaf for leaf in tree_leaves(self.rule.state_dict()["state"]) if isinstance(leaf, Tensor)]
        with PeakMemory([*self.model.parameters(), *self.model.buffers(), *state]) as memory:
            self.advance()
        return kept + memory.peak

    def write(self, folder: Path) -> dict[str, Tensor]:
        write_state(folder, self.pairs, self.rule)
        return self.whole

    def read(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        read_state(folder, self.pairs, self.rule)
        with torch.no_grad():
            for name, tensor in self.whole.items():
                tensor.copy_(tensors[name])


def adapted(model: nn.Module, task: Task, parameterization: Parameterization, seed: int, steps: int) -> nn.Module:
    """The model with adapters on the task's layers, from the parameterization's start; everything else but the head is frozen.

    Raises:
        InputError: where no layer of the model has such a name, or the parameterization does not fit one.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, kinds())]
    chosen = [name for name in names if any(name == end or name.endswith(f".{end}") for end in task.targets)]
    heads = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in task.head]
    chosen = [name for name in chosen if not any(name == head or name.startswith(f"{head}.") for head in heads)]
    if not chosen:
        raise InputError(
            f"problem.targets={list(task.targets)}: no layer but a head, which trains whole, ends so; there are "
            f"{', '.join(names[:8])}, ..."
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
    if isinstance(parameterization, LoRA) and parameterization.rslora:  # the layer has the scale
        alpha = parameterization.scaling * rank
        parameterization = replace(parameterization, rslora=False, alpha=None)
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
    """The loss of the first batch, one micro-batch where several make a step, for methods that start from its gradient."""
    device = next(model.parameters()).device
    return task.losses(model, {name: tensor.to(device) for name, tensor in task.batch(0).items()}).sum()
