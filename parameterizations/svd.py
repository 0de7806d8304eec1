"""U S Vᵀ with orthonormal U and V, for methods that move along the manifold of matrices of low rank."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import FactoredMatrix
from linalg.checks import check, check_integer, check_number
from linalg.random import orthogonal
from parameterizations._parameterization import Parameterization
from parameterizations._recorded import Recorded


@dataclass(frozen=True)
class SVD(Parameterization):
    """U S Vᵀ; U and V start with random orthonormal columns and S at `scale` times the identity, of rank `start`.

    Args:
        rank: R, how many columns there is room for. A rule that changes the rank keeps the columns beyond it at zero.
        start: the rank at the start; None for R.
        scale: of S at the start. At zero the gradients of U and V vanish, which rules on the manifold do not mind.

    The factors of a plain optimizer drift from orthonormality; the weight is U S Vᵀ all the same.
    """

    reference: ClassVar[str] = "Koch and Lubich 2007, doi 10.1137/050639703"
    size: ClassVar[str] = "r * (m + n + r)"

    rank: int = 8
    start: int | None = None
    scale: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None:
            check_integer("start", self.start)
            check(self.start <= self.rank, "start", self.start, f"at most {self.rank}, the rank")
        check_number("scale", self.scale, least=0)

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        active = torch.zeros(self.rank, dtype=torch.float64)
        active[: self.start or self.rank] = 1
        return {
            "left": orthogonal(m, self.rank, generator) * active,
            "core": self.scale * torch.diag(active),
            "right": active[:, None] * orthogonal(self.rank, n, generator),
        }

    def factors(self, params):
        return params["left"], params["core"], params["right"]

    def record_tangent(self, program, params, grads):
        """Record G V, Uᵀ G V and Uᵀ G, G = dL/dW, into the places of the gradients of U, S and Vᵀ.

        They need no inverse of S: in the chain [U S, U] [Vᵀ; 0] the first columns have the gradient G V, the last rows Uᵀ G.
        """
        left, core, right = (params[name] for name in ("left", "core", "right"))
        m, n, rank = left.shape[-2], right.shape[-1], core.shape[-1]
        tall = program.empty(left, (*left.shape[:-1], 2 * rank))
        wide = program.empty(right, (*right.shape[:-2], 2 * rank, n))
        wide.zero_()
        program.do(tall[..., rank:].copy_, left)
        program.do(tall[..., :rank].copy_, program.matmul(left, core))
        program.do(wide[..., :rank, :].copy_, right)
        tall_place = program.empty(left, (*left.shape[:-2], 2 * rank, m)).mT
        wide_place = program.empty(right, wide.shape)

        def pull_back() -> None:
            program.do(grads["left"].copy_, tall_place[..., :rank])
            program.do(grads["right"].copy_, wide_place[..., rank:, :])
            program.matmul(left.mT, grads["left"], grads["core"])

        return Recorded(FactoredMatrix((tall, wide), params.get("base")), (tall_place, wide_place), pull_back)
