"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from linalg import decomposable
from linalg.checks import check_choice, check_integer, check_number, two_decays
from optimizers._matrix import MatrixRule
from optimizers._optimizer import descend
from optimizers.adamw import AdamW


@dataclass(frozen=True)
class SOAP(MatrixRule):
    """W ← W - lr P (Pᵀ M̂ Q / (√V̂ + eps)) Qᵀ, V the mean of (Pᵀ G Q)², P and Q eigenvectors of the mean G Gᵀ and Gᵀ G.

    Args:
        betas: of M and V.
        shampoo_beta: of the means of G Gᵀ and Gᵀ G; None for the second of `betas`.
        interval: steps between two refreshes of P and Q, each by one power iteration and QR (`precondition_frequency`).
        one_sided: turn the smaller side alone, as the paper's cheaper variant does.
        weight_decay: W ← (1 - lr weight_decay) W after the step.

    As the authors' code: the first gradient only sets up the bases, and moves nothing; V stays as it is when they turn, apart from
    its order. Their QR is in float32, here in the lanes' precision. Vectors go by AdamW.

    On tall factors the path depends on rounding: the longer side's mean has a kernel, where every refreshed basis is whatever
    rounding makes it, and Adam turns rounding into full steps. A rate changed in its 14th digit changed LoRA's loss after 200
    steps by a third and more with `interval` 1, by up to 1 % with 10. `one_sided` has no such side: it changed by 1e-13.
    """

    reference: ClassVar[str] = "Vyas et al. 2024, arXiv 2409.11321"
    memory: ClassVar[str] = "2 * (m * n + (min(m, n)**2 if one_sided else m**2 + n**2))"
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)

    betas: tuple[float, float] = (0.95, 0.95)
    shampoo_beta: float | None = None
    eps: float = 1e-8
    interval: int = 10
    one_sided: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", two_decays("betas", self.betas))
        if self.shampoo_beta is not None:
            check_number("shampoo_beta", self.shampoo_beta, least=0, most=1)
        check_number("eps", self.eps, above=0)
        check_integer("interval", self.interval)
        check_choice("one_sided", self.one_sided, (True, False))
        check_number("weight_decay", self.weight_decay, least=0)

    @cached_property
    def otherwise(self):
        return AdamW(self.betas, self.eps, self.weight_decay)

    def sides(self, m: int, n: int) -> tuple[str, ...]:
        """The sides that are turned."""
        return ("left", "right") if not self.one_sided else ("left",) if m <= n else ("right",)

    def initial(self, tensor, dims):
        moments = {"exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}
        for side in self.sides(*tensor.shape[-2:]):
            size = tensor.shape[-2 if side == "left" else -1]
            moments[side] = tensor.new_zeros(*tensor.shape[:-2], size, size)
            moments[f"{side}_basis"] = torch.zeros_like(moments[side])
        return moments

    def step_matrix(self, param, grad, moments, lr, age, dims, at):
        if age > 1:
            self._move(param, grad, moments, lr, age - 1)
        beta = self.betas[1] if self.shampoo_beta is None else self.shampoo_beta
        for side in self.sides(*param.shape[-2:]):
            moments[side].lerp_(grad @ grad.mT if side == "left" else grad.mT @ grad, 1 - beta)
            if age == 1:
                moments[f"{side}_basis"].copy_(eigenbasis(moments[side]))
            elif (age - 1) % self.interval == 0:
                self._refresh(moments, side)

    def _move(self, param: Tensor, grad: Tensor, moments: dict[str, Tensor], lr: Tensor | float, count: int) -> None:
        average = moments["exp_avg"].lerp_(grad, 1 - self.betas[0])
        square = moments["exp_avg_sq"].lerp_(turn(grad, moments).square_(), 1 - self.betas[1])
        direction = turn(turn(average, moments) / square.sqrt().add_(self.eps), moments, back=True)
        descend(param, direction, lr * (math.sqrt(1 - self.betas[1] ** count) / (1 - self.betas[0] ** count)))
        if self.weight_decay:
            descend(param, param, lr * self.weight_decay)

    def _refresh(self, moments: dict[str, Tensor], side: str) -> None:
        basis, square = moments[f"{side}_basis"], moments["exp_avg_sq"]
        product = moments[side] @ basis
        order = (basis * product).sum(-2).argsort(-1, descending=True)
        index = order[..., :, None] if side == "left" else order[..., None, :]
        square.copy_(square.gather(-2 if side == "left" else -1, index.expand_as(square)))
        basis.copy_(torch.linalg.qr(product.gather(-1, order[..., None, :].expand_as(product))).Q)


def turn(matrix: Tensor, moments: dict[str, Tensor], back: bool = False) -> Tensor:
    """Pᵀ X Q, or P X Qᵀ back again, for the bases that there are."""
    if "left_basis" in moments:
        matrix = (moments["left_basis"] if back else moments["left_basis"].mT) @ matrix
    if "right_basis" in moments:
        matrix = matrix @ (moments["right_basis"].mT if back else moments["right_basis"])
    return matrix


def eigenbasis(statistics: Tensor) -> Tensor:
    """Eigenvectors (..., k, k) in columns, of the largest eigenvalue first; NaN where there are none.

    In the kernel, whose basis rounding would choose, they are those of diag(1, ..., 2) cut down to it.
    """
    usable = decomposable(statistics)[..., None, None]
    safe, size = torch.where(usable, statistics, 0.0), statistics.shape[-1]
    values, vectors = torch.linalg.eigh(safe)
    scale = values[..., -1:].clamp(min=torch.finfo(values.dtype).tiny)
    kernel = vectors * (values <= size * torch.finfo(values.dtype).eps * scale)[..., None, :]
    weights = torch.linspace(1, 2, size, dtype=values.dtype, device=values.device) * scale
    kernel = kernel @ kernel.mT
    vectors = torch.linalg.eigh(safe - kernel * weights[..., None, :] @ kernel).eigenvectors
    return torch.where(usable, vectors.flip(-1), torch.nan)
