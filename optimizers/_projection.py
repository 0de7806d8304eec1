"""Random projections that are kept as a seed and drawn again at every use."""

import math

import torch
from torch import Tensor

from linalg import InputError, gaussian
from parameterizations import Step


def draw_seeds(seeds: Tensor, at: Step | int) -> None:
    """Fill seeds, one a matrix, from the streams of the step: as many from each as it has layers.

    Raises:
        InputError: where there are no streams, or their number does not fit.
    """
    generators = at.generators if isinstance(at, Step) else ()
    if not generators or len(seeds) % len(generators):
        raise InputError(f"generators: {len(generators)} given, but {len(seeds)} projections are to be drawn")
    each = len(seeds) // len(generators)
    seeds.copy_(torch.cat([torch.randint(2**62, (each,), generator=generator) for generator in generators]))


def projection(seeds: Tensor, rank: int, like: Tensor) -> Tensor:
    """A (..., k, rank) with entries N(0, 1/rank), k the shorter side of matrices `like` (..., m, n), from the seeds alone."""
    *lead, m, n = like.shape
    drawn = [gaussian(min(m, n), rank, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()]
    lead = [lead[0], 1, *lead[2:]] if len(lead) > 1 else lead
    return torch.stack(drawn).reshape(*lead, min(m, n), rank).to(like).div_(math.sqrt(rank))


def down(matrix: Tensor, seeds: Tensor, rank: int) -> Tensor:
    """G A, or for a wide matrix Aᵀ G: the shorter side is projected away."""
    random = projection(seeds, rank, matrix)
    return random.mT @ matrix if matrix.shape[-2] < matrix.shape[-1] else matrix @ random


def up(compressed: Tensor, seeds: Tensor, like: Tensor) -> Tensor:
    """C Aᵀ, or A C: an unbiased estimate of what was projected, in the shape of `like`."""
    wide = like.shape[-2] < like.shape[-1]
    random = projection(seeds, compressed.shape[-2 if wide else -1], like)
    return random @ compressed if wide else compressed @ random.mT
