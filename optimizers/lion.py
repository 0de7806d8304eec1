"""Lion: the step is the sign of an interpolated momentum, so that every entry moves by the learning rate."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_number, two_decays
from optimizers._optimizer import Optimizer, descend


@dataclass(frozen=True)
class Lion(Optimizer):
    """w ← w - lr sign(b1 m + (1 - b1) g), m ← b2 m + (1 - b2) g; weight decay is taken off the weight itself."""

    reference: ClassVar[str] = "Chen et al. 2023, arXiv 2302.06675"
    memory: ClassVar[str] = "m * n"
    moments: ClassVar[tuple[str, ...]] = ("exp_avg",)
    elementwise: ClassVar[bool] = True
    stepless: ClassVar[bool] = True
    span: ClassVar[tuple[float, float]] = (1e-5, 1e-1)

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", two_decays("betas", self.betas, corrected=False))
        check_number("weight_decay", self.weight_decay, least=0)

    def step_tensor(self, param, grad, state, name, lr, step):
        if self.weight_decay:
            descend(param, param, lr * self.weight_decay)
        average = state[name]["exp_avg"]
        direction = torch.lerp(average, grad, 1 - self.betas[0], out=state.scratch(name, param)).sign_()
        average.lerp_(grad, 1 - self.betas[1])
        descend(param, direction, lr)
