"""StelLA: a three-factor update whose outer factors stay orthonormal, whatever rule moves them."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import polar_factor
from linalg.checks import check_choice, check_number
from linalg.random import orthogonal
from parameterizations._parameterization import Parameterization

SIDES = ("left", "right")


@dataclass(frozen=True)
class StelLA(Parameterization):
    """U S Vᵀ, scaled by alpha / r, with UᵀU = VᵀV = I: the rule's step is projected onto the tangent space and retracted.

    Args:
        rank: r.
        alpha: the numerator of the scale; None for r, so that the scale is 1.
        diagonal: whether S is a diagonal matrix.
        scale: S starts at this times the identity. At zero the update starts at zero, and U and V wait for S.
        width: d, multiplies the steps of U (m, r) by √(d/m) and those of V (n, r) by √(d/n), because rules such as Adam
            move all entries alike while those of U are of size 1/√m (the authors take the model's width); None for neither.

    U and V start with random orthonormal columns. A rule sees the gradient g - U gᵀ U of the canonical metric; its step Δ becomes
    Δ - U sym(UᵀΔ), and U the orthonormal polar factor of U plus that (Algorithm 1). Weight decay of U and V, which the authors
    switch off, the projection takes out by itself. Moments stay as the rule left them: the paper does not move them along.
    """

    reference: ClassVar[str] = "Li et al. 2025, arXiv 2510.01938"
    size: ClassVar[str] = "r * (m + n + (1 if diagonal else r))"

    rank: int = 8
    alpha: float | None = None
    diagonal: bool = False
    scale: float = 1.0
    width: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("diagonal", self.diagonal, (True, False))
        check_number("scale", self.scale, least=0)
        if self.width is not None:
            check_number("width", self.width, above=0)

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        ones = torch.ones(self.rank, dtype=torch.float64)
        return {
            "left": orthogonal(m, self.rank, generator),
            "core": self.scale * (ones if self.diagonal else torch.diag(ones)),
            "right": orthogonal(self.rank, n, generator),
        }

    def factors(self, params):
        left, core, right = (params[name] for name in ("left", "core", "right"))
        return left, torch.diag_embed(core) if self.diagonal else core, right

    def direct(self, params, grads, at):
        for side in SIDES:
            point, gradient = columns(params[side], side), columns(grads[side], side)
            gradient.sub_(point @ (gradient.mT @ point))
            at.memory[side] = point.clone()

    def after_step(self, params, grads, state, at):
        for side in SIDES:
            if side in at.memory:  # else nothing has moved yet
                moved, point = columns(params[side], side), at.memory[side]
                step = moved - point
                if self.width is not None:
                    step.mul_(math.sqrt(self.width / step.shape[-2]))
                inner = point.mT @ step
                moved.copy_(polar_factor((point + step - point @ (inner + inner.mT) / 2).double()))


def columns(x: Tensor, side: str) -> Tensor:
    """U, or V where Vᵀ is stored: the matrix whose columns are orthonormal."""
    return x if side == "left" else x.mT
