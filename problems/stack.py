"""Several matrices of one shape and different ranks, approximated together: who puts the rank where it is needed?"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check, check_choice, check_integer, check_rank, check_shape
from linalg.random import orthogonal
from problems._least_squares import LeastSquares
from problems._problem import Problem
from problems._scaling import reduction_weight


@dataclass(frozen=True)
class Stack(Problem):
    """½ Σ_l ‖W_l - M_l‖²_F for layers of one shape whose targets have the ranks `ranks` and σ1 = 1.

    Args:
        shape: (m, n) of every layer.
        ranks: the true rank of each; singular values fall evenly from 1 to 1/rank.
        share: what the layers' targets have in common: `nothing`; `rows`, one row space, the first right singular vectors
            (shared-A methods can use it); `both`, row and column spaces, so that M_l = U diag(c_l) Vᵀ (LoRTA's case).
        reduction: see `reduction_weight`.
    """

    reference: ClassVar[str] = (
        "the setting of Zhang et al. 2023, arXiv 2303.10512: one budget over matrices that need different ranks"
    )
    provides: ClassVar[tuple[str, ...]] = ("quadratic", "target", "layers")

    shape: tuple[int, int] = (32, 32)
    ranks: tuple[int, ...] = (1, 2, 4, 9)
    share: str = "nothing"
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)
        check(isinstance(self.ranks, tuple) and len(self.ranks) > 0, "ranks", self.ranks, "a rank for each of at least one layer")
        for rank in self.ranks:
            check_integer("ranks", rank, least=0)
            if rank:
                check_rank("ranks", rank, self.shape)
        check(any(self.ranks), "ranks", self.ranks, "at least one above zero")
        check_choice("share", self.share, ("nothing", "rows", "both"))

    def instance(self, seed):
        generator, (m, n), widest = self.generator(seed), self.shape, max(self.ranks)
        targets = []
        left = right = None
        for rank in self.ranks:
            if left is None or self.share != "both":
                left = orthogonal(m, widest, generator)
            if right is None or self.share == "nothing":
                right = orthogonal(widest, n, generator)
            values = torch.zeros(widest, dtype=torch.float64)
            values[:rank] = torch.arange(rank, 0, -1, dtype=torch.float64) / max(rank, 1)
            targets.append((left * values) @ right)
        target = torch.stack(targets)
        return LeastSquares(target, reduction_weight(self.reduction, target.numel(), target.square().sum()), stacked=True)
