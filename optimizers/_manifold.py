"""Steps in the tangent space of the matrices U S Vᵀ of low rank, and the way back to a low rank. Columns of U and rows of Vᵀ
beyond the rank are zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

from linalg import decomposable
from optimizers._optimizer import Optimizer
from parameterizations import Parameterization

Factors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TangentRule(Optimizer):
    """Base class of rules that move the tensors `left` U, `core` S and `right` Vᵀ together."""

    tangent = True

    def moves_bases(self, step: int) -> bool:
        """Whether a step follows G V and Uᵀ G; else Uᵀ G V, the gradient by S, is all that it looks at."""
        return True

    def supports(self, parameterization: Parameterization) -> str | None:
        if type(parameterization).record_tangent is Parameterization.record_tangent:
            return "it moves orthonormal factors along the manifold of matrices of low rank: those of svd"
        return None


def ranks(left: Tensor) -> Tensor:
    """(...,) how many columns of U (..., m, R) are not zero."""
    return left.detach().any(-2).sum(-1)


def tangent_step(factors: Factors, grad_left: Tensor, grad_right: Tensor, lr: Tensor | float) -> Factors:
    """Û (..., m, p), Ŝ (..., p, q), V̂ᵀ (..., q, n) of exactly W - lr (U Uᵀ G + G V Vᵀ - U Uᵀ G V Vᵀ), without an inverse of S.

    Û is the orthonormal factor of [U, G V], p = min(m, 2 R): U first, then the new directions, as many as U has columns that are
    not zero; what follows is arbitrary and Ŝ zero there. V̂ likewise.

    Args:
        factors: U (..., m, R), S (..., R, R), Vᵀ (..., R, n).
        grad_left, grad_right: G V (..., m, R) and Uᵀ G (..., R, n).
    """
    left, core, right = factors
    both = left.mT @ grad_left
    normal_left, normal_right = grad_left - left @ both, grad_right - both @ right
    used = left.any(-2)
    order = torch.cat([used, used], -1).int().argsort(dim=-1, descending=True, stable=True)[..., None, :]
    new_left = orthonormal(torch.cat([left, normal_left], -1).take_along_dim(order, -1))
    new_right = orthonormal(torch.cat([right, normal_right], -2).mT.take_along_dim(order, -1)).mT
    within = (new_left.mT @ left) @ ((core @ right - lr * grad_right) @ new_right.mT)
    return new_left, within - lr * (new_left.mT @ normal_left) @ (right @ new_right.mT), new_right


def orthonormal(columns: Tensor) -> Tensor:
    """(..., m, min(m, k)) Q of (..., m, k) = Q R; NaN where that is not to be had."""
    usable = decomposable(columns)[..., None, None]
    return torch.linalg.qr(columns.where(usable, 0.0)).Q.where(usable, torch.nan)


def retract(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of Û Ŝ V̂ᵀ: left (..., m, k), values (..., k) from the largest, right (..., k, n)."""
    left, core, right = factors
    usable = decomposable(core)[..., None, None]
    turn_left, values, turn_right = torch.linalg.svd(core.where(usable, 0.0), full_matrices=False)
    return left @ turn_left, values.where(usable[..., 0], torch.nan), turn_right @ right


def cut(left: Tensor, core: Tensor, right: Tensor, rank: Tensor, room: int) -> Factors:
    """The first `rank` (...,) columns and rows, with zeros up to `room` of them."""
    keep = torch.arange(room, device=core.device) < rank[..., None]
    kept = core[..., :room, :room].where(keep[..., None, :] & keep[..., None], 0.0)
    return left[..., :room].where(keep[..., None, :], 0.0), kept, right[..., :room, :].where(keep[..., None], 0.0)
