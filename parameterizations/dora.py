"""DoRA: LoRA moves the direction of every row of the weight, a trained vector holds the rows' lengths."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import FactoredMatrix
from linalg.checks import check_choice
from linalg.random import uniform
from parameterizations._dora import row_norms, weight_decomposed
from parameterizations._parameterization import Parameterization


@dataclass(frozen=True)
class DoRA(Parameterization):
    """W = diag(magnitude / ‖V‖) V with V = W0 + alpha / r B A and ‖V‖ the norms of its rows (eq. 5).

    Args:
        rank: r.
        alpha: None for r, so that V = W0 + B A.
        detach_norm: whether ‖V‖ counts as a constant in the gradients that train, as the paper suggests to save memory
            (section 4.3); False for the full gradient (eq. 6).

    The chain is W - W0 as one factor: it has full rank. B starts at zero, A as LoRA's, the magnitude at W0's own. The paper
    speaks of columns; its code and PEFT, followed here, have one magnitude an output, a row of W.
    """

    reference: ClassVar[str] = "Liu et al. 2024, arXiv 2402.09353"
    size: ClassVar[str] = "r * (m + n) + m"

    rank: int = 8
    alpha: float | None = None
    detach_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("detach_norm", self.detach_norm, (True, False))

    @property
    def needs(self):
        return ("base",)

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        return {
            "left": torch.zeros(m, self.rank, dtype=torch.float64),
            "right": uniform(self.rank, n, bound=1 / math.sqrt(n), generator=generator),
            "magnitude": row_norms(base.double().cpu())[:, 0],
        }

    def weight(self, params, at=None):
        change = super().scaling * (params["left"] @ params["right"])
        detach = self.detach_norm and at is not None  # only while it is trained
        update = weight_decomposed(params["base"], change, params["magnitude"][..., None], detach=detach)
        return FactoredMatrix((update,), params["base"])

    def factors(self, params):
        return self.weight(params).factors

    @property
    def scaling(self) -> float:
        return 1.0  # the factor is what the scale has already been taken into

    def reach(self, shape):
        return min(shape)
