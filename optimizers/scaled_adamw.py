"""Scaled AdamW: AdamW on the gradients of ScaledGD."""

from dataclasses import dataclass
from typing import ClassVar

from linalg.checks import check_number
from optimizers._gram import precondition_pair
from optimizers.adamw import AdamW


@dataclass(frozen=True)
class ScaledAdamW(AdamW):
    """AdamW on g_B (s² A Aᵀ + ridge)⁻¹ and (s² Bᵀ B + ridge)⁻¹ g_A, s the scale of B A.

    Args:
        ridge: on the diagonal of the Gram matrices. At 0 a singular one has its pseudo-inverse.
        betas, eps, weight_decay: see `AdamW`.

    Both preconditioners are taken at the present factors. In the authors' loop A moves first and B's preconditioner reads
    the new A through a view of it; the paper's formulas are simultaneous, and so is this. The scale only matters beside
    `ridge` and `eps`.

    Where a generator predicts the factors, their gradients are preconditioned before they are pulled back to it: OP-SAdamW
    (Teterwak et al. 2024, arXiv 2412.10362).
    """

    reference: ClassVar[str] = "Zhang and Pilanci 2024, arXiv 2402.02347"
    memory: ClassVar[str] = "2 * r * (m + n)"

    ridge: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ridge", self.ridge, least=0)

    def precondition(self, left, right, grad_left, grad_right, scale):
        return precondition_pair(left, right, grad_left, grad_right, scale, self.ridge)
