"""LoRA-RITE: Adam with an r x r second moment, in coordinates that do not depend on how the product is factored."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import decomposable
from linalg.checks import check_number, two_decays
from optimizers._gram import spectral_map
from optimizers._optimizer import descend
from optimizers._pair import PairRule
from optimizers._state import State


@dataclass(frozen=True)
class LoRARITE(PairRule):
    """B ← B - lr m R⁻ᵀ with Aᵀ = U R; m ← β1 m Pᵀ + (1 - β1) ḡ V^(-1/2), V ← β2 P V Pᵀ + (1 - β2) ḡᵀ ḡ / rows; A alike.

    Args:
        betas: of the moments; both as Adafactor's, β (1 - β^(t-1)) / (1 - β^t), which needs no correction.
        eps: added to the roots of V's eigenvalues.
        clip: the largest Frobenius norm of the pair's two gradients ḡ together; 0 for no limit.
        weight_decay: see `AdamW`.

    U has orthonormal columns, P = U_newᵀ U_old carries the moments from one basis to the next, and ḡ = g_B R⁻¹ is the
    unmagnified gradient, that of the weight times U. The scale is part of R, so that the weight's path does not depend on
    it. The authors' code clips all layers together, and drops gradients ḡ whose entries have a root mean square above 1;
    the paper has neither. Its escaped mass, off in that code, is left out.
    """

    reference: ClassVar[str] = "Yen et al. 2025, arXiv 2410.20625"
    memory: ClassVar[str] = "2 * r * (m + n + r)"
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    clip: float = 1.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", two_decays("betas", self.betas))
        check_number("weight_decay", self.weight_decay, least=0)
        check_number("eps", self.eps, above=0)
        check_number("clip", self.clip, least=0)

    def init(self, params, rates=None, scale=1.0):
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in params}
        for name, other in (("left", params["right"].mT), ("right", params["left"])):
            rank = other.shape[-1]
            square = other.new_zeros(*other.shape[:-2], rank, rank)
            moments[name] = {"exp_avg": torch.zeros_like(params[name]), "exp_avg_sq": square, "basis": torch.zeros_like(other)}
        return State(moments, rates, scale)

    def step_pair(self, left, right, grad_left, grad_right, state, lr, step):
        factors = left, right.mT  # both (..., rows, r) from here on
        (own_left, inverse_left), (own_right, inverse_right) = map(orthonormal, factors)
        bases, inverses = (own_right, own_left), (inverse_right / state.scale, inverse_left / state.scale)
        gradients = [grad_left @ inverses[0], grad_right.mT @ inverses[1]]
        if self.clip:
            norm = sum(gradient.square().sum((-2, -1), keepdim=True) for gradient in gradients).sqrt()
            gradients = [gradient / (norm / self.clip).clamp_min(1) for gradient in gradients]
        for name, param, gradient, basis, inverse, rate in zip(
            ("left", "right"), factors, gradients, bases, inverses, lr, strict=True
        ):
            direction = self._mean(name, gradient, basis, state) @ inverse.mT
            if self.weight_decay:
                descend(param, param, rate * self.weight_decay)
            descend(param, direction, rate)

    def _mean(self, name: str, gradient: Tensor, basis: Tensor, state: State) -> Tensor:
        """(..., rows, r) the first moment, this step's gradient taken in."""
        moments = state[name]
        mean = moments["exp_avg"] if name == "left" else moments["exp_avg"].mT
        count = state.count(name, gradient).double()
        first, second = ((beta * (1 - beta ** (count - 1)) / (1 - beta**count)).to(gradient.dtype) for beta in self.betas)
        turn = basis.mT @ moments["basis"]
        square = second * turn @ moments["exp_avg_sq"] @ turn.mT + (1 - second) * gradient.mT @ gradient / gradient.shape[-2]
        whitened = gradient @ spectral_map(square, lambda values: 1 / (values.sqrt() + self.eps))
        moments["exp_avg_sq"].copy_(square)
        moments["basis"].copy_(basis)
        return mean.copy_(first * mean @ turn.mT + (1 - first) * whitened)


def orthonormal(factor: Tensor) -> tuple[Tensor, Tensor]:
    """U (..., p, r) and the pseudo-inverse of R (..., r, r) of a factor U R; NaN where it is not finite."""
    usable = decomposable(factor)[..., None, None]
    basis, magnitude = torch.linalg.qr(torch.where(usable, factor, 0.0))
    return basis.where(usable, torch.nan), torch.linalg.pinv(magnitude).where(usable, torch.nan)
