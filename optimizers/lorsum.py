"""LoRSum: the low-rank matrix nearest to the full gradient step, by alternating least squares."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import InputError
from linalg.checks import check_integer, check_number
from optimizers._gram import gram_power
from optimizers._optimizer import per_lane
from optimizers._pair import PairRule
from optimizers._state import State
from parameterizations import Parameterization, Step


@dataclass(frozen=True)
class LoRSum(PairRule):
    """s B A ≈ s B A - lr (G + momentum M), solved for A with B fixed, then for B with the new A; M ≈ momentum M + G alike.

    Args:
        iterations: K, how often each factor is solved for; 1 or 2 in the paper. Many give the truncated SVD, as far as
            the damping lets them.
        damping: each solution pays lr · damping / 2 times its squared distance from the factor at the start of the step.
        momentum: of the low-rank mean M, whose factors take as much memory as B and A.

    G is the gradient of the whole weight where the step starts. The authors' code has it as a product of a layer's inputs
    and output gradients; here it is formed. M starts as 0 · A, where that code has random rows for A.
    """

    reference: ClassVar[str] = "Almansoori et al. 2025, arXiv 2509.19977 (OPLoRA); 2026, arXiv 2602.16456"
    memory: ClassVar[str] = "r * (m + n) if momentum else 0"
    span: ClassVar[tuple[float, float]] = (1e-2, 1e1)

    iterations: int = 1
    damping: float = 1e-2
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_integer("iterations", self.iterations)
        check_number("damping", self.damping, least=0)
        check_number("momentum", self.momentum, least=0, most=1)

    @property
    def moments(self):  # type: ignore[override]  # a constant of the class elsewhere; here it depends on the momentum
        return ("momentum",) if self.momentum else ()

    def supports(self, parameterization: Parameterization) -> str | None:
        if parameterization.penalizes or parameterization.directs:
            return "it follows the gradient of the weight, and sees nothing that is added to those of the factors"
        if {"left", "right"} & parameterization.rates.keys():
            return "its two factors have one learning rate"
        return super().supports(parameterization)

    @torch.no_grad()
    def update(self, params, grads, state, lr, step):
        if not isinstance(step, Step) or step.gradient is None:
            raise InputError("lorsum: follows the gradient of the whole weight; pass update() a Step with a gradient")
        left, right, rate = params["left"], params["right"], per_lane(lr, params["left"])
        gradient = step.gradient()
        direction = gradient
        if self.momentum:
            direction = gradient + self.momentum * self._mean(gradient, right, state, rate)
        self._approach(left, right, left @ right - rate / state.scale * direction, rate)

    def _mean(self, gradient: Tensor, right: Tensor, state: State, rate: Tensor | float) -> Tensor:
        """(..., m, n) M before this step's gradient, which it then takes up."""
        rows, columns = state["left"]["momentum"], state["right"]["momentum"]
        columns.copy_(torch.where((columns == 0).all(-1, keepdim=True).all(-2, keepdim=True), right, columns))
        before = rows @ columns
        self._approach(rows, columns, self.momentum * before + gradient, rate)
        return before

    def _approach(self, left: Tensor, right: Tensor, target: Tensor, rate: Tensor | float) -> None:
        """Move left @ right towards the target, in place."""
        ridge = rate * self.damping
        ridge = ridge[..., 0] if isinstance(ridge, Tensor) and ridge.ndim else ridge
        now_left, now_right = left, right
        for _ in range(self.iterations):
            now_right = right + gram_power(now_left.mT @ now_left, -1, ridge) @ (now_left.mT @ (target - now_left @ right))
            now_left = left + (target - left @ now_right) @ now_right.mT @ gram_power(now_right @ now_right.mT, -1, ridge)
        left.copy_(now_left)
        right.copy_(now_right)
