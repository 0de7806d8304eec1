"""A block's state between two steps as plain tensors by name, and back."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from bench.engine import Block
from linalg import InputError
from optimizers import Torch


def save(block: Block) -> dict[str, Tensor]:
    """Everything that the next step depends on, copied: parameters, moments, what methods remember, random streams.

    Raises:
        InputError: for optimizers of torch.optim, which keep their state to themselves.
    """
    if isinstance(block.optimizer, Torch):
        raise InputError(f"{block.optimizer.target}: keeps its state to itself; only rules of this suite can be saved")
    streams = chain(enumerate(block.at.generators), enumerate(block.batches.generators, len(block.seeds)))
    saved = {
        **{f"params/{name}": tensor for name, tensor in block.params.items()},
        **block.state.pack(),
        **{f"memory/{name}": tensor for name, tensor in block.at.memory.items()},
        **{f"streams/{i}": stream.get_state() for i, stream in streams},
        "lr": block.lr,
        "step": torch.tensor(block.at.step),
    }
    return {name: tensor.detach().clone() for name, tensor in saved.items()}


def load(block: Block, saved: Mapping[str, Tensor]) -> None:
    """Put a block of the same configuration where `saved` was taken.

    Raises:
        InputError: where it is of another configuration.
    """

    def of(kind: str) -> dict[str, Tensor]:
        return {name.removeprefix(f"{kind}/"): tensor for name, tensor in saved.items() if name.startswith(f"{kind}/")}

    params = of("params")
    fits = params.keys() == block.params.keys()
    if not fits or any(params[name].shape != tensor.shape for name, tensor in block.trainable.items()):
        raise InputError("checkpoint: is of another configuration")
    block.state.unpack(saved)
    for name, tensor in params.items():
        if name in block.trainable:
            block.trainable[name].copy_(tensor)
        else:
            block.params[name] = tensor.to(block.lr.device).clone()
    block.lr.copy_(saved["lr"])
    block.at.memory.clear()
    block.at.memory.update({name: tensor.to(block.lr.device).clone() for name, tensor in of("memory").items()})
    streams = of("streams")
    for i, stream in enumerate(chain(block.at.generators, block.batches.generators)):
        stream.set_state(streams[str(i)])
    block.at.step = block.batches.step = int(saved["step"])
    block.restart_rates()
    block.prepare()
