"""RMSprop: the gradient over the root of its running mean square."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_number
from optimizers._optimizer import Optimizer, descend


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """w ← w - lr g / (√v + eps), v ← alpha v + (1 - alpha) g²; with momentum, along its buffer."""

    reference: ClassVar[str] = "Tieleman and Hinton 2012"
    memory: ClassVar[str] = "(2 if momentum else 1) * m * n"
    elementwise: ClassVar[bool] = True
    stepless: ClassVar[bool] = True
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)

    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("alpha", 1), ("eps", float("inf")), ("momentum", 1), ("weight_decay", float("inf"))):
            check_number(name, getattr(self, name), least=0, most=most)

    @property
    def moments(self):  # type: ignore[override]  # a constant of the class elsewhere; here it depends on the momentum
        return ("square_avg", "momentum") if self.momentum else ("square_avg",)

    def step_tensor(self, param, grad, state, name, lr, step):
        if self.weight_decay:
            grad = grad.add(param, alpha=self.weight_decay)
        square = state[name]["square_avg"].mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        direction = torch.sqrt(square, out=state.scratch(name, param)).add_(self.eps)
        torch.div(grad, direction, out=direction)
        if self.momentum:
            direction = state[name]["momentum"].mul_(self.momentum).add_(direction)
        descend(param, direction, lr)
