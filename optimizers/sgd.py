"""Gradient descent, with heavy-ball or Nesterov momentum."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import InputError
from linalg.checks import check_choice, check_number
from optimizers._optimizer import Optimizer, descend


@dataclass(frozen=True)
class SGD(Optimizer):
    """w ← w - lr (g + weight_decay w), or along the momentum buffer b ← momentum b + g."""

    reference: ClassVar[str] = "Robbins and Monro 1951; Polyak 1964; Nesterov 1983"
    memory: ClassVar[str] = "m * n if momentum else 0"
    elementwise: ClassVar[bool] = True
    stepless: ClassVar[bool] = True
    span: ClassVar[tuple[float, float]] = (1e-2, 1e2)

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_number("momentum", self.momentum, least=0, most=1)
        check_number("weight_decay", self.weight_decay, least=0)
        check_choice("nesterov", self.nesterov, (True, False))
        if self.nesterov and not self.momentum:
            raise InputError("nesterov=True: needs a momentum above 0")

    @property
    def moments(self):  # type: ignore[override]  # a constant of the class elsewhere; here it depends on the momentum
        return ("momentum",) if self.momentum else ()

    def step_tensor(self, param, grad, state, name, lr, step):
        if self.weight_decay:
            grad = grad.add(param, alpha=self.weight_decay)
        if self.momentum:
            buffer = state[name]["momentum"].mul_(self.momentum).add_(grad)
            grad = grad.add(buffer, alpha=self.momentum) if self.nesterov else buffer
        descend(param, grad, lr)

    def prefers_names(self, entries, device, outer):
        return outer and not (self.momentum or self.weight_decay)

    def record(self, program, params, grads, state, lr, at, outer):
        """An outer product is taken off the weight as a product of rank one, and never formed."""
        if not self.prefers_names(0, lr.device, bool(outer)) or state.rates:
            super().record(program, params, grads, state, lr, at, outer)
            return
        for name, (column, row) in outer.items():
            scaled = program.empty(column, column.shape)
            program.do(torch.mul, column, lr[..., None, None], out=scaled)
            program.matmul(scaled, row, params[name], alpha=-1, beta=1)
        rest = {name: grad for name, grad in grads.items() if name not in outer}
        super().record(program, params, rest, state, lr, at, {})
