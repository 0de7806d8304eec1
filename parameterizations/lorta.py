"""LoRTA: the layers of a stack share both factors, and each has r numbers of its own in between."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.random import uniform
from parameterizations._parameterization import Parameterization


@dataclass(frozen=True)
class LoRTA(Parameterization):
    """A diag(C_l) B for layer l of L: a CP decomposition of the (L, m, n) update with A (m, r), B (r, n) and C (L, r).

    Args:
        rank: r, of the tensor and of each layer.
        alpha: None for r, so that the scale is 1.

    That takes r (m + n + L) parameters where LoRA takes L r (m + n). The paper's tensor has two modes more, over attention
    heads and over the matrices of a layer, r (d + d/H + H + L + 4) parameters; a stack of equal layers has neither. As in the
    authors' code A ~ U[-1/√r, 1/√r], C ~ U[-√(6/r), √(6/r)], B = 0.
    """

    reference: ClassVar[str] = "Hounie et al. 2024, arXiv 2410.04060"
    size: ClassVar[str] = "r * (m + n + L)"
    pair: ClassVar[str] = "predicted"

    rank: int = 8
    alpha: float | None = None

    @property
    def needs(self):
        return ("layers",)

    def initial(self, shape, generator, base, gradient):
        params = self.initial_layers(shape, 1, generator, base, gradient)
        return params | {"core": params["core"][0]}

    def initial_layers(self, shape, layers, generator, base, gradient):
        (m, n), r = shape, self.rank
        return {
            "left": uniform(m, r, bound=1 / math.sqrt(r), generator=generator),
            "core": uniform(layers, r, bound=math.sqrt(6 / r), generator=generator),
            "right": torch.zeros(r, n, dtype=torch.float64),
        }

    def factors(self, params):
        left, core, right = (params[name] for name in ("left", "core", "right"))
        if core.ndim == left.ndim:  # (..., L, r), else (..., r) of one weight alone
            left, right = left[..., None, :, :], right[..., None, :, :]
            right = right.expand(*core.shape[:-1], *right.shape[-2:])
        return left * core[..., None, :], right
