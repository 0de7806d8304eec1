"""LoRA-Muon: the steepest step of a product of two factors in the spectral norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import polar_factor
from linalg.checks import check, check_number
from optimizers._gram import gram_power
from optimizers._pair import PairRule
from optimizers._state import State


@dataclass(frozen=True)
class LoRAMuon(PairRule):
    """dB = -lr/2s msign(m_B R_A) R_A with R_A = (A Aᵀ)^(-1/2), dA alike; B ← c B + dB / c, c = √(1 - lr weight_decay).

    Args:
        momentum: β of the mean gradients m. Muon's; the paper's experiments could not be read.
        weight_decay: of the weight: a factor loses half of it each.
        ridge: on the diagonal of each Gram matrix over its Frobenius norm (appendix B.4). At 0 a singular one has its
            pseudo-inverse.

    Each half of the motion of s B A has spectral norm lr/2, and the weight's path does not depend on how it is factored or
    scaled. msign(U Σ Vᵀ) = U Vᵀ and the roots are computed exactly, where the paper's polynomials approach them;
    singular values at rounding level count as zero, so that msign(0) = 0.
    """

    reference: ClassVar[str] = "Cesista et al. 2026, arXiv 2606.12921"
    memory: ClassVar[str] = "r * (m + n)"
    moments: ClassVar[tuple[str, ...]] = ("momentum",)
    span: ClassVar[tuple[float, float]] = (1e-3, 1.0)

    momentum: float = 0.95
    weight_decay: float = 0.0
    ridge: float = 1e-5

    def __post_init__(self) -> None:
        check_number("momentum", self.momentum, least=0)
        check(self.momentum < 1, "momentum", self.momentum, "below 1: a mean that never takes up a gradient stays at zero")
        check_number("weight_decay", self.weight_decay, least=0)
        check_number("ridge", self.ridge, least=0)

    def step_pair(self, left, right, grad_left, grad_right, state, lr, step):
        by_right, by_left = self._root(right @ right.mT), self._root(left.mT @ left)
        towards_left = polar_factor(self._mean(grad_left, "left", state) @ by_right) @ by_right
        towards_right = by_left @ polar_factor(by_left @ self._mean(grad_right, "right", state))
        for param, direction, rate in ((left, towards_left, lr[0]), (right, towards_right, lr[1])):
            kept = (1 - rate * self.weight_decay) ** 0.5
            param.mul_(kept).sub_(direction * rate / (2 * state.scale * kept))

    def _mean(self, grad: Tensor, name: str, state: State) -> Tensor:
        return state[name]["momentum"].lerp_(grad, 1 - self.momentum)

    def _root(self, gram: Tensor) -> Tensor:
        """gram^(-1/2)"""
        size = torch.linalg.matrix_norm(gram, keepdim=True)
        return gram_power(gram, -0.5, self.ridge * size[..., 0])
