"""Flora: Adafactor whose momentum, or sum of gradients, is kept as a random projection."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check_choice, check_integer, check_number
from optimizers._matrix import MatrixRule, mean_square
from optimizers._optimizer import descend
from optimizers._projection import down, draw_seeds, up
from parameterizations import Step


@dataclass(frozen=True)
class Flora(MatrixRule):
    """W ← W - α U, U = (1 - b) u + b M Aᵀ clipped, M ← b M + (1 - b) u A, u Adafactor's direction, A ~ N(0, 1/r) of a seed.

    Args:
        rank: r; M is r times the longer side. Matrices no larger than r keep their momentum whole.
        interval: κ, steps between two projections; M then goes to M Aᵀ A'. 0 keeps the first for ever. The authors' 1000
            is for long training.
        beta1: b; 0 for no momentum.
        accumulation: how many steps' gradients are added up in compressed form before the weight moves along their mean, under a
            projection of its own each time; 0 for none.
        beta2_decay: the means of G² + eps1 over rows and columns decay by 1 - t^beta2_decay.
        eps1, eps2: see above; the least scale of the weight.
        d: the largest root mean square of U.
        scale_parameter: whether α is the rate times max(eps2, RMS(W)), or the rate.
        weight_decay: W ← (1 - α weight_decay) W first.

    The present u enters exactly, only the past is compressed; the second moment is Adafactor's of the raw G, never projected.
    The state holds a seed, and A is drawn again at every use. Each transfer multiplies the energy of M by about 1 + (k + 1) / r, k
    the shorter side: it stays bounded where κ > ln(1 + (k + 1) / r) / (2 ln 1/b). The authors leave matrices longer than four times
    their width alone, as embeddings; here none are. Their JAX code transfers with the old A on both sides; this does not.
    RMS(W) is that of the tensor that trains, without its base: one that starts at zero takes its first steps at eps2.
    """

    reference: ClassVar[str] = "Hao et al. 2024, arXiv 2402.03293"
    memory: ClassVar[str] = "m + n + ((beta1 > 0) + (accumulation > 0)) * (rank * max(m, n) + 1 if rank < min(m, n) else m * n)"
    span: ClassVar[tuple[float, float]] = (1e-3, 1e1)
    vectors: ClassVar[bool] = True

    rank: int = 8
    interval: int = 100
    beta1: float = 0.9
    accumulation: int = 0
    beta2_decay: float = -0.8
    eps1: float = 1e-30
    eps2: float = 1e-3
    d: float = 1.0
    scale_parameter: bool = True
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_integer("rank", self.rank)
        check_integer("interval", self.interval, least=0)
        check_number("beta1", self.beta1, least=0, most=1)
        check_integer("accumulation", self.accumulation, least=0)
        check_number("beta2_decay", self.beta2_decay, most=0)
        check_number("eps1", self.eps1, above=0)
        check_number("eps2", self.eps2, least=0)
        check_number("d", self.d, above=0)
        check_choice("scale_parameter", self.scale_parameter, (True, False))
        check_number("weight_decay", self.weight_decay, least=0)

    def compresses(self, tensor: Tensor, dims: int) -> bool:
        return dims == 2 and self.rank < min(tensor.shape[-2:])

    def initial(self, tensor, dims):
        moments = {"square": torch.zeros_like(tensor)}
        if dims == 2:
            moments = {"row": torch.zeros_like(tensor[..., :1]), "column": torch.zeros_like(tensor[..., :1, :])}
        for moment, kept in (("momentum", self.beta1 > 0), ("sum", self.accumulation > 0)):
            if kept and self.compresses(tensor, dims):
                *lead, m, n = tensor.shape
                moments[moment] = tensor.new_zeros(*lead, *((self.rank, n) if m < n else (m, self.rank)))
                seeds = math.prod([lead[0], *lead[2:]] if len(lead) > 1 else lead)  # the rates of a seed share them
                moments[f"{moment}_seed"] = torch.zeros(seeds, dtype=torch.int64)
            elif kept:
                moments[moment] = torch.zeros_like(tensor)
        return moments

    def step_matrix(self, param, grad, moments, lr, age, dims, at):
        if self.accumulation:
            compressed = "sum_seed" in moments
            if compressed and (age - 1) % self.accumulation == 0:
                draw_seeds(moments["sum_seed"], at)
            moments["sum"].add_(down(grad, moments["sum_seed"], self.rank) if compressed else grad)
            if age % self.accumulation:
                return
            mean = moments["sum"] / self.accumulation
            grad, age = up(mean, moments["sum_seed"], param) if compressed else mean, age // self.accumulation
            moments["sum"].zero_()
        rate = lr
        if self.scale_parameter:
            rate = mean_square(param, dims).sqrt_().clamp_(min=self.eps2) * lr
        update = self._direct(self._normalize(grad, moments, age, dims), moments, age, at)
        if self.weight_decay:
            descend(param, param, rate * self.weight_decay)
        descend(param, update, rate / (mean_square(update, dims).sqrt_() / self.d).clamp_(min=1))

    def _normalize(self, grad: Tensor, moments: dict[str, Tensor], age: int, dims: int) -> Tensor:
        square, weight = grad.square().add_(self.eps1), age**self.beta2_decay
        if dims == 1:
            return moments["square"].lerp_(square, weight).rsqrt().mul_(grad)
        row = moments["row"].lerp_(square.mean(-1, keepdim=True), weight)
        column = moments["column"].lerp_(square.mean(-2, keepdim=True), weight)
        return grad * (row / row.mean(-2, keepdim=True)).rsqrt_() * column.rsqrt()

    def _direct(self, update: Tensor, moments: dict[str, Tensor], age: int, at: Step | int) -> Tensor:
        """The direction with its momentum, which is moved on."""
        if not self.beta1:
            return update
        momentum, seed = moments["momentum"], moments.get("momentum_seed")
        if seed is None:
            return momentum.lerp_(update, 1 - self.beta1)
        if age == 1:
            draw_seeds(seed, at)
        past = up(momentum, seed, update)
        if self.interval and age % self.interval == 0:
            draw_seeds(seed, at)
            momentum.copy_(down(past, seed, self.rank))
        momentum.lerp_(down(update, seed, self.rank), 1 - self.beta1)
        return torch.lerp(past, update, 1 - self.beta1)
