"""LoRA-FA's optimizer: AdamW on the gradient of B that best follows the weight's own while A is frozen."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_number
from optimizers._gram import gram_power
from optimizers.adamw import AdamW


@dataclass(frozen=True)
class LoRAFA(AdamW):
    """AdamW on g_B (A Aᵀ + ridge)⁻¹ / s², s the scale of B A with A frozen.

    Args:
        ridge: on the diagonal of the Gram matrix.
        betas, eps, weight_decay: see `AdamW`.

    With D = g_B (A Aᵀ)⁻¹ / s² the weight's motion s D A is its gradient projected onto the rows of A. PEFT takes the
    weight decay after the step and multiplies in bfloat16; this decays first, as AdamW does, in the precision trained in.
    """

    reference: ClassVar[str] = "Zhang et al. 2023, arXiv 2308.03303; PEFT's LoraFAOptimizer"
    memory: ClassVar[str] = "2 * r * m"

    eps: float = 1e-6
    weight_decay: float = 0.0
    ridge: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ridge", self.ridge, least=0)

    def supports(self, parameterization):
        if "right" in parameterization.frozen and "left" not in parameterization.frozen:
            return None
        return "it trains the left of two factors over a frozen right one"

    def precondition(self, left, right, grad_left, grad_right, scale):
        return grad_left @ gram_power(right @ right.mT, -1, self.ridge) / scale**2, grad_right

    @torch.no_grad()
    def update(self, params, grads, state, lr, step):
        """`params` holds the frozen `right`, too."""
        changed, _ = self.precondition(params["left"], params["right"], grads["left"], None, state.scale)
        self.move(params, {**grads, "left": changed}, state, lr, step)
