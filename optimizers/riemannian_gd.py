"""Riemannian gradient descent on the manifold of matrices of one rank."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_number
from optimizers._manifold import TangentRule, cut, ranks, retract, tangent_step
from optimizers._optimizer import per_lane
from optimizers._state import State


@dataclass(frozen=True)
class RiemannianGD(TangentRule):
    """W ← SVD_r(W - lr Z), Z = P(W) G + momentum P(W) Z_old, P(W) Z = U Uᵀ Z + Z V Vᵀ - U Uᵀ Z V Vᵀ.

    Args:
        momentum: of the heavy ball; Z goes to the next tangent space by its projection. It is kept as Z V and Uᵀ Z.

    The retraction is the metric projection: the truncated SVD of a matrix of rank 2 r, from QR of m x 2r and n x 2r.
    """

    reference: ClassVar[str] = "Vandereycken 2013, arXiv 1209.3834"
    memory: ClassVar[str] = "r * (m + n) if momentum else 0"
    span: ClassVar[tuple[float, float]] = (1e-2, 2.0)

    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_number("momentum", self.momentum, least=0, most=1)

    def init(self, params, rates=None, scale=1.0):
        kept = ("left", "right") if self.momentum else ()
        return State({name: {"momentum": torch.zeros_like(params[name])} if name in kept else {} for name in params}, rates, scale)

    @torch.no_grad()
    def update(self, params, grads, state, lr, step):
        left, core, right = factors = params["left"], params["core"], params["right"]
        along_left, along_right = grads["left"], grads["right"]
        if self.momentum:
            along_left = along_left + self.momentum * state["left"]["momentum"]
            along_right = along_right + self.momentum * state["right"]["momentum"]
        turned_left, values, turned_right = retract(tangent_step(factors, along_left, along_right, per_lane(lr, core)))
        new = cut(turned_left, torch.diag_embed(values), turned_right, ranks(left), left.shape[-1])
        if self.momentum:
            both = left.mT @ along_left
            before, behind = new[0].mT @ left, right @ new[2].mT
            moved_left = (along_left - left @ both) @ behind + left @ (along_right @ new[2].mT)
            moved_right = before @ (along_right - both @ right) + (new[0].mT @ along_left) @ right
            state["left"]["momentum"].copy_(moved_left)
            state["right"]["momentum"].copy_(moved_right)
        for name, tensor in zip(("left", "core", "right"), new, strict=True):
            params[name].copy_(tensor)
