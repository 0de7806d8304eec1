"""Flora: train B over a frozen random A, merge, draw another A; the weight's rank grows with every interval."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_choice
from linalg.random import gaussian
from parameterizations._merging import Merging

FIRST_MOMENTS = ("momentum", "exp_avg")


@dataclass(frozen=True)
class Flora(Merging):
    """B A with A ~ N(0, 1/r) frozen; after every `interval` steps B A joins the base, B = 0 and A is drawn anew.

    Args:
        rank: r.
        interval: κ, steps between resamples; 0 keeps the first projection for ever. The paper's 1000 is for long training.
            With B fitted in each interval the residual energy falls by 1 - r/n an interval.
        alpha: None for r, so that the scale is 1.
        momentum: what becomes of the optimizer's moments of B. `carry`: the first moment M goes to M A_old A_newᵀ, the
            paper's transfer; a second moment goes to its mean over each row, because the entries of a row of G Aᵀ have
            the same mean square ‖G_i‖²/r under every A (projected like M it could turn negative, and next to a carried
            M a fresh one divides by single gradients); rules whose moments are not entry by entry start from zero all the same.
            `reset`: all do.

    Carrying multiplies the energy of M by about 1 + (n + 1) / r each time: with momentum β it grows without bound
    unless κ > ln(1 + (n + 1) / r) / (2 ln 1/β). This is the form that trains factors; the optimizer of the same
    paper, which compresses the momentum of a full weight, is another method. The authors' JAX code multiplies by the
    old A on both sides when it transfers; this does not.
    """

    reference: ClassVar[str] = "Hao et al. 2024, arXiv 2402.03293"
    size: ClassVar[str] = "r * m"
    pair: ClassVar[str] = ""  # A stays as drawn

    interval: int = 20
    momentum: str = "carry"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("momentum", self.momentum, ("carry", "reset"))

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        return {
            "left": torch.zeros(m, self.rank, dtype=torch.float64),
            "right": gaussian(self.rank, n, generator=generator) / math.sqrt(self.rank),
            "base": torch.zeros(shape, dtype=torch.float64) if base is None else base,
        }

    def caution(self, shape):
        least = math.log(1 + (shape[1] + 1) / self.rank) / (2 * math.log(1 / 0.9))
        if self.momentum == "reset" or not 0 < self.interval <= least:
            return None
        return (
            f"interval={self.interval}: a carried momentum of 0.9 grows without bound at {shape[1]} columns; "
            f'give interval={math.floor(least) + 1} or more, or momentum="reset"'
        )

    @property
    def frozen(self):
        return ("base", "right")

    def restart(self, params, state, at):
        old = params["right"]
        params["right"] = at.gaussian_like(old) / math.sqrt(self.rank)
        params["left"].zero_()
        if self.momentum == "reset" or not self.carries(state):
            state.reset("left")
            return
        for name, moment in state["left"].items():
            if name in FIRST_MOMENTS:
                moment.copy_(moment @ (old @ params["right"].mT))
            else:
                moment.copy_(moment.mean(-1, keepdim=True).expand_as(moment))
