"""CoLoR: one LoRA a domain; a finished one is kept, and an input is given to that of the nearest domain."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import FactoredMatrix, InputError
from linalg.random import uniform
from parameterizations._parameterization import Parameterization
from parameterizations._recorded import Recorded


class Routed(FactoredMatrix):
    """A weight for each of t domains, (..., t, m, n), in the order of time: which one an input meets, an instance decides."""


@dataclass(frozen=True)
class CoLoR(Parameterization):
    """B_t A_t for the domain t at hand; with the next domain it is kept as it is, and a fresh LoRA starts.

    Args:
        rank: r of each domain's pair.
        alpha: the numerator of the scale alpha / r; None for r, so that the scale is 1.

    In training the weight is the domain's own, which is known then. As used it is `Routed`: the problem, which holds the
    inputs, gives each to the domain with the nearest centroid, of those seen so far. Centroids are k-means of the inputs
    themselves; in S-Prompts (Wang et al. 2022, arXiv 2207.12819), whose way this is, of a frozen model's features. The
    optimizer's moments start from zero with each domain. No code of the authors' was found.
    """

    reference: ClassVar[str] = "Wistuba et al. 2023, arXiv 2311.17601"
    size: ClassVar[str] = "r * (m + n)"
    pair: ClassVar[str] = "stored"

    rank: int = 8
    alpha: float | None = None

    def initial(self, shape, generator, base, gradient):
        (m, n), r = shape, self.rank
        return {
            "left": torch.zeros(m, r, dtype=torch.float64),
            "right": uniform(r, n, bound=1 / math.sqrt(n), generator=generator),
            "kept_left": torch.zeros(0, m, r, dtype=torch.float64),
            "kept_right": torch.zeros(0, r, n, dtype=torch.float64),
        }

    def factors(self, params):
        return params["left"], params["right"]

    def weight(self, params, at=None):
        if at is not None or not params["kept_left"].shape[-3]:
            return super().weight(params, at)
        left, right = (torch.cat([params[f"kept_{name}"], params[name].unsqueeze(-3)], -3) for name in ("left", "right"))
        base = params.get("base")
        return Routed((left, right), None if base is None else base.unsqueeze(-3), self.scaling)

    def record(self, program, params, grads, at):
        return Recorded(self.weight(params, at), (grads["left"], grads["right"]), lambda: None)

    def after_step(self, params, grads, state, at):
        if at.instance is None or at.instance.active(at.step + 1, at.steps) == at.instance.active(at.step, at.steps):
            return
        left, right = params["left"], params["right"]
        for name in ("left", "right"):
            kept = params[f"kept_{name}"]
            kept = kept.expand(*params[name].shape[:-2], *kept.shape[-3:])
            params[f"kept_{name}"] = torch.cat([kept, params[name].unsqueeze(-3)], -3)
        shape, layers = (left.shape[-2], right.shape[-1]), left.shape[2] if left.ndim > 4 else None
        options = {"layers": layers, "dtype": left.dtype, "device": left.device}
        drawn = [self.init(shape, generator=source, **options) for source in at.generators]
        for name in ("left", "right"):
            params[name].copy_(torch.stack([fresh[name] for fresh in drawn])[:, None])
        for name in list(state):
            state.reset(name)

    def export(self, params):
        if params["kept_left"].shape[-3]:
            raise InputError("color: holds one LoRA pair a domain, and no one pair stands for them all")
        return super().export(params)

    @property
    def frozen(self):
        return ("base", "kept_left", "kept_right")

    @property
    def needs(self):
        return ("tasks",)
