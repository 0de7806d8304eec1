"""Any class of torch.optim, or of a library that builds on it, run on the lanes without writing code."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from typing import Any, ClassVar

import torch as pytorch
from torch import Tensor

from linalg import InputError
from optimizers._optimizer import Optimizer
from optimizers._state import State
from parameterizations import Parameterization, Step

_NO_GROUPS = "doesn't support per-parameter options"


class TorchState(State):
    """Holds the torch optimizers: one for all lanes, or one a lane where the class takes no parameter groups."""

    optimizers: list[pytorch.optim.Optimizer]
    lanes: list[dict[str, pytorch.nn.Parameter]]

    def reset(self, name: str) -> None:
        for optimizer in self.optimizers:
            for lane in self.lanes:
                if name in lane:
                    optimizer.state.pop(lane[name], None)
        self.restarted.add(name)


@dataclass(frozen=True)
class Torch(Optimizer):
    """A `torch.optim.Optimizer` class by its dotted name.

    Args:
        target: the class, or its name, such as `torch.optim.NAdam` or `pytorch_optimizer.Lion`.
        options: its keyword arguments, the learning rate not among them.

    Every lane is a parameter group (and every rate within it), with the lane's learning rate. A class that refuses
    groups, as LBFGS does, gets one optimizer a lane; one whose `step` needs a closure is given the lane's own.
    What a class keeps is known when it has run alone: there is no formula for `memory`.
    On the command line: `optimizer=torch optimizer._target_=torch.optim.NAdam +optimizer.momentum_decay=0.01`.
    """

    reference: ClassVar[str] = "torch.optim, or the library named"

    target: str = "torch.optim.AdamW"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.target, type):
            object.__setattr__(self, "target", f"{self.target.__module__}.{self.target.__qualname__}")
        object.__setattr__(self, "options", dict(self.options))
        if "lr" in self.options:
            raise InputError("optimizer.lr: the learning rate belongs to the sweep; give lr.values, or lr.min and lr.max")
        self._try()

    def __hash__(self) -> int:
        return hash((self.target, repr(sorted(self.options.items()))))

    def _try(self) -> None:
        """Raise `InputError` where the class cannot be made with these options, or cannot take a step along dense gradients."""
        cls: Any = optimizer_class(self.target)
        tensor = pytorch.nn.Parameter(pytorch.zeros(2, 2))
        tensor.grad = pytorch.ones(2, 2)
        try:
            made = cls([tensor], lr=1e-3, **self.options)
            if not needs_closure(self.target):
                made.step()
        except Exception as error:  # whatever a class from elsewhere raises
            given = "".join(f", {name}={value!r}" for name, value in self.options.items())
            raise InputError(f"optimizer._target_={self.target!r}{given}: {' '.join(str(error).split())}") from error

    def supports(self, parameterization: Parameterization) -> str | None:
        if needs_closure(self.target) and (parameterization.penalizes or parameterization.directs):
            return "its closure sees the loss alone"
        if parameterization.merges:
            return "it merges and restarts its factors, and a torch.optim optimizer keeps its moments to itself"
        return None

    def init(self, params, rates=None, scale=1.0):
        state = TorchState({name: {} for name in params}, rates, scale)
        state.optimizers, state.lanes = [], []
        return state

    def _build(self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: TorchState, lr: Tensor) -> None:
        """Wrap every lane's slice of every tensor as a parameter that shares its memory."""
        cls: Any = optimizer_class(self.target)  # what it takes beside parameters is its own affair
        groups = []
        for lane in lane_indices(lr.shape):
            tensors = {name: pytorch.nn.Parameter(params[name].detach()[lane]) for name in grads}
            state.lanes.append(tensors)
            by_rate: dict[float, list[pytorch.nn.Parameter]] = {}
            for name, tensor in tensors.items():
                by_rate.setdefault(state.rates.get(name, 1.0), []).append(tensor)
            groups.append([{"params": tensors, "lr": float(lr[lane]) * rate} for rate, tensors in by_rate.items()])
        try:
            state.optimizers = [cls([group for lane in groups for group in lane], lr=groups[0][0]["lr"], **self.options)]
        except ValueError as error:
            if _NO_GROUPS not in str(error):
                raise
            if any(len(lane) > 1 for lane in groups):
                raise InputError(f"{self.target}: takes one learning rate, but this parameterization needs several") from error
            state.optimizers = [cls(lane[0]["params"], lr=lane[0]["lr"], **self.options) for lane in groups]
        if needs_closure(self.target) and len(state.optimizers) == 1 < len(state.lanes):
            raise InputError(f"{self.target}: needs a closure, which lanes in parameter groups cannot share")

    @pytorch.no_grad()
    def update(self, params, grads, state, lr, step):
        lr = lr if isinstance(lr, Tensor) else pytorch.tensor(float(lr), dtype=pytorch.float64)
        if not state.optimizers:
            self._build(params, grads, state, lr)
        lanes = lane_indices(lr.shape)
        for lane, tensors in zip(lanes, state.lanes, strict=True):
            for name, tensor in tensors.items():
                tensor.grad = grads[name][lane].contiguous()
        by_rate = dict.fromkeys(state.rates.get(name, 1.0) for name in state.lanes[0])  # in the order that the groups were built in
        rates = [float(lr[lane]) * rate for lane in lanes for rate in by_rate]
        groups = [group for optimizer in state.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        if not needs_closure(self.target):
            for optimizer in state.optimizers:
                optimizer.step()
            return
        for optimizer, lane, tensors in zip(state.optimizers, lanes, state.lanes, strict=True):
            closure = self._closure(step, lane, tensors)
            if closure is None:
                raise InputError(f"{self.target}: evaluates the loss within a step; pass update() a Step with a closure")
            optimizer.step(closure)

    def state_bytes(self, state):
        tensors = [value for optimizer in state.optimizers for moments in optimizer.state.values() for value in moments.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))

    def _closure(self, step: Step | int, lane: tuple[int, ...], tensors: Mapping[str, pytorch.nn.Parameter]) -> Any:
        """The lane's loss as the closure that line searches call, or None where there is none to give."""
        if not isinstance(step, Step) or step.closure is None:
            return None
        evaluate = step.closure

        def closure() -> Tensor:
            loss, grads = evaluate(lane)  # type: ignore[arg-type]  # lanes of a run have two dimensions
            for name, tensor in tensors.items():
                tensor.grad = grads[name].reshape(tensor.shape).contiguous()
            return loss

        return closure


def optimizer_class(target: str) -> type[pytorch.optim.Optimizer]:
    """The optimizer class that a dotted name stands for.

    Raises:
        InputError: where nothing of that name can be imported, or it is not a `torch.optim.Optimizer`.
    """
    module, _, name = str(target).rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"optimizer._target_={target!r}: must be a class that can be imported ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, pytorch.optim.Optimizer)):
        raise InputError(f"optimizer._target_={target!r}: must be a subclass of torch.optim.Optimizer")
    return cls


def needs_closure(target: str) -> bool:
    """Whether the class's `step` cannot do without a closure."""
    closure = inspect.signature(inspect.unwrap(optimizer_class(target).step)).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def lane_indices(shape: pytorch.Size) -> list[tuple[int, ...]]:
    """Every index into a tensor of that shape, last dimension fastest; one empty index for a scalar."""
    return list(product(*map(range, shape)))
