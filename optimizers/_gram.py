"""Functions of the r x r Gram matrices of factors, in batches where a lane may have diverged."""

from collections.abc import Callable

import torch
from torch import Tensor

from linalg import decomposable


def spectral_map(gram: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """(..., r, r) U f(Λ) Uᵀ of positive semidefinite matrices U Λ Uᵀ.

    NaN for a matrix that is not finite, for which batched LAPACK would raise for all.

    Args:
        function: of eigenvalues (..., r) in ascending order, none below zero.
    """
    usable = decomposable(gram)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(usable, gram, 0.0))
    return ((vectors * function(values.clamp_min(0))[..., None, :]) @ vectors.mT).where(usable, torch.nan)


def gram_power(gram: Tensor, exponent: float, ridge: Tensor | float = 0.0) -> Tensor:
    """(..., r, r) (gram + ridge I)^exponent.

    Without a ridge the null space, up to eigenvalues of r eps λ1, stays null: a negative exponent gives a pseudo-inverse.

    Args:
        ridge: at least zero; a number, or (..., 1).
    """

    def power(values: Tensor) -> Tensor:
        tolerance = gram.shape[-1] * torch.finfo(gram.dtype).eps * values[..., -1:]
        return torch.where((values <= tolerance) & (ridge == 0), 0.0, (values + ridge) ** exponent)

    return spectral_map(gram, power)


def precondition_pair(
    left: Tensor, right: Tensor, grad_left: Tensor, grad_right: Tensor, scale: float, ridge: float
) -> tuple[Tensor, Tensor]:
    """Each factor's gradient times the inverse Gram matrix of the other factor, the scale counted in."""
    by_right = gram_power(scale**2 * right @ right.mT, -1, ridge)
    by_left = gram_power(scale**2 * left.mT @ left, -1, ridge)
    return grad_left @ by_right, by_left @ grad_right
