"""The best weight of the rank there is, put in place at the first step: what every other rule is measured against."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import InputError
from optimizers._pair import PairRule
from parameterizations import Step


@dataclass(frozen=True)
class SVDOracle(PairRule):
    """L R ← SVD_r(target - base) at the first step, nothing afterwards: the lowest loss of the rank (Eckart-Young).

    The factors are balanced: LᵀL = R Rᵀ. The learning rate is not used.
    """

    reference: ClassVar[str] = "Eckart and Young 1936"
    memory: ClassVar[str] = "0"
    needs: ClassVar[tuple[str, ...]] = ("target",)
    span: ClassVar[tuple[float, float]] = (0.5, 2.0)

    def supports(self, parameterization):
        if parameterization.merges or parameterization.splits:
            return "it places the factors once, on the pretrained weight, and here the base is another or changes"
        return super().supports(parameterization)

    @torch.no_grad()
    def update(self, params, grads, state, lr, step):
        instance = step.instance if isinstance(step, Step) else None
        if instance is None:
            raise InputError("svd_oracle: looks at the objective; pass update() a Step with an instance")
        if step.step > 0:
            return
        left, right, scale = params["left"], params["right"], state.scale
        expected = instance.part_gradients((scale * left, right), instance.base, (True, True), None)
        off = max(float((grad - e).abs().max()) for grad, e in zip((grads["left"] / scale, grads["right"]), expected, strict=True))
        if off > 1e-3 * max(1.0, *(float(e.abs().max()) for e in expected)):
            raise InputError("svd_oracle: the target is the problem's, and this parameterization starts from a base of its own")
        u, values, vt = instance.truth_svd
        rank = left.shape[-1]
        root = values[..., :rank].div(scale).sqrt()
        left.copy_(u[..., :rank] * root[..., None, :])
        right.copy_(root[..., None] * vt[..., :rank, :])
