"""LoRA: the update is B A; B (m, r) starts at zero, or both factors at a part of the weight."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import FactoredMatrix, InputError
from linalg.checks import check_choice
from parameterizations._lora_schemes import NEED_BASE, RANDOM, SCHEMES, SPLIT, gradient_pair, singular_pair
from parameterizations._parameterization import Parameterization
from parameterizations._scheme import Scheme


@dataclass(frozen=True)
class LoRA(Parameterization):
    """B A, scaled by alpha / r; B starts at zero, or B A at a part that is taken off the base.

    Args:
        rank: r.
        alpha: the numerator of the scale; None for r, so that the scale is 1.
        init: A's law over a zero B: `kaiming`, U[-1/√n, 1/√n], as PEFT has it; `gaussian`, N(0, 1/r), so that
            E[AᵀA] = I; `orthogonal`, orthonormal rows. Or the part of the weight that B A starts from, which the base loses:
            `pissa`, its best approximation of rank r (Meng et al. 2024, arXiv 2404.02948); `milora`, its r smallest
            singular components (Wang et al. 2024, arXiv 2406.09044); `lora_ga`, singular vectors of the first gradient, so
            that a first step of gradient descent is one along the gradient's best approximation of rank 2r (Wang et al.
            2024, arXiv 2407.05000; theirs goes with `rslora`, and with γ = 16: another γ is another alpha and learning rate).
        rslora: scale by alpha / √r instead (Kalajdzievski 2023, arXiv 2312.03732).

    A start other than zero is kept, so that `export` gives the pair of rank 2r that goes with the pretrained weight. Such a
    LoRA reaches W0 + Δ only where Δ and the start together have rank r: with `pissa` and `milora` hardly ever, however low
    the rank of Δ; with `lora_ga` where the gradient has the rows of Δ.
    """

    reference: ClassVar[str] = "Hu et al. 2022, arXiv 2106.09685"
    size: ClassVar[str] = "r * (m + n)"
    pair: ClassVar[str] = "stored"

    rank: int = 8
    alpha: float | None = None
    init: str = "kaiming"  # type: ignore[assignment]  # a Scheme: the field's name and the method's coincide
    rslora: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("init", self.init, SCHEMES)
        check_choice("rslora", self.rslora, (True, False))
        object.__setattr__(self, "init", Scheme(self.init, self))

    def __setstate__(self, state):
        self.__dict__.update(state)  # pickle and deepcopy call no __init__, and give the scheme as plain text
        self.__post_init__()

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        if not self.splits:
            return {
                "left": torch.zeros(m, self.rank, dtype=torch.float64),
                "right": RANDOM[self.init](self.rank, n, generator),
            }
        weight = torch.zeros(shape, dtype=torch.float64) if base is None else base.double().cpu()
        if self.init in NEED_BASE:
            left, right = singular_pair(weight, self.rank, self.scaling, principal=self.init == "pissa")
        elif gradient is None:
            raise InputError("gradient=None: LoRA-GA starts from the first gradient; pass a function W -> dL/dW to init()")
        else:
            left, right = gradient_pair(gradient(weight).double().cpu(), self.rank)
        residual = weight - self.scaling * left @ right
        return {"left": left, "right": right, "left_start": left.clone(), "right_start": right.clone(), "base": residual}

    def factors(self, params):
        return params["left"], params["right"]

    @property
    def scaling(self) -> float:
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def splits(self) -> bool:
        """Whether the factors start from a part of the weight, so that what is learned is W less its start, not the chain."""
        return self.init in SPLIT

    @property
    def needs(self):
        return ("base",) if self.init in NEED_BASE else ()

    @property
    def frozen(self):
        return ("base", "left_start", "right_start") if self.splits else ("base",)

    def reach(self, shape):
        return min(2 * self.rank if self.splits else self.rank, *shape)

    def export(self, params):
        """The pair of all that was learned: where the base lost the start, B A less the start, on the pretrained weight."""
        if not self.splits:
            return super().export(params)
        left, right, left_start, right_start = (params[name] for name in ("left", "right", "left_start", "right_start"))
        factors = (
            torch.cat([left, -left_start.expand_as(left)], dim=-1),
            torch.cat([right, right_start.expand_as(right)], dim=-2),
        )
        learned = FactoredMatrix(factors, scale=self.scaling)
        if learned.rank < factors[0].shape[-1]:
            learned = FactoredMatrix((learned.update(),))
        left, right = learned.pair()
        return right, left
