"""Lanes of a model that train together over one frozen base: its products are made once for all, adapters have a lane dimension."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters._functions import Preconditioned
from adapters._pair import Tensors
from adapters._steps import penalize
from bench.course import Course, Factors, Found
from bench.engine import Settings
from bench.fine_tuning import Lane
from linalg import InputError
from optimizers import Optimizer, State, Torch, schedule_factor
from optimizers._torch_optimizer import needs_pairs
from parameterizations import Full, Parameterization, Params, Step
from problems import Task
from problems._task import Batch


def apart(parameterization: Parameterization, optimizer: Optimizer, task: Task) -> str | None:
    """Why lanes have to run one after the other, or None where they can share a base."""
    if isinstance(parameterization, Full):
        return "every lane has weights of its own"
    if isinstance(optimizer, Torch):
        return "a torch.optim optimizer moves tensors whole, and lanes have rates of their own"
    if optimizer.tangent:
        return "the tangent space's gradients are taken a layer at a time"
    if parameterization.merges:
        return "every lane's base takes up what its factors learn"
    if hasattr(parameterization, "perturbation"):
        return "every lane perturbs the base"
    if "layers" in parameterization.needs or getattr(parameterization, "shared", False):
        return "layers share tensors"
    if type(parameterization).after_step is not Parameterization.after_step or parameterization.directs:
        return "the method does something around the optimizer's step"
    if task.accumulation > 1:
        return "gradients are accumulated"
    if task.head and (not optimizer.elementwise or needs_pairs(optimizer)):
        return "the rule treats a head's matrices whole"
    return None


class LaneTensors(Tensors):
    """A layer's tensors of all lanes, each (lanes, ...)."""

    def __init__(self, method: Parameterization, tensors: Params, scaling: float, at: Step) -> None:
        super().__init__(method, tensors, at)
        self.scaling = scaling

    @property
    def scale(self) -> float:
        return self.scaling * self.method.scaling

    def factors(self, lane: int | None) -> tuple[Tensor, Tensor]:
        """left (lanes, m, k) and right (lanes, k, n) whose product, times `scaling`, is the update; of one lane with its index."""
        live = self.live() if lane is None else {name: tensor[lane] for name, tensor in self.live().items()}
        if self.method.splits:
            right, left = self.method.export(live)
            return left, right
        weight = self.method.weight(live)
        if lane is None and self.precondition is not None and len(weight.factors) == 2:
            left, right = Preconditioned.apply(*weight.factors, self.precondition, self.scale)
        else:
            left, right = weight.pair()
        return left * weight.scale if weight.scale != 1 else left, right


class LaneLayer(nn.Module):
    """A frozen linear layer with a pair a lane beside it: the inputs of lane after lane are its first dimension.

    Args:
        tensors: of the lanes.
        stack: knows how many lanes there are, and the one that is looked at alone.
    """

    def __init__(self, base_layer: nn.Module, tensors: LaneTensors, stack: "Stack") -> None:
        super().__init__()
        self.base_layer, self.tensors, self._stack = base_layer, tensors, (stack,)

    def forward(self, x: Tensor) -> Tensor:
        lane, result = self._stack[0].lane, self.base_layer(x)
        left, right = self.tensors.factors(lane)
        change = (dealt(x, len(self._stack[0].lanes) if lane is None else 1) @ right.mT) @ left.mT
        return result + (change * self.tensors.scaling).view(result.shape)


class LaneLinear(nn.Module):
    """A linear layer of which every lane has one of its own: a head."""

    def __init__(self, layers: Sequence[nn.Linear], trains: bool, stack: "Stack") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]), requires_grad=trains)
        bias = None if layers[0].bias is None else torch.stack([layer.bias.detach() for layer in layers])
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=trains)
        self._stack = (stack,)

    def forward(self, x: Tensor) -> Tensor:
        lane = self._stack[0].lane
        if lane is not None:
            return nn.functional.linear(x, self.weight[lane], None if self.bias is None else self.bias[lane])
        found = dealt(x, len(self.weight)) @ self.weight.mT
        if self.bias is not None:
            found = found + self.bias[:, None]
        return found.view(*x.shape[:-1], -1)


