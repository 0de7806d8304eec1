"""Adagrad: the gradient over the root of the sum of its squares."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_number
from optimizers._optimizer import Optimizer, descend


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """w ← w - lr g / (√s + eps), s ← s + g²."""

    reference: ClassVar[str] = "Duchi, Hazan and Singer 2011"
    memory: ClassVar[str] = "m * n"
    moments: ClassVar[tuple[str, ...]] = ("sum",)
    elementwise: ClassVar[bool] = True
    stepless: ClassVar[bool] = True
    span: ClassVar[tuple[float, float]] = (1e-3, 1e1)

    eps: float = 1e-10
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_number("eps", self.eps, least=0)
        check_number("weight_decay", self.weight_decay, least=0)

    def step_tensor(self, param, grad, state, name, lr, step):
        if self.weight_decay:
            grad = grad.add(param, alpha=self.weight_decay)
        total = state[name]["sum"].addcmul_(grad, grad)
        direction = torch.sqrt(total, out=state.scratch(name, param)).add_(self.eps)
        torch.div(grad, direction, out=direction)
        descend(param, direction, lr)
