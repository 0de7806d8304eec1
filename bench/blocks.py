"""How lanes are cut into blocks: as many together as fit a budget of memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.engine import Block, Settings
from optimizers import Optimizer
from parameterizations import Parameterization
from problems import Instance

BLOCK_BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}
# On a CPU a block is to stay in the last cache: fewer, longer tensor operations win up to there. A graphics card has
# bandwidth to spare and wants long operations, so that memory alone bounds a block.


def cut_blocks(seeds: int, rates: int, bytes_a_lane: int, budget: int, bytes_a_seed: int = 0) -> Iterator[tuple[slice, slice]]:
    """Slices of seeds and rates that fit the budget together, at least one lane; rates of a seed stay together first.

    Args:
        bytes_a_seed: what the rates of a seed share. It keeps seeds apart; rates share it anyway.
    """
    fit = max(1, budget // max(1, bytes_a_lane))
    by_rate = -(-rates // min(rates, fit))
    rates_a_block = -(-rates // by_rate)
    together = budget // max(1, rates * bytes_a_lane + bytes_a_seed) if by_rate == 1 else 1
    seeds_a_block = max(1, min(seeds, together))
    for first in range(0, seeds, seeds_a_block):
        for start in range(0, rates, rates_a_block):
            yield slice(first, min(seeds, first + seeds_a_block)), slice(start, min(rates, start + rates_a_block))


def block_bytes(device: str) -> int:
    """The budget of a block on that kind of device."""
    return BLOCK_BYTES.get(torch.device(device).type, BLOCK_BYTES["cpu"])


def working_set(
    instance: Instance, parameterization: Parameterization, optimizer: Optimizer, settings: Settings
) -> tuple[int, int]:
    """Bytes that a step of one lane goes through: the lane's own, and those that the rates of its seed share."""
    block = Block([instance], parameterization, optimizer, [0], [1.0], settings)
    tensors = [value for value in vars(block.instance).values() if isinstance(value, Tensor)]
    return block.bytes, sum(tensor.numel() * tensor.element_size() for tensor in tensors)
