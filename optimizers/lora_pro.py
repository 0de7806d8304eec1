"""LoRA-Pro: the factors move so that the weight follows its own gradient as closely as its rank allows."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check_choice, check_number, two_decays
from optimizers._gram import gram_power
from optimizers._optimizer import descend
from optimizers._pair import PairRule
from optimizers._state import State


@dataclass(frozen=True)
class LoRAPro(PairRule):
    """dB, dA that minimise ‖s (B dA + dB A) - g‖: what is left of g is (I - P_B) g (I - P_A).

    Args:
        rule: `sgd` descends along dB, dA; `adamw` keeps full-size moments of s (B dA + dB A), and descends along the dB, dA of
            the direction that they give.
        betas, eps, weight_decay: of `adamw`; see `AdamW`.
        ridge: on the diagonal of the Gram matrices that are inverted. At 0 a singular one has its pseudo-inverse.

    Of all such dB, dA (X is free in dB - B X, dA + X A) those nearest to the factors' own gradients are taken, by a
    Sylvester equation in the eigenbases of Bᵀ B and A Aᵀ. The scale s is the parameterization's, where the authors' code
    has a fixed 2, and bias corrections count from the first step, where it counts from the second.
    """

    reference: ClassVar[str] = "Wang et al. 2025, arXiv 2407.18242"
    memory: ClassVar[str] = "2 * m * n if rule == 'adamw' else 0"
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)

    rule: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    ridge: float = 1e-8

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, ("sgd", "adamw"))
        object.__setattr__(self, "betas", two_decays("betas", self.betas))
        check_number("eps", self.eps, least=0)
        check_number("weight_decay", self.weight_decay, least=0)
        check_number("ridge", self.ridge, least=0)

    def init(self, params, rates=None, scale=1.0):
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in params}
        if self.rule == "adamw":
            left, right = params["left"], params["right"]
            shape = (*left.shape[:-1], right.shape[-1])
            moments["left"] = {"exp_avg": left.new_zeros(shape), "exp_avg_sq": left.new_zeros(shape)}
        return State(moments, rates, scale)

    def step_pair(self, left, right, grad_left, grad_right, state, lr, step):
        if self.rule == "adamw":
            towards_left, towards_right = self._nearest(left, right, grad_left, grad_right, state.scale)
            direction = self._adam(state.scale * (left @ towards_right + towards_left @ right), state)
            grad_left, grad_right = state.scale * direction @ right.mT, state.scale * left.mT @ direction
        towards_left, towards_right = self._nearest(left, right, grad_left, grad_right, state.scale)
        free = sylvester(left.mT @ left, right @ right.mT, -towards_right @ right.mT)
        for param, direction, rate in (
            (left, towards_left - left @ free, lr[0]),
            (right, towards_right + free @ right, lr[1]),
        ):
            if self.rule == "adamw" and self.weight_decay:
                descend(param, param, rate * self.weight_decay)
            descend(param, direction, rate)

    def _nearest(self, left: Tensor, right: Tensor, grad_left: Tensor, grad_right: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """dB, dA with X = 0."""
        by_left, by_right = gram_power(left.mT @ left, -1, self.ridge), gram_power(right @ right.mT, -1, self.ridge)
        beyond = grad_left - left @ (by_left @ (left.mT @ grad_left))
        return beyond @ by_right / scale**2, by_left @ grad_right / scale**2

    def _adam(self, gradient: Tensor, state: State) -> Tensor:
        """(..., m, n) the direction of Adam along the gradient of the whole weight."""
        count = state.count("left", gradient).double()
        first, second = state["left"]["exp_avg"], state["left"]["exp_avg_sq"]
        first.lerp_(gradient, 1 - self.betas[0])
        second.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        corrections = [(1 - beta**count).to(gradient.dtype) for beta in self.betas]
        return first / corrections[0] / ((second / corrections[1]).sqrt() + self.eps)


def sylvester(left: Tensor, right: Tensor, constant: Tensor) -> Tensor:
    """X (..., r, r) with left X + X right = constant for positive semidefinite matrices; 0 in directions where both are singular.

    NaN where any of them is not finite.
    """
    grams = torch.stack([left, right])
    usable = (grams.isfinite().all(0) & constant.isfinite()).all(-1).all(-1)[..., None, None]
    (a, b), (u, v) = torch.linalg.eigh(torch.where(usable, grams, 0.0))
    sums = a.clamp_min(0)[..., :, None] + b.clamp_min(0)[..., None, :]
    tolerance = left.shape[-1] * torch.finfo(left.dtype).eps * sums[..., -1:, -1:]
    inner = torch.where(sums <= tolerance, 0.0, u.mT @ constant @ v / sums)
    return (u @ inner @ v.mT).where(usable, torch.nan)
