"""A generator over tensors of any names and shapes, each with a head of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from linalg import InputError, Program
from linalg.random import gaussian
from parameterizations._generator import draw_head, draw_trunk, hidden_units, record_hidden_units, record_pull_back
from parameterizations._parameterization import Parameterization
from parameterizations._step import Params

WEIGHT, BIAS = "_head_weight", "_head_bias"
TRUNK, START = "generator_", "generator_start"


def shaped(entries: Tensor, shape: Sequence[int]) -> Tensor:
    """(..., *shape) of vectors (..., p); a tall matrix by columns, as it lies in a block's memory."""
    lead = entries.shape[:-1]
    if len(shape) > 1 and shape[-2] > shape[-1]:
        return entries.view(*lead, *shape[:-2], shape[-1], shape[-2]).mT
    return entries.view(*lead, *shape)


def as_column(x: Tensor, lead: int) -> Tensor:
    """(..., p, 1), a view: the opposite of `shaped` after the first `lead` dimensions."""
    x = x.mT if x.ndim > lead + 1 and x.shape[-2] > x.shape[-1] else x
    return x.view(*x.shape[:lead], -1, 1) if x.ndim != lead + 1 else x[..., None]


def draw_generator(sizes: Any, start: Mapping[str, Tensor], generator: torch.Generator | None, layers: int | None = None) -> Params:
    """A trunk and heads that predict the tensors in `start`, or for `layers` (L) of them the change from `start` (L, ...).

    Args:
        sizes: has `hidden`, `embedding`, `embedding_scale`, and `head`: where `random`, weights of heads are drawn, except
            for what starts at zero; else all are zero.
    """
    hidden, embedding, scale = sizes.hidden, sizes.embedding, sizes.embedding_scale
    params = draw_trunk(hidden, embedding, scale, generator, TRUNK)
    if layers is not None:
        params[TRUNK + "embedding"] = scale * gaussian(layers, embedding, generator=generator)
    units = hidden_units(params if layers is None else _over_layers(params, 0), TRUNK)
    rest = {}
    for name, tensor in start.items():
        shape = tensor.shape if layers is None else tensor.shape[1:]
        drawn = sizes.head == "random" and bool(tensor.any())
        weight = draw_head(shape.numel(), hidden, generator) if drawn else torch.zeros(shape.numel(), hidden, dtype=torch.float64)
        rest[name] = tensor - shaped(units @ weight.mT, shape)
        params[name + WEIGHT], params[name + BIAS] = weight, rest[name] if layers is None else torch.zeros_like(tensor[0])
    if layers is not None:
        params[START] = torch.cat([rest[name].flatten(1) for name in sorted(rest)], dim=1)
    return params


def predict(params: Mapping[str, Tensor]) -> Params:
    """What the heads predict, by name. A head's bias has the shape of the tensor predicted."""
    if START in params:
        return _predict_for_layers(params)
    units = hidden_units(params, TRUNK)
    lead = units.ndim - 1
    return {
        name: params[name + BIAS] + shaped((params[name + WEIGHT] @ units[..., None])[..., 0], params[name + BIAS].shape[lead:])
        for name in headed(params)
    }


def _predict_for_layers(params: Mapping[str, Tensor]) -> Params:
    lead = params[TRUNK + "hidden_bias"].ndim - 1
    changes = predict(_over_layers(params, lead))
    shapes = {name: changes[name].shape[lead + 1 :] for name in sorted(changes)}
    starts = params[START].split([shape.numel() for shape in shapes.values()], dim=-1)
    pairs = zip(shapes.items(), starts, strict=True)
    return {name: start.reshape(*start.shape[:-1], *shape) + changes[name] for (name, shape), start in pairs}


def _over_layers(params: Mapping[str, Tensor], lead: int) -> Params:
    """The generator that layers share, with their dimension (1) after the first `lead`: each has but its input of its own."""
    own = TRUNK + "embedding"
    shared = {name: tensor for name, tensor in params.items() if name.startswith(TRUNK) or name.endswith((WEIGHT, BIAS))}
    return {name: tensor if name == own else tensor.unsqueeze(lead) for name, tensor in shared.items() if name != START}


def headed(params: Mapping[str, Tensor]) -> list[str]:
    """The names of what is predicted."""
    return [name.removesuffix(BIAS) for name in params if name.endswith(BIAS)]


def record_predict(
    program: Program, params: Params, grads: Params
) -> tuple[Params, Callable[[], None], dict[str, tuple[Tensor, Tensor]]] | None:
    """Record `predict`, of a generator that no layers share.

    Returns the tensors, what records the way back from their gradients, which are those of the heads' biases (one memory serves
    both), and the gradients of the heads' weights as outer products; None where a gradient lies in memory as no vector can.
    """
    lead = params[TRUNK + "hidden_bias"].ndim - 1
    try:
        columns = {name: as_column(grads[name + BIAS], lead) for name in headed(params)}
    except RuntimeError:
        return None
    units = record_hidden_units(program, params, TRUNK)
    tensors = {}
    for name in columns:
        entries = program.matmul(params[name + WEIGHT], units)[..., 0]
        tensors[name] = shaped(entries, params[name + BIAS].shape[lead:])
        program.do(tensors[name].add_, params[name + BIAS])

    def pull_back() -> None:
        heads = [(params[name + WEIGHT], column) for name, column in columns.items()]
        record_pull_back(program, params, grads, units, heads, TRUNK)

    return tensors, pull_back, {name + WEIGHT: (column, units.mT) for name, column in columns.items()}


def check_predictable(method: Parameterization, name: str, shared: bool) -> None:
    """Raise `InputError` where no generator can predict what the method trains, or where layers are not to share it."""
    reason = None
    if method.merges:
        reason = "it merges what it learns into the base, and starts its tensors afresh"
    elif type(method).record_tangent is not Parameterization.record_tangent:
        reason = "its factors are to be orthonormal, and what a generator predicts is not"
    elif type(method).after_step is not Parameterization.after_step or method.directs:
        reason = "it changes its tensors or their gradients beside the optimizer, which moves the generator alone"
    if reason:
        raise InputError(f"over={name!r}: cannot be predicted: {reason}")
    if shared and "layers" in method.needs:
        raise InputError(f"shared=True: the layers of {name} share what they train, so that one MLP predicts it as it is")
