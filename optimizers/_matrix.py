"""Rules that treat a tensor as a matrix, and what they do with the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from optimizers._optimizer import Optimizer, per_lane
from optimizers._state import State
from optimizers.adamw import AdamW
from parameterizations import Step


class MatrixState(State):
    """Holds by name how many of a tensor's last dimensions are its own: 2 for a matrix, 1 for a vector, 0 for a number."""

    dims: dict[str, int]

    def reset(self, name: str) -> None:
        for moment in self[name].values():
            moment.zero_()
        self.restarted.add(name)
        if name in self.counts:
            self.counts[name].zero_()

    def age(self, name: str) -> int:
        """How many gradients the tensor has seen, this one included; counted on the CPU, so that no device is waited for."""
        return int(self.counts[name].add_(1))


@dataclass(frozen=True)
class MatrixRule(Optimizer):
    """Base class. A subclass gives `initial`, the moments of a tensor, and `step_matrix`.

    Vectors and numbers go by AdamW at the same learning rate, or where `vectors` is true by the rule itself. What is a matrix is
    read off the shapes: lanes are two dimensions that all tensors start with, or none; see `own_dimensions`.
    """

    vectors: ClassVar[bool] = False

    @cached_property
    def otherwise(self) -> Optimizer:
        """The rule for what is no matrix."""
        return AdamW(weight_decay=getattr(self, "weight_decay", 0.0))

    def initial(self, tensor: Tensor, dims: int) -> dict[str, Tensor]:
        """Zero moments of a tensor whose last `dims` dimensions are its own, 2 or 1."""
        raise NotImplementedError(f"{type(self).__name__} must define initial()")

    def step_matrix(
        self, param: Tensor, grad: Tensor, moments: dict[str, Tensor], lr: Any, age: int, dims: int, at: Step | int
    ) -> None:
        """Move one tensor in place.

        Args:
            lr: a number, or a tensor that broadcasts against `param`.
            age: how many gradients the moments have seen, this one included.
            dims: 2, or 1 for vectors where the rule takes them.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step_matrix()")

    def init(self, params, rates=None, scale=1.0):
        dims = own_dimensions(params)
        moments = {}
        for name, tensor in params.items():
            if dims[name] == 2 or self.vectors:
                moments[name] = self.initial(tensor if dims[name] else tensor[..., None], max(1, dims[name]))
            else:
                moments[name] = self.otherwise.init({name: tensor})[name]
        state = MatrixState(moments, rates, scale)
        state.dims = dims
        state.counts = {name: torch.zeros(()) for name in params if dims[name] == 2 or self.vectors}
        return state

    def move(self, params, grads, state, lr, step):
        for name, grad in grads.items():
            param, dims = params[name], state.dims[name]
            rate = per_lane(lr if name not in state.rates else lr * state.rates[name], param)
            if dims == 2 or self.vectors:
                if dims == 0:
                    rate = rate[..., None] if isinstance(rate, Tensor) else rate
                    param, grad = param[..., None], grad[..., None]
                self.step_matrix(param, grad, state[name], rate, state.age(name), max(1, dims), step)
            else:
                if grad.stride() != param.stride():
                    grad = torch.empty_like(param).copy_(grad)
                self.otherwise.step_tensor(param, grad, state, name, rate, step.step if isinstance(step, Step) else step)


def lane_dimensions(params: Mapping[str, Tensor]) -> int:
    """2 where all tensors start with the same two dimensions and some have more, (seeds, rates); else 0."""
    shapes = [tensor.shape for tensor in params.values()]
    shared = all(len(shape) >= 2 and shape[:2] == shapes[0][:2] for shape in shapes)
    return 2 if shared and any(len(shape) > 2 for shape in shapes) else 0


def own_dimensions(params: Mapping[str, Tensor]) -> dict[str, int]:
    """By name 2 for a matrix, 1 for a vector, 0 for a number.

    Where some tensor is a stack of matrices, vectors and numbers that come one a layer are known by the number of layers.
    A stack in which nothing but vectors trains looks like a matrix.
    """
    lanes = lane_dimensions(params)
    shapes = {name: tensor.shape[lanes:] for name, tensor in params.items()}
    layers = {shape[0] for shape in shapes.values() if len(shape) > 2}
    return {name: min(2, len(shape) - (0 < len(shape) <= 2 and shape[0] in layers)) for name, shape in shapes.items()}


def mean_square(tensor: Tensor, dims: int) -> Tensor:
    """Over a tensor's own dimensions, which stay with size 1."""
    return tensor.square().mean(tuple(range(-dims, 0)), keepdim=True)
