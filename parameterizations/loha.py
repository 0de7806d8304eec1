"""LoHa: the Hadamard product of two low-rank products, whose rank goes up to r²."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.random import gaussian
from parameterizations._parameterization import Parameterization


@dataclass(frozen=True)
class LoHa(Parameterization):
    """(B1 A1) ⊙ (B2 A2), scaled by alpha / r; B2 starts at zero.

    Args:
        rank: r of both products.
        alpha: None for r, so that the scale is 1.

    As a chain of width r²: row i of the left factor is B1[i] ⊗ B2[i], column j of the right one A1[:, j] ⊗ A2[:, j]
    (Khatri-Rao products); where r² is no narrower than the matrix, one dense factor. A1 and A2 start at N(0, 1), B1 at
    N(0, 0.01), as in LyCORIS.
    """

    reference: ClassVar[str] = "Hyeon-Woo et al. 2022, arXiv 2108.06098; Yeh et al. 2024, arXiv 2309.14859"
    size: ClassVar[str] = "2 * r * (m + n)"

    rank: int = 8
    alpha: float | None = None

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        return {
            "left_1": 0.1 * gaussian(m, self.rank, generator=generator),
            "right_1": gaussian(self.rank, n, generator=generator),
            "left_2": torch.zeros(m, self.rank, dtype=torch.float64),
            "right_2": gaussian(self.rank, n, generator=generator),
        }

    def factors(self, params):
        left_1, right_1, left_2, right_2 = (params[name] for name in ("left_1", "right_1", "left_2", "right_2"))
        if self.rank**2 >= min(left_1.shape[-2], right_1.shape[-1]):
            return ((left_1 @ right_1) * (left_2 @ right_2),)
        return _row_products(left_1, left_2), _row_products(right_1.mT, right_2.mT).mT

    def reach(self, shape):
        return min(self.rank**2, *shape)


def _row_products(first: Tensor, second: Tensor) -> Tensor:
    """(..., p, q s): row by row the Kronecker products of (..., p, q) and (..., p, s)."""
    return (first[..., :, None] * second[..., None, :]).flatten(-2)
