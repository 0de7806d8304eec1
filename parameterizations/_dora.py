"""The weight of DoRA and its kin: rows of a learned length, in the direction that base and update give together."""

import torch
from torch import Tensor


def row_norms(weight: Tensor) -> Tensor:
    """(..., m, 1) Euclidean norms; a zero row counts as the smallest positive number, so that nothing divides by zero."""
    return torch.linalg.vector_norm(weight, dim=-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)


def weight_decomposed(base: Tensor, update: Tensor, magnitude: Tensor, *, detach: bool) -> Tensor:
    """(..., m, n): magnitude (base + update) / ‖base + update‖ row by row, less the base.

    Args:
        magnitude: (..., m, 1).
        detach: whether the norm counts as a constant in the gradient (Liu et al. 2024, section 4.3).
    """
    direction = base + update
    norms = row_norms(direction)
    return magnitude / (norms.detach() if detach else norms) * direction - base
