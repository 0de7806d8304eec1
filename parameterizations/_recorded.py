"""A weight whose factors a program fills, and the way back from it by autograd."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from linalg import FactoredMatrix, Program
from parameterizations._step import Params


@dataclass
class Recorded:
    """A weight whose factors a program fills.

    Args:
        weight: its factors keep their memory.
        cotangents: one a factor: where dL/dfactor is to be left; None where it is not wanted.
        pull_back: records the way from there to the gradients of the trainable tensors.
        outer: gradients that `pull_back` leaves unformed: column (..., p, 1) and row (..., 1, q) by name.
    """

    weight: FactoredMatrix
    cotangents: tuple[Tensor | None, ...]
    pull_back: Callable[[], None]
    outer: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def record_autograd(weight_of: Callable[[Params], FactoredMatrix], program: Program, params: Params, grads: Params) -> Recorded:
    """Record a map from tensors to a weight, and its derivative by autograd.

    Args:
        weight_of: the map.
        params: tensors that keep their memory.
        grads: where the gradients of those that train are to be left.
    """
    graph: dict[str, Any] = {}

    def evaluate() -> FactoredMatrix:
        graph["leaves"] = {name: params[name].detach().requires_grad_() for name in grads}
        with torch.enable_grad():
            weight = weight_of({**params, **graph["leaves"]})
            if weight.base is not None and weight.base is not params.get("base"):  # one of this step alone, maybe with a gradient
                weight = FactoredMatrix((weight.dense(),))
            first = weight.factors[0] if weight.scale == 1 else weight.factors[0] * weight.scale  # a step's own scale
        graph["factors"] = (first, *weight.factors[1:])
        return weight

    weight = evaluate()
    factors = tuple(program.empty(factor, factor.shape) for factor in graph["factors"])
    cotangents = tuple(program.empty(factor, factor.shape) if factor.requires_grad else None for factor in graph["factors"])

    def forward() -> None:
        evaluate()
        for place, factor in zip(factors, graph["factors"], strict=True):
            place.copy_(factor.detach())

    def backward() -> None:
        outputs = [factor for factor in graph["factors"] if factor.requires_grad]
        given = [cotangent for cotangent in cotangents if cotangent is not None]
        found = torch.autograd.grad(outputs, list(graph["leaves"].values()), given, allow_unused=True)
        for name, gradient in zip(graph["leaves"], found, strict=True):
            grads[name].zero_() if gradient is None else grads[name].copy_(gradient)

    program.decide(forward)
    return Recorded(FactoredMatrix(factors, weight.base), cotangents, lambda: program.decide(backward))
