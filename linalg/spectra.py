"""Singular values and what is read off them: (..., k) values sorted from the largest, whose last dimension is reduced."""

import torch
from torch import Tensor

LARGEST = 1e150  # LAPACK's iterations may fail where squares overflow


def svdvals(matrix: Tensor) -> Tensor:
    """Singular values of (..., m, n) in float64; NaN where they are not to be had, for which batched LAPACK would raise for all."""
    matrix = matrix.detach().double()
    usable = decomposable(matrix)
    values = torch.linalg.svdvals(torch.where(usable[..., None, None], matrix, 0.0))
    return values.masked_fill(~usable[..., None], torch.nan)


def decomposable(matrix: Tensor) -> Tensor:
    """(...,) whether a matrix (..., m, n) is finite and small enough for LAPACK."""
    return (matrix.abs() < LARGEST).all(-1).all(-1)


def polar_factor(matrix: Tensor) -> Tensor:
    """(..., m, n) U Vᵀ of U Σ Vᵀ over the singular values that are not zero to rounding; NaN where the matrix has no SVD."""
    usable = decomposable(matrix)[..., None, None]
    left, values, right = torch.linalg.svd(torch.where(usable, matrix, 0.0), full_matrices=False)
    kept = values > max(matrix.shape[-2:]) * torch.finfo(matrix.dtype).eps * values[..., :1]
    return torch.where(usable, (left * kept[..., None, :]) @ right, torch.nan)


def condition(values: Tensor) -> Tensor:
    """σ1 / σk: infinite where σk is zero, NaN for the zero matrix."""
    return values[..., 0] / values[..., -1]


def effective_rank(values: Tensor) -> Tensor:
    """exp of the entropy of the values normalised to sum 1 (Roy and Vetterli 2007); NaN for the zero matrix."""
    share = values / values.sum(-1, keepdim=True)
    return torch.exp(-torch.special.xlogy(share, share).sum(-1))


def stable_rank(values: Tensor) -> Tensor:
    """‖W‖²_F / ‖W‖²_2; NaN for the zero matrix."""
    share = values / values[..., :1]
    return share.square().sum(-1)


def numerical_rank(values: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """How many values exceed max(m, n) · eps · σ1, as in `torch.linalg.matrix_rank`; eps is that of the dtype trained in."""
    threshold = max(shape) * torch.finfo(dtype).eps * values[..., :1]
    return torch.where(values.isnan().any(-1), torch.nan, (values > threshold).sum(-1).double())
