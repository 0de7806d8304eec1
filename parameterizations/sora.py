"""SoRA: a gate between B and A, driven to zero entry by entry by a proximal step."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check_choice, check_number
from linalg.random import gaussian, uniform
from parameterizations._diagonal import Diagonal


@dataclass(frozen=True)
class SoRA(Diagonal):
    """B diag(g) A with loss + ξ‖g‖₁: after every step of the optimizer g ← soft(g, lr ξ).

    Args:
        rank: r, the most directions there are; those whose gate is zero at the end are dropped.
        alpha: None for r, so that the scale is 1.
        xi: ξ, the weight of the L1 norm. It falls on g alone, and B and A can grow in its stead: ξ times the rate, summed over
            the run, must be of the gate's order, 1, to close any.
        proximal: `soft`, the proximal operator of lr ξ‖g‖₁: entries go towards zero by lr ξ and stop there. `authors`, their
            code: the same, and then entries below lr ξ are zeroed, so that those within [lr ξ, 2 lr ξ) differ.

    g ~ N(0, 1), A ~ U[-1/√n, 1/√n], B = 0. The L1 norm acts through the proximal step alone; the authors' code adds
    λ mean|g| to the loss as well, which counts it twice. Its threshold is constant, 3e-4 at rates of about 8e-4, where the
    proximal gradient step has lr ξ: that is ξ of about 0.4.
    """

    reference: ClassVar[str] = "Ding et al. 2023, arXiv 2311.11696"
    size: ClassVar[str] = "r * (m + n + 1)"
    inner: ClassVar[str] = "gate"

    alpha: float | None = None
    xi: float = 0.1
    proximal: str = "soft"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("xi", self.xi, least=0)
        check_choice("proximal", self.proximal, ("soft", "authors"))

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        return {
            "left": torch.zeros(m, self.rank, dtype=torch.float64),
            "gate": gaussian(self.rank, generator=generator),
            "right": uniform(self.rank, n, bound=1 / math.sqrt(n), generator=generator),
        }

    def after_step(self, params, grads, state, at):
        if at.lr is None:
            return
        gate, lr = params["gate"], at.lr
        threshold = self.xi * (lr.reshape(lr.shape + (1,) * (gate.ndim - lr.ndim)) if isinstance(lr, Tensor) else lr)
        gate.copy_(SOFT[self.proximal](gate, threshold))


def soft(gate: Tensor, threshold: Tensor | float) -> Tensor:
    """argmin_x ½(x - gate)² + threshold |x|, entry by entry."""
    return gate.sign() * (gate.abs() - threshold).clamp(min=0)


def sequential(gate: Tensor, threshold: Tensor | float) -> Tensor:
    """The authors' three assignments, each on what the one before has left."""
    gate = torch.where(gate > threshold, gate - threshold, gate)
    gate = torch.where(gate < -threshold, gate + threshold, gate)
    return gate.masked_fill(gate.abs() < threshold, 0)


SOFT = {"soft": soft, "authors": sequential}
