"""Clients whose weights differ and have something in common, each with inputs of its own."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_choice, check_integer, check_number, check_rank, check_shape
from linalg.random import gaussian, orthogonal
from problems._least_squares import LeastSquares
from problems._problem import Problem
from problems._scaling import reduction_weight


class Clients(LeastSquares):
    """`LeastSquares` over a stack of clients, with what the client on average, and the worst off, are left with."""

    def measure(self, weight):
        residual = weight.dense() @ self.inputs - self.outputs
        losses = 0.5 * self.weight[..., None] * residual.square().sum((-2, -1))
        return super().measure(weight) | {"client_loss": losses.mean(-1), "worst_client_loss": losses.amax(-1)}


@dataclass(frozen=True)
class Federated(Problem):
    """½ Σ_i ‖W_i X_i - D_i X_i‖²_F over clients i, a stack; D_i = U_i Q has rank `rank`, and X_i a covariance of its own.

    Args:
        shape: (m, n) of every client's weight.
        clients: how many.
        rank: of each D_i, whose singular values are 1.
        share: what the D_i have in common: `rows`, the row space, so that D_i = U_i Q; `columns`, D_i = U Q_i; `both`,
            all D_i are equal; `nothing`.
        condition: of each X_i's covariance, whose eigenvalues fall geometrically along random axes; ‖X_i‖₂ = 1.
        samples: of each client; 0 for half as many as inputs, too few to tell D_i by, unless something is shared.
        reduction: see `reduction_weight`; with `sum` each client's own gradient is that of its own loss.
    """

    reference: ClassVar[str] = "the linear case of Guo et al. 2024, arXiv 2410.01463"
    provides: ClassVar[tuple[str, ...]] = ("quadratic", "layers", "clients")

    shape: tuple[int, int] = (32, 32)
    clients: int = 8
    rank: int = 4
    share: str = "rows"
    condition: float = 10.0
    samples: int = 0
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)
        check_integer("clients", self.clients)
        check_rank("rank", self.rank, self.shape)
        check_choice("share", self.share, ("rows", "columns", "both", "nothing"))
        check_number("condition", self.condition, least=1)
        check_integer("samples", self.samples, least=0)

    def instance(self, seed):
        generator, (m, n) = self.generator(seed), self.shape
        samples = self.samples or max(1, n // 2)
        deviations = torch.logspace(0, -0.5, n, base=float(self.condition), dtype=torch.float64)
        targets, inputs = [], []
        left = right = None
        for _ in range(self.clients):
            if left is None or self.share in ("rows", "nothing"):
                left = orthogonal(m, self.rank, generator)
            if right is None or self.share in ("columns", "nothing"):
                right = orthogonal(self.rank, n, generator)
            targets.append(left @ right)
            drawn = orthogonal(n, n, generator) @ (deviations[:, None] * gaussian(n, samples, generator=generator))
            inputs.append(drawn / torch.linalg.matrix_norm(drawn, 2))
        target, x = torch.stack(targets), torch.stack(inputs)
        outputs = target @ x
        weight = reduction_weight(self.reduction, outputs.numel(), outputs.square().sum())
        return Clients(target, weight, inputs=x, outputs=outputs, stacked=True)
