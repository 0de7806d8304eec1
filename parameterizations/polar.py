"""PoLAR: a three-factor update whose outer factors are drawn towards orthonormal columns, without a retraction."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_number
from linalg.random import orthogonal
from parameterizations._parameterization import Parameterization


@dataclass(frozen=True)
class PoLAR(Parameterization):
    """X Θ Yᵀ, scaled by alpha / r; X and Y follow the landing field Skew(g Xᵀ) X + λ X (XᵀX - I), g = dL/dX.

    Args:
        rank: r.
        alpha: the numerator of the scale; None for r, so that the scale is 1.
        regularization: λ, how strongly X and Y are drawn to the manifold; the authors' 5e-3 belongs to Adam and language models.

    X and Y start with random orthonormal columns, Θ at zero, and so does the update. Skew(M) = (M - Mᵀ) / 2; the authors' code
    leaves out the half, which makes its λ twice this one and its steps twice as long. Under gradient descent of rate η, XᵀX = I
    is stable while η λ < 1. The field is computed from r x r products, never from the m x m matrix g Xᵀ.
    """

    reference: ClassVar[str] = "Lion et al. 2025, arXiv 2506.03133"
    size: ClassVar[str] = "r * (m + n + r)"

    rank: int = 8
    alpha: float | None = None
    regularization: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("regularization", self.regularization, least=0)

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        return {
            "left": orthogonal(m, self.rank, generator),
            "core": torch.zeros(self.rank, self.rank, dtype=torch.float64),
            "right": orthogonal(self.rank, n, generator),
        }

    def factors(self, params):
        return params["left"], params["core"], params["right"]

    def direct(self, params, grads, at):
        for point, gradient in ((params["left"], grads["left"]), (params["right"].mT, grads["right"].mT)):
            gram = point.mT @ point
            tangent = (gradient @ gram - point @ (gradient.mT @ point)) / 2
            gradient.copy_(tangent + self.regularization * (point @ gram - point))
