"""LoRA: the update is B A with B (m, r) started at zero."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_choice, check_number
from linalg.random import gaussian, orthogonal, uniform
from parameterizations._parameterization import Parameterization, Scheme

SCHEMES = {
    "kaiming": lambda r, n, generator: uniform(r, n, bound=1 / math.sqrt(n), generator=generator),
    "gaussian": lambda r, n, generator: gaussian(r, n, generator=generator) / math.sqrt(r),
    "orthogonal": lambda r, n, generator: orthogonal(r, n, generator),
}


@dataclass(frozen=True)
class LoRA(Parameterization):
    """B A, scaled by alpha / r; B starts at zero.

    Args:
        rank: r.
        alpha: the numerator of the scale; None for r, so that the scale is 1.
        init: A's law: `kaiming`, U[-1/√n, 1/√n], as PEFT has it; `gaussian`, N(0, 1/r), so that E[AᵀA] = I;
            `orthogonal`, orthonormal rows.
        rslora: scale by alpha / √r instead (Kalajdzievski 2023, arXiv 2312.03732).
    """

    reference: ClassVar[str] = "Hu et al. 2022, arXiv 2106.09685"
    pair: ClassVar[str] = "stored"

    rank: int = 8
    alpha: float | None = None
    init: str = "kaiming"  # type: ignore[assignment]  # a Scheme: the field's name and the method's coincide
    rslora: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("init", self.init, SCHEMES)
        check_choice("rslora", self.rslora, (True, False))
        if self.alpha is not None:
            check_number("alpha", self.alpha, above=0)
        object.__setattr__(self, "init", Scheme(self.init, self))

    def __setstate__(self, state):
        self.__dict__.update(state)  # pickle and deepcopy call no __init__, and give the scheme as plain text
        self.__post_init__()

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        return {
            "left": torch.zeros(m, self.rank, dtype=torch.float64),
            "right": SCHEMES[self.init](self.rank, n, generator),
        }

    def factors(self, params):
        return params["left"], params["right"]

    @property
    def scaling(self) -> float:
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
