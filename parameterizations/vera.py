"""VeRA: every layer scales the same frozen random factors by two trained vectors of its own."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check_number
from linalg.random import uniform
from parameterizations._parameterization import Parameterization


@dataclass(frozen=True)
class VeRA(Parameterization):
    """diag(b) B diag(d) A with B (m, r) and A (r, n) random and frozen; b (m,) and d (r,) train.

    Args:
        rank: r. A layer trains m + r numbers, so that the paper takes ranks in the hundreds.
        d_initial: every entry of d at the start; b starts at zero.

    A stack's layers share B and A. Both have Kaiming's uniform law, entries of variance 2 / fan-in, as in PEFT.
    """

    reference: ClassVar[str] = "Kopiczko et al. 2024, arXiv 2310.11454"
    size: ClassVar[str] = "m + r"

    rank: int = 8
    d_initial: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("d_initial", self.d_initial, above=0)

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        return {
            "left": uniform(m, self.rank, bound=math.sqrt(6 / self.rank), generator=generator),
            "right": uniform(self.rank, n, bound=math.sqrt(6 / n), generator=generator),
            "b": torch.zeros(m, dtype=torch.float64),
            "d": torch.full((self.rank,), self.d_initial, dtype=torch.float64),
        }

    def initial_layers(self, shape, layers, generator, base, gradient):
        params = self.initial(shape, generator, base, gradient)
        return params | {name: params[name].expand(layers, -1).clone() for name in ("b", "d")}

    def factors(self, params):
        b, d = params["b"], params["d"]
        return b[..., None] * _for_layers(params["left"], b), d[..., None] * _for_layers(params["right"], d)

    @property
    def frozen(self):
        return ("base", "left", "right")


def _for_layers(matrix: Tensor, vector: Tensor) -> Tensor:
    """A matrix that layers share, with their dimension: (..., 1, p, q) beside vectors (..., L, p)."""
    return matrix if matrix.ndim > vector.ndim else matrix.unsqueeze(-3)
