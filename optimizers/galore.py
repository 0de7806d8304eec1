"""GaLore: Adam on the gradient's leading singular directions."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from linalg import decomposable
from linalg.checks import check_integer, check_number, two_decays
from optimizers._matrix import MatrixRule
from optimizers._optimizer import descend
from optimizers.adamw import AdamW


@dataclass(frozen=True)
class GaLore(MatrixRule):
    """W ← W - lr scale Adam(G P) Pᵀ, P the first singular vectors of the present G, every `interval` steps; of its smaller side.

    Args:
        rank: of P, at most the smaller side.
        interval: T, steps between two bases (`update_proj_gap`), the first of them at the first step.
        scale: α.
        betas, eps: of Adam; eps is added to √v before the bias correction, as transformers' AdamW has it.
        weight_decay: W ← (1 - lr weight_decay) W after the step.

    As the authors' GaLoreAdamW with `proj_type=std`: Adam's moments stay as they are when the basis changes, so that the signs
    which LAPACK gives the singular vectors matter. Their SVD is in float32, here in the lanes' precision. Vectors go by AdamW.
    Meant for the dense weight of parameterization `full`; matrices no larger than the rank are turned, and save nothing.
    """

    reference: ClassVar[str] = "Zhao et al. 2024, arXiv 2403.03507"
    memory: ClassVar[str] = "min(rank, m, n) * (m + n + max(m, n))"
    span: ClassVar[tuple[float, float]] = (1e-3, 1e1)

    rank: int = 8
    interval: int = 200
    scale: float = 0.25
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_integer("rank", self.rank)
        check_integer("interval", self.interval)
        check_number("scale", self.scale, above=0)
        object.__setattr__(self, "betas", two_decays("betas", self.betas))
        check_number("eps", self.eps, above=0)
        check_number("weight_decay", self.weight_decay, least=0)

    @cached_property
    def otherwise(self):
        return AdamW(self.betas, self.eps, self.weight_decay)

    def initial(self, tensor, dims):
        *lead, m, n = tensor.shape
        rank = min(self.rank, m, n)
        compressed = (m, rank) if m >= n else (rank, n)
        return {
            "basis": tensor.new_zeros(*lead, min(m, n), rank),
            "exp_avg": tensor.new_zeros(*lead, *compressed),
            "exp_avg_sq": tensor.new_zeros(*lead, *compressed),
        }

    def step_matrix(self, param, grad, moments, lr, age, dims, at):
        basis, average, square = moments["basis"], moments["exp_avg"], moments["exp_avg_sq"]
        right = param.shape[-2] >= param.shape[-1]
        if (age - 1) % self.interval == 0:
            basis.copy_(leading_vectors(grad, basis.shape[-1]))
        small = grad @ basis if right else basis.mT @ grad
        average.lerp_(small, 1 - self.betas[0])
        square.lerp_(small.square_(), 1 - self.betas[1])
        direction = average / square.sqrt().add_(self.eps)
        correction = math.sqrt(1 - self.betas[1] ** age) / (1 - self.betas[0] ** age)
        descend(param, direction @ basis.mT if right else basis @ direction, lr * (self.scale * correction))
        if self.weight_decay:
            descend(param, param, lr * self.weight_decay)


def leading_vectors(matrix: Tensor, rank: int) -> Tensor:
    """The first singular vectors of the shorter side of (..., m, n) in columns (..., min(m, n), rank); NaN where there are none."""
    usable = decomposable(matrix)[..., None, None]
    left, _, right = torch.linalg.svd(torch.where(usable, matrix, 0.0), full_matrices=False)
    vectors = right.mT if matrix.shape[-2] >= matrix.shape[-1] else left
    return torch.where(usable, vectors[..., :rank], torch.nan)
