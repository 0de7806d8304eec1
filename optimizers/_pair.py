"""Rules that move the two factors of a chain together, with moments of the pair."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from optimizers._optimizer import Optimizer, per_lane
from optimizers._state import State
from parameterizations import Parameterization, Step


@dataclass(frozen=True)
class PairRule(Optimizer):
    """Base class. A subclass gives `step_pair`; its moments stand in the state under `left` and `right`."""

    refusal: ClassVar[str] = "it moves the two factors of a chain together: left and right, both of which train"

    def supports(self, parameterization: Parameterization) -> str | None:
        return None if parameterization.pair == "stored" else self.refusal

    @torch.no_grad()
    def update(self, params, grads, state, lr, step):
        now = step.step if isinstance(step, Step) else step
        rates = [per_lane(lr if name not in state.rates else lr * state.rates[name], params[name]) for name in ("left", "right")]
        self.step_pair(params["left"], params["right"], grads["left"], grads["right"], state, (rates[0], rates[1]), now)

    def step_pair(
        self,
        left: Tensor,
        right: Tensor,
        grad_left: Tensor,
        grad_right: Tensor,
        state: State,
        lr: tuple[Tensor | float, Tensor | float],
        step: int,
    ) -> None:
        """Move left (..., m, r) and right (..., r, n) of a weight `state.scale` · left @ right, in place.

        Args:
            lr: of each, (..., 1, 1) or a number.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step_pair()")
