"""Muon: the step is the momentum with all its singular values made equal."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import polar_factor
from linalg.checks import check, check_choice, check_integer, check_number
from optimizers._matrix import MatrixRule
from optimizers._optimizer import descend


@dataclass(frozen=True)
class Muon(MatrixRule):
    """W ← W - lr √max(1, m/n) U Vᵀ, U Σ Vᵀ the momentum: the steepest descent in the spectral norm.

    Args:
        momentum, nesterov: the average M ← momentum M + (1 - momentum) G, and whether it looks ahead.
        orthogonalize: `newton_schulz`, `ns_steps` rounds of X ← a X + (b X Xᵀ + c (X Xᵀ)²) X from X = M / ‖M‖_F, which brings the
            singular values near 1, not to it; `polar`, exactly U Vᵀ, by SVD, over the range of M (zero stays zero).
        coefficients: a, b, c.
        eps: the least norm that M is divided by.
        adjust_lr: what multiplies lr for an m x n matrix: `original`, √max(1, m/n); `match_rms_adamw`, 0.2 √max(m, n), with
            which AdamW's rates fit (Liu et al. 2025, arXiv 2502.16982); `none`.
        weight_decay: W ← (1 - lr weight_decay) W first.

    As torch.optim.Muon, which runs the iteration in bfloat16 for speed; here it keeps the lanes' precision. Vectors, which torch
    refuses, go by AdamW at the same rate: the entries of its steps are as large as those of an m x 1 matrix here.
    """

    reference: ClassVar[str] = (
        "Jordan et al. 2024, kellerjordan.github.io/posts/muon; Bernstein and Newhouse 2024, arXiv 2409.20325"
    )
    memory: ClassVar[str] = "m * n"
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)

    momentum: float = 0.95
    nesterov: bool = True
    orthogonalize: str = "newton_schulz"
    ns_steps: int = 5
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: float = 1e-7
    adjust_lr: str = "original"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_number("momentum", self.momentum, least=0)
        check(self.momentum < 1, "momentum", self.momentum, "below 1: a mean that never takes up a gradient stays at zero")
        check_choice("nesterov", self.nesterov, (True, False))
        check_choice("orthogonalize", self.orthogonalize, ("newton_schulz", "polar"))
        check_integer("ns_steps", self.ns_steps)
        three = isinstance(self.coefficients, Collection) and len(self.coefficients) == 3
        check(three, "coefficients", self.coefficients, "three numbers")
        object.__setattr__(self, "coefficients", tuple(self.coefficients))
        for coefficient in self.coefficients:
            check_number("coefficients", coefficient)
        check_number("eps", self.eps, above=0)
        check_choice("adjust_lr", self.adjust_lr, ("original", "match_rms_adamw", "none"))
        check_number("weight_decay", self.weight_decay, least=0)

    def initial(self, tensor, dims):
        return {"momentum": torch.zeros_like(tensor)}

    def step_matrix(self, param, grad, moments, lr, age, dims, at):
        average = moments["momentum"].lerp_(grad, 1 - self.momentum)
        momentum = grad.lerp(average, self.momentum) if self.nesterov else average
        if self.orthogonalize == "polar":
            direction = polar_factor(momentum)
        else:
            direction = newton_schulz(momentum, self.coefficients, self.ns_steps, self.eps)
        if self.weight_decay:
            descend(param, param, lr * self.weight_decay)
        descend(param, direction, lr * self.adjustment(*param.shape[-2:]))

    def adjustment(self, m: int, n: int) -> float:
        """What the rate of an m x n matrix is multiplied by."""
        if self.adjust_lr == "match_rms_adamw":
            return 0.2 * math.sqrt(max(m, n))
        return math.sqrt(max(1.0, m / n)) if self.adjust_lr == "original" else 1.0


def newton_schulz(matrix: Tensor, coefficients: Collection[float], steps: int, eps: float) -> Tensor:
    """(..., m, n) with singular values p(p(...p(σ / ‖M‖_F))), p(x) = a x + b x³ + c x⁵, and the singular vectors of M."""
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / x.square().sum((-2, -1), keepdim=True).sqrt_().clamp_(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
