"""What parameterizations do around an optimizer's step, whatever optimizer it is: penalties, projections, rates of their own,
resampling, merging and truncation. It hangs on the hooks that torch calls before and after every `Optimizer.step`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from adapters._pair import Pair, Tensors
from optimizers import SLOT, RuleOptimizer, State
from parameterizations import Parameterization, Params

installed: list[Any] = []


def install() -> None:
    """Hang the hooks in, once for the process. They look at nothing but parameters that belong to a `Pair`."""
    if not installed:
        installed.append(register_optimizer_step_pre_hook(before))
        installed.append(register_optimizer_step_post_hook(after))


def pairs_of(optimizer: torch.optim.Optimizer) -> dict[Tensors, float]:
    """The pairs that an optimizer moves and that have gradients, with their learning rate."""
    found: dict[Tensors, float] = {}
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            slot = getattr(tensor, SLOT, None)
            if slot is not None and tensor.grad is not None:
                found.setdefault(slot[0], float(group.get("lr") or 0.0))
    return found


def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """Have `prepare` run on the step's gradients: those that are there, or those that the step's closure will make."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        prepare(optimizer)
        return None

    def evaluate() -> Any:
        loss = closure()
        prepare(optimizer)
        return loss

    if len(args) > 1:
        return (args[0], evaluate, *args[2:]), kwargs
    return args, {**kwargs, "closure": evaluate}


@torch.no_grad()
def prepare(optimizer: torch.optim.Optimizer) -> None:
    """Add the penalties' gradients, and turn the gradients into what the rule is to follow."""
    pairs = pairs_of(optimizer)
    penalize([pair for pair in pairs if pair.method.penalizes])
    for pair, lr in pairs.items():
        pair.at.lr = lr
        if pair.method.directs:
            pair.method.direct(pair.tensors(), gradients(pair), pair.at)
        if not isinstance(optimizer, RuleOptimizer):
            pair.started = {name: getattr(pair, name).detach().clone() for name in pair.method.rates if name in pair.names}


@torch.no_grad()
def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Let the methods do what they do once the rule has moved their tensors."""
    pairs = pairs_of(optimizer)
    for pair in pairs:
        for name, start in pair.started.items():
            tensor = getattr(pair, name)
            tensor.copy_(torch.lerp(start, tensor.detach(), pair.method.rates[name]))
        pair.started = {}
    hooked = [pair for pair in pairs if type(pair.method).after_step is not Parameterization.after_step]
    while hooked:
        alike = [pair for pair in hooked if pair.method == hooked[0].method]
        finish(alike, optimizer)
        hooked = [pair for pair in hooked if pair not in alike]
    for pair in pairs:
        pair.at.step += 1


def gradients(pair: Tensors) -> Params:
    """By name, of what trains; zero where a backward pass gave none."""
    found = {}
    for name, tensor in pair.named_parameters(recurse=False):
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
        found[name] = tensor.grad
    return found


def penalize(pairs: Sequence[Tensors]) -> None:
    """Add the penalties' gradients to those of the loss."""
    leaves = [{name: tensor.detach().requires_grad_() for name, tensor in pair.named_parameters(recurse=False)} for pair in pairs]
    with torch.enable_grad():
        terms = [pair.method.penalty(pair.tensors() | own) for pair, own in zip(pairs, leaves, strict=True)]
        total = sum(term.sum() for term in terms if term is not None)
    if isinstance(total, Tensor):
        inputs = [leaf for own in leaves for leaf in own.values()]
        found = torch.autograd.grad(total, inputs, allow_unused=True)
        places = [place for pair in pairs for place in gradients(pair).values()]
        for place, gradient in zip(places, found, strict=True):
            if gradient is not None:
                place.add_(gradient)


def finish(pairs: list[Tensors], optimizer: torch.optim.Optimizer) -> None:
    """Run the method's `after_step`, and take up what it changed: tensors, and the base where it merged."""
    method = pairs[0].method
    given = [pair.tensors() for pair in pairs]
    if method.merges:  # a zero that takes no memory: what comes in its place is what was merged
        for tensors in given:
            tensors["base"] = tensors["left"].new_zeros(()).expand(len(tensors["left"]), tensors["right"].shape[1])
    runs = [(dict(tensors), gradients(pair), moments(pair, optimizer), pair.at) for pair, tensors in zip(pairs, given, strict=True)]
    method.after_steps(runs)
    for pair, before, (params, *_) in zip(pairs, given, runs, strict=True):
        for name in pair.names:
            if params[name] is not before[name]:
                getattr(pair, name).data.copy_(params[name])
        if method.merges and params["base"] is not before["base"]:
            assert isinstance(pair, Pair)  # what layers share is not merged
            take_up(pair, params["base"])


def take_up(pair: Pair, merged: Tensor) -> None:
    """Add what was merged (m, n), in units of the layer's scale, to the base; the first time the base is kept."""
    base = pair.site.base_matrix()
    if pair.original is None:
        pair.original = base.to("cpu", copy=True)
    pair.site.set_base(base + pair.site.scaling * merged.to(base))


def moments(pair: Tensors, optimizer: torch.optim.Optimizer) -> State:
    """What the optimizer keeps of the pair, by the names of its tensors."""
    if isinstance(optimizer, RuleOptimizer):
        found = optimizer.state_of(pair)
        assert found is not None
        return found
    return Foreign(pair, optimizer)


NAMES = {"momentum_buffer": "momentum"}  # what torch calls otherwise


class Foreign(State):
    """A view of a torch optimizer's state: its moments, and its counts of steps."""

    def __init__(self, pair: Tensors, optimizer: torch.optim.Optimizer) -> None:
        self.kept: dict[str, Mapping[str, Any]] = {
            name: optimizer.state[tensor] for name, tensor in pair.named_parameters(recurse=False)
        }
        shapes = {name: tensor.shape for name, tensor in pair.named_parameters(recurse=False)}
        moments = {
            name: {NAMES.get(key, key): value for key, value in kept.items() if isinstance(value, Tensor) and key != "step"}
            for name, kept in self.kept.items()
        }
        super().__init__(moments)
        self.entrywise = all(moment.shape == shapes[name] for name, each in moments.items() for moment in each.values())

    def reset(self, name: str) -> None:
        super().reset(name)
        step = self.kept[name].get("step")
        if isinstance(step, Tensor):
            step.zero_()
        elif step is not None:
            self.kept[name]["step"] = 0  # type: ignore[index]  # torch keeps plain dictionaries
