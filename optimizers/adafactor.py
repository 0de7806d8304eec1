"""Adafactor: the mean squared gradient kept as its row and column means."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check_choice, check_number
from optimizers._matrix import MatrixRule, mean_square
from optimizers._optimizer import descend


@dataclass(frozen=True)
class Adafactor(MatrixRule):
    """W ← W - α U / max(1, RMS(U) / d), U = G / √(r cᵀ / mean r), α = max(eps2, RMS(W)) min(lr, 1 / √t).

    Args:
        beta2_decay: the means r, c of G² over rows and columns decay by 1 - t^beta2_decay.
        eps1: the least mean r, and the least root of the second moment; None for the precision of the dtype.
        eps2: the least scale of the weight.
        d: the largest root mean square of U.
        scale_parameter: whether α is in proportion to the weight's root mean square; else eps2 has no part in it.
        relative_step: whether the rate is at most 1 / √t.
        weight_decay: W ← (1 - lr weight_decay) W first.

    As torch.optim.Adafactor, which differs from the paper in where eps1 enters, at the end and not in G². Vectors keep their
    whole second moment. A factor that starts at zero, as LoRA's B does, takes its first steps at eps2.
    """

    reference: ClassVar[str] = "Shazeer and Stern 2018, arXiv 1804.04235"
    memory: ClassVar[str] = "m + n"
    span: ClassVar[tuple[float, float]] = (1e-3, 1.0)
    vectors: ClassVar[bool] = True

    beta2_decay: float = -0.8
    eps1: float | None = None
    eps2: float = 1e-3
    d: float = 1.0
    scale_parameter: bool = True
    relative_step: bool = True
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_number("beta2_decay", self.beta2_decay, most=0)
        if self.eps1 is not None:
            check_number("eps1", self.eps1, least=0)
        check_number("eps2", self.eps2, least=0)
        check_number("d", self.d, least=1)
        check_choice("scale_parameter", self.scale_parameter, (True, False))
        check_choice("relative_step", self.relative_step, (True, False))
        check_number("weight_decay", self.weight_decay, least=0)

    def initial(self, tensor, dims):
        if dims == 1:
            return {"variance": torch.zeros_like(tensor)}
        return {"row_var": torch.zeros_like(tensor[..., :1]), "col_var": torch.zeros_like(tensor[..., :1, :])}

    def step_matrix(self, param, grad, moments, lr, age, dims, at):
        eps1 = torch.finfo(param.dtype).eps if self.eps1 is None else self.eps1
        rate = lr
        if self.relative_step:
            rate = lr.clamp(max=1 / math.sqrt(age)) if isinstance(lr, Tensor) else min(lr, 1 / math.sqrt(age))
        if self.scale_parameter:
            rate = mean_square(param, dims).sqrt_().clamp_(min=self.eps2) * rate
        if self.weight_decay:
            descend(param, param, lr * self.weight_decay)
        square, weight = grad.square(), age**self.beta2_decay
        if dims == 1:
            estimate = moments["variance"].lerp_(square, weight).clone()
        else:
            row = moments["row_var"].lerp_(square.mean(-1, keepdim=True), weight)
            column = moments["col_var"].lerp_(square.mean(-2, keepdim=True), weight)
            estimate = (row @ column).div_(row.mean(-2, keepdim=True).clamp_(min=eps1))
        update = estimate.clamp_(min=eps1 * eps1).rsqrt_().mul_(grad)
        descend(param, update, rate / (mean_square(update, dims).sqrt_() / self.d).clamp_(min=1))