class Stack(Course):
    """Lanes that take their steps together.

    Args:
        lanes: (task, seed, learning rate) each.

    Raises:
        InputError: with the reason where they cannot.
    """

    def __init__(
        self,
        lanes: Sequence[tuple[Task, int, float]],
        parameterization: Parameterization,
        optimizer: Optimizer,
        settings: Settings,
    ) -> None:
        if reason := apart(parameterization, optimizer, lanes[0][0]):
            raise InputError(f"lanes: cannot share a base: {reason}")
        self.lanes, self.parameterization, self.optimizer = list(lanes), parameterization, optimizer
        super().__init__([task for task, *_ in lanes], settings)

    def restart(self) -> None:
        super().restart()
        optimizer, settings = self.optimizer, self.settings
        self.lane: int | None = None  # the one that is looked at alone
        starts = {(seed, id(task)): (task, seed, rate) for task, seed, rate in reversed(self.lanes)}
        singles = {
            key: Lane(task, self.parameterization, optimizer, seed, rate, settings) for key, (task, seed, rate) in starts.items()
        }
        each = [singles[seed, id(task)] for task, seed, _ in self.lanes]
        if reason := unshared(list(singles.values())):
            raise InputError(f"lanes: cannot share a base: {reason}")
        self.model = copy.deepcopy(each[0].model)
        self.holders: list[LaneTensors] = []
        trained = {id(tensor): name for name, tensor in each[0].model.named_parameters() if tensor.requires_grad}
        for index, site in enumerate(each[0].sites):
            pairs = [lane.pairs[index] for lane in each]
            tensors = {name: torch.stack([pair.tensors()[name] for pair in pairs]) for name in pairs[0].names}
            at = Step(steps=settings.steps, generators=[copy_of(pair.at.generators[0]) for pair in pairs])
            holder = LaneTensors(pairs[0].method, tensors, site.scaling, at)
            self.replace(site.name, LaneLayer(self.model.get_submodule(site.name).base_layer, holder, self))  # type: ignore[arg-type]
            self.holders.append(holder)
        self.heads: list[LaneLinear] = []
        within = tuple(f"{site.name}." for site in each[0].sites)
        for name, module in each[0].model.named_modules():
            if not isinstance(module, nn.Linear) or name.startswith(within):
                continue
            others: list[Any] = [lane.model.get_submodule(name) for lane in each]
            trains = id(module.weight) in trained
            if trains or any(not torch.equal(other.weight, module.weight) for other in others):
                head = LaneLinear(others, trains, self)
                self.replace(name, head)
                self.heads.append(head)
        self.units = [(holder, dict(holder.named_parameters(recurse=False))) for holder in self.holders]
        heads = {f"{i} {name}": tensor for i, head in enumerate(self.heads) for name, tensor in head.named_parameters()}
        self.head = {name: tensor for name, tensor in heads.items() if tensor.requires_grad}
        self.states: list[State] = [optimizer.init(each.tensors(), each.method.rates, each.scale) for each in self.holders]
        self.head_state = optimizer.init(self.head_views()) if self.head else State({})
        for holder in self.holders:
            if optimizer.preconditions and holder.method.pair == "predicted":
                holder.precondition = optimizer.precondition
        self.lr = torch.tensor([rate for *_, rate in self.lanes], dtype=settings.dtype, device=settings.device)

    def replace(self, name: str, module: nn.Module) -> None:
        parent, _, last = name.rpartition(".")
        setattr(self.model.get_submodule(parent), last, module)

    def head_views(self) -> Params:
        """What trains of heads as (lanes, entries, 1): rules that stack with a head go entry by entry."""
        return {name: tensor.detach().flatten(1)[..., None] for name, tensor in self.head.items()}

    def advance(self) -> list[float]:
        self.model.train()
        self.lane = None
        batches = [task.batch(self.step) for task, *_ in self.lanes]
        batch = {name: tensor.to(self.settings.device) for name, tensor in joined(batches, self.lanes[0][0].padding).items()}
        self.model.zero_grad()
        losses = self.lanes[0][0].losses(self.model, batch, len(self.lanes))
        losses.sum().backward()
        factor = schedule_factor(self.settings.schedule, self.step, self.settings.steps, self.settings.warmup)
        penalize([holder for holder in self.holders if holder.method.penalizes])
        with torch.no_grad():
            self.move(self.lr * factor)
        self.step += 1
        return losses.detach().tolist()

    def move(self, lr: Tensor) -> None:
        runs = []
        for (holder, trained), state in zip(self.units, self.states, strict=True):
            grads = {name: tensor.grad for name, tensor in trained.items() if tensor.grad is not None}
            run = (holder.tensors(), grads, state, lr, holder.at)
            if holder.precondition is not None:
                self.optimizer.move(*run)
            else:
                runs.append(run)
        self.optimizer.update_together(runs)
        for holder in self.holders:
            holder.at.step += 1
        if self.head:
            grads = {name: tensor.grad.flatten(1)[..., None] for name, tensor in self.head.items() if tensor.grad is not None}
            self.optimizer.update(self.head_views(), grads, self.head_state, lr, self.step)

    def evaluate(self, lane: int, measure: Callable[[nn.Module], Found]) -> Found:
        self.model.eval()
        self.lane = lane
        try:
            with torch.no_grad():
                return measure(self.model)
        finally:
            self.lane = None

    def updates(self, lane: int) -> list[Factors]:
        found = []
        for holder in self.holders:
            left, right = (factor.detach().double() for factor in holder.factors(lane))
            found.append((left * holder.scaling, right))
        return found

    def write(self, folder: Path) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {f"head/{name}": tensor for name, tensor in self.head.items()}
        for i, (holder, state) in enumerate(zip(self.holders, self.states, strict=True)):
            found |= {f"{i}/tensors/{name}": tensor for name, tensor in holder.tensors().items()}
            found |= {f"{i}/memory/{name}": tensor for name, tensor in holder.at.memory.items()}
            found |= {f"{i}/streams/{lane}": stream.get_state() for lane, stream in enumerate(holder.at.generators)}
            found |= {f"{i}/state/{name}": tensor for name, tensor in state.pack().items()}
        found |= {f"head state/{name}": tensor for name, tensor in self.head_state.pack().items()}
        return found

    @torch.no_grad()
    def read(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        def under(start: str) -> dict[str, Tensor]:
            return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}

        for name, tensor in self.head.items():
            tensor.copy_(tensors[f"head/{name}"])
        for i, (holder, state) in enumerate(zip(self.holders, self.states, strict=True)):
            for name, own in holder.tensors().items():
                own.copy_(tensors[f"{i}/tensors/{name}"])
            holder.at.memory = {name: tensor.to(self.settings.device) for name, tensor in under(f"{i}/memory/").items()}
            for lane, stream in enumerate(holder.at.generators):
                stream.set_state(tensors[f"{i}/streams/{lane}"])
            holder.at.step = self.step
            state.unpack(under(f"{i}/state/"))
        self.head_state.unpack(under("head state/"))


