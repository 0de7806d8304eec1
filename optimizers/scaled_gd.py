"""ScaledGD: gradient descent on two factors at the rate that each has in the product."""

from dataclasses import dataclass
from typing import ClassVar

from linalg.checks import check_number
from optimizers._gram import precondition_pair
from optimizers.sgd import SGD


@dataclass(frozen=True)
class ScaledGD(SGD):
    """B ← B - lr g_B (s² A Aᵀ + ridge)⁻¹, A ← A - lr (s² Bᵀ B + ridge)⁻¹ g_A, s the scale of B A.

    Args:
        ridge: on the diagonal of the Gram matrices; the paper has none, the code for LoRA (arXiv 2402.02347) 1e-6.
            At 0 a singular Gram matrix has its pseudo-inverse.
        momentum, nesterov, weight_decay: see `SGD`; all act on preconditioned gradients.

    Both sides move at once. The scale, which the paper's product does not have, is counted in, so that the weight's path
    does not depend on it. Other tensors follow their plain gradients.
    """

    reference: ClassVar[str] = "Tong, Ma and Chi 2021, arXiv 2005.08898"
    memory: ClassVar[str] = "r * (m + n) if momentum else 0"
    span: ClassVar[tuple[float, float]] = (1e-2, 1e1)

    ridge: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ridge", self.ridge, least=0)

    def precondition(self, left, right, grad_left, grad_right, scale):
        return precondition_pair(left, right, grad_left, grad_right, scale, self.ridge)
