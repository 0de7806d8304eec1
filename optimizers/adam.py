"""Adam: the step is the mean gradient over the root of the mean squared gradient, entry by entry."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check, check_number
from optimizers._optimizer import Optimizer


@dataclass(frozen=True)
class Adam(Optimizer):
    """w ← w - lr m̂ / (√v̂ + eps); weight decay, if any, is added to the gradient."""

    reference: ClassVar[str] = "Kingma and Ba 2015, arXiv 1412.6980"
    moments: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check(isinstance(self.betas, Collection) and len(self.betas) == 2, "betas", self.betas, "two numbers")
        object.__setattr__(self, "betas", tuple(self.betas))
        for beta in self.betas:
            check_number("betas", beta, least=0, most=1)
            check(beta < 1, "betas", self.betas, "below 1: the bias correction divides by 1 - beta")
        check_number("eps", self.eps, least=0)
        check_number("weight_decay", self.weight_decay, least=0)

    def step_tensor(self, param, grad, state, name, lr, step):
        if self.weight_decay:
            grad = self._decay(param, grad, lr)
        beta1, beta2 = self.betas
        first, second = state[name]["exp_avg"], state[name]["exp_avg_sq"]
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        correction1 = 1 - beta1 ** state.count(name, "exp_avg", step)
        correction2 = 1 - beta2 ** state.count(name, "exp_avg_sq", step)
        direction = torch.sqrt(second).mul_(correction2**-0.5).add_(self.eps)
        torch.div(first, direction, out=direction)
        param.sub_(direction.mul_(lr / correction1))

    def _decay(self, param, grad, lr):
        return grad.add(param, alpha=self.weight_decay)
