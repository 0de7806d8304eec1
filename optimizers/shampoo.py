"""Shampoo: the gradient between inverse roots of the sums of its Gram matrices."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import decomposable
from linalg.checks import check_integer, check_number
from optimizers._matrix import MatrixRule
from optimizers._optimizer import descend


@dataclass(frozen=True)
class Shampoo(MatrixRule):
    """W ← W - lr L^(-1/4) G R^(-1/4), L = eps I + Σ G Gᵀ, R = eps I + Σ Gᵀ G.

    Args:
        eps: what L and R start from; their eigenvalues count as no less.
        interval: steps between two computations of the roots, once so many gradients have been seen; until then, every step.
        weight_decay: times W, added to the gradient.

    A vector is the tensor of order one that the paper makes of it: L^(-1/2) g. Roots are taken by eigenvalues. A root that is
    kept multiplies what no gradient before it had by up to eps^(-1/4), and beside a factor that starts at zero that is all
    there is. So none is kept at first; the authors' TensorFlow code, which advises more computations early, has identities
    for the first `interval` steps. With gradients of low rank rates above 2√eps can diverge all the same where `interval` is
    large: its eps is 1e-4 or more. The form of pytorch_optimizer takes no step before `interval` gradients have been seen, and with
    momentum averages raw gradients with preconditioned ones; neither is the paper's.
    """

    reference: ClassVar[str] = "Gupta, Koren and Singer 2018, arXiv 1802.09568"
    memory: ClassVar[str] = "(2 if interval > 1 else 1) * (m**2 + n**2)"
    span: ClassVar[tuple[float, float]] = (1e-3, 1e1)
    vectors: ClassVar[bool] = True

    eps: float = 1e-6
    interval: int = 1
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_number("eps", self.eps, above=0)
        check_integer("interval", self.interval)
        check_number("weight_decay", self.weight_decay, least=0)

    def initial(self, tensor, dims):
        sides = {"left": tensor.shape[-dims], "right": tensor.shape[-1]}
        if dims == 1:
            del sides["right"]
        kept = [*sides, *(f"{side}_root" for side in sides if self.interval > 1)]
        return {name: tensor.new_zeros(*tensor.shape[:-dims], *2 * (sides[name.removesuffix("_root")],)) for name in kept}

    def step_matrix(self, param, grad, moments, lr, age, dims, at):
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        if dims == 1:
            grad = grad[..., None]
        moments["left"].add_(grad @ grad.mT)
        direction = self._root(moments, "left", 2 * dims, age) @ grad
        if dims == 2:
            moments["right"].add_(grad.mT @ grad)
            direction = direction @ self._root(moments, "right", 2 * dims, age)
        descend(param, direction if dims == 2 else direction[..., 0], lr)

    def _root(self, moments: dict[str, Tensor], side: str, order: int, age: int) -> Tensor:
        if self.interval == 1:
            return inverse_root(moments[side], order, self.eps)
        if age < self.interval or age % self.interval == 0:
            moments[f"{side}_root"].copy_(inverse_root(moments[side], order, self.eps))
        return moments[f"{side}_root"]


def inverse_root(statistics: Tensor, order: int, eps: float) -> Tensor:
    """(S + eps I)^(-1/order) of symmetric S (..., k, k); NaN where it has no eigenvalues."""
    usable = decomposable(statistics)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(usable, statistics, 0.0))
    roots = values.add_(eps).clamp_(min=eps).pow_(-1 / order)
    return torch.where(usable, (vectors * roots[..., None, :]) @ vectors.mT, torch.nan)
