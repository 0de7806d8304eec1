"""The generator of OP-LoRA and its kin: an MLP with a learned input, with a head on its hidden layer for each thing predicted."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from linalg import Program
from linalg.random import gaussian, uniform
from parameterizations._step import Params

Head = tuple[Tensor, Tensor]


def draw_trunk(hidden: int, embedding: int, scale: float, generator: torch.Generator | None, prefix: str = "") -> dict[str, Tensor]:
    """The learned input z ~ N(0, scale²) and the hidden layer: weight U[-1/√e, 1/√e], bias zero."""
    return {
        f"{prefix}embedding": scale * gaussian(embedding, generator=generator),
        f"{prefix}hidden_weight": uniform(hidden, embedding, bound=1 / math.sqrt(embedding), generator=generator),
        f"{prefix}hidden_bias": torch.zeros(hidden, dtype=torch.float64),
    }


def draw_head(entries: int, hidden: int, generator: torch.Generator | None) -> Tensor:
    """(entries, k), U[-1/√k, 1/√k]."""
    return uniform(entries, hidden, bound=1 / math.sqrt(hidden), generator=generator)


def hidden_units(params: Mapping[str, Tensor], prefix: str = "") -> Tensor:
    """(..., k): ReLU(W1 z + c1)."""
    return torch.relu(affine(params[f"{prefix}hidden_weight"], params[f"{prefix}embedding"], params[f"{prefix}hidden_bias"]))


def affine(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """weight @ x + bias for (..., p, q), (..., q) and (..., p)."""
    return (weight @ x[..., None])[..., 0] + bias


def record_hidden_units(program: Program, params: Params, prefix: str = "") -> Tensor:
    """Record them as a column (..., k, 1)."""
    units = program.matmul(params[f"{prefix}hidden_weight"], params[f"{prefix}embedding"][..., None])
    program.do(units.add_, params[f"{prefix}hidden_bias"][..., None])
    program.do(units.clamp_min_, 0)
    return units


def record_pull_back(
    program: Program, params: Params, grads: Params, units: Tensor, heads: Iterable[Head], prefix: str = ""
) -> None:
    """Record the gradients of a trunk.

    Args:
        units: what `record_hidden_units` gave.
        heads: all that sit on it: the weight (..., p, k) and the gradient (..., p, 1) of what it predicts.
    """
    back = grads[f"{prefix}hidden_bias"][..., None]
    for i, (weight, column) in enumerate(heads):
        program.matmul(weight.mT, column, back, beta=float(i > 0))
    program.do(torch.ops.aten.threshold_backward.grad_input, back, units, 0, grad_input=back)
    program.do(torch.mul, back, params[f"{prefix}embedding"][..., None, :], out=grads[f"{prefix}hidden_weight"])
    program.matmul(params[f"{prefix}hidden_weight"].mT, back, grads[f"{prefix}embedding"][..., None])
