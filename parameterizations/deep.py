"""Deep matrix factorization: a product of L full-width factors, started small and orthogonal."""

from dataclasses import dataclass
from typing import ClassVar

from linalg.checks import check_integer, check_number
from linalg.random import orthogonal
from parameterizations._parameterization import Parameterization


@dataclass(frozen=True)
class Deep(Parameterization):
    """W_L ... W_1 of width min(m, n), each factor orthogonal times `scale`.

    Args:
        depth: L, how many factors.
        scale: ε, the size of every singular value of every factor at the start. Yaras et al. use 1e-3 on targets of
            spectral norm about 60; from there gradient descent waits about 1 / (ε^(L-2) σ1 lr) steps before it moves,
            so the default for targets of norm 1 is larger.
    """

    reference: ClassVar[str] = "Arora et al. 2018, arXiv 1802.06509; Yaras et al. 2024, arXiv 2406.04112"
    size: ClassVar[str] = "min(m, n) * (m + n + (depth - 2) * min(m, n))"

    depth: int = 3
    scale: float = 0.1

    def __post_init__(self) -> None:
        check_integer("depth", self.depth, least=2)
        check_number("scale", self.scale, above=0)

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        widths = [n] + [min(m, n)] * (self.depth - 1) + [m]
        return {
            f"factor_{layer}": self.scale * orthogonal(widths[layer], widths[layer - 1], generator)
            for layer in range(1, self.depth + 1)
        }

    def factors(self, params):
        return tuple(params[f"factor_{layer}"] for layer in range(self.depth, 0, -1))