def unshared(lanes: Sequence[Lane]) -> str | None:
    """Why the models of these lanes cannot share what is frozen of the first one's, or None."""
    first, *others = [dict(lane.model.state_dict()) for lane in lanes]
    within = tuple(f"{site.name}." for site in lanes[0].sites)
    linear: set[str] = set()
    for site in lanes[0].sites:
        if not isinstance(getattr(site.layer, "base_layer", None), nn.Linear):
            return f"{site.name} is no linear layer"
    for name, module in lanes[0].model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            return f"{name} normalises over the rows of all lanes"
        if isinstance(module, nn.Linear) and not name.startswith(within):
            linear |= {f"{name}.weight", f"{name}.bias"}
    trained = {name for name, tensor in lanes[0].model.named_parameters() if tensor.requires_grad}
    for name, tensor in first.items():
        if name in linear or (name.startswith(within) and ".base_layer." not in name):
            continue  # every lane has its own
        if name in trained:
            return f"{name} trains, and is of no linear layer"
        if not all(torch.equal(tensor, other[name]) for other in others):
            return f"{name} is another for every seed"
    return None


def mixed(lane: Lane) -> str | None:
    """Why inputs cannot be dealt out to lanes, or None: a layer sees rows that do not grow in number with the batch's."""
    batch = {name: tensor.to(lane.settings.device) for name, tensor in lane.task.batch(0).items()}
    layers = {site.name: site.layer for site in lane.sites} | {
        name: module
        for name, module in lane.model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in lane.task.head
    }
    counts: list[dict[str, list[int]]] = []
    for lanes in (1, 2):
        seen: dict[str, list[int]] = {name: [] for name in layers}
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, found=seen[name]: found.append(len(args[0])))
            for name, layer in layers.items()
        ]
        lane.evaluate(0, partial(lane.task.losses, batch=joined([batch] * lanes, lane.task.padding), lanes=lanes))
        for hook in hooks:
            hook.remove()
        counts.append(seen)
    alone, both = counts
    shared = [name for name in layers if both[name] != [2 * count for count in alone[name]]]
    return f"{shared[0]} sees rows that all lanes have in common" if shared else None


def dealt(x: Tensor, lanes: int) -> Tensor:
    """(lanes, rows, d) of inputs (lanes rows, ..., d), one lane after the other."""
    if len(x) % lanes:
        raise InputError(f"lanes: {len(x)} rows cannot be dealt out to {lanes}")
    return x.reshape(lanes, -1, x.shape[-1])


def joined(batches: Sequence[Batch], padding: Mapping[str, int]) -> dict[str, Tensor]:
    """Batches of lanes as one, lane after lane, rows as wide as the widest.

    Args:
        padding: see `Task`.
    """
    longest = {name: max(batch[name].shape[1] for batch in batches) for name in batches[0] if batches[0][name].ndim == 2}
    return {
        name: torch.cat([widened(batch[name], longest.get(name), padding.get(name, 0)) for batch in batches]) for name in batches[0]
    }


def widened(tensor: Tensor, width: int | None, value: int) -> Tensor:
    """Rows as wide as those of other lanes, filled up with a value."""
    if width is None or tensor.shape[1] == width:
        return tensor
    return nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=value)


def copy_of(source: torch.Generator) -> torch.Generator:
    """A generator that goes on where another stands."""
    other = torch.Generator()
    other.set_state(source.get_state())
    return other
