"""The contract of an optimizer: an update rule on named tensors, in place, for any leading dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from parameterizations import Parameterization, Step


class State(dict[str, dict[str, Tensor]]):
    """Moments by parameter name, {name: {moment: tensor}}, with the multipliers of the learning rate.

    `since` keeps the step at which a moment last started from zero, for bias corrections.
    """

    def __init__(self, moments: Mapping[str, dict[str, Tensor]], rates: Mapping[str, float] | None = None) -> None:
        super().__init__(moments)
        self.rates = dict(rates or {})
        self.since: dict[tuple[str, str], int] = {}

    def reset(self, name: str, moment: str, step: int) -> None:
        """Start the moment of the tensor `name` from zero, as if `step` were step 0."""
        self[name][moment].zero_()
        self.since[name, moment] = step

    def count(self, name: str, moment: str, step: int) -> int:
        """How many gradients the moment has seen once it has seen that of `step`."""
        return step + 1 - self.since.get((name, moment), 0)


@dataclass(frozen=True)
class Optimizer:
    """Base class. A subclass is a frozen dataclass of hyperparameters in a file of its own, the learning rate not among them.

    It names its `moments` and gives `step_tensor`; `span` is the range of learning rates that a sweep starts from
    when none is asked for, in a suite whose targets have spectral norm 1.
    """

    reference: ClassVar[str] = ""
    moments: ClassVar[tuple[str, ...]] = ()
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)

    def supports(self, parameterization: Parameterization) -> str | None:
        """None, or the reason why the two do not go together."""
        return None

    def init(self, params: Mapping[str, Tensor], rates: Mapping[str, float] | None = None) -> State:
        """Zero moments for every tensor in `params`; `rates` multiply the learning rate of the tensors they name."""
        return State(
            {name: {moment: torch.zeros_like(tensor) for moment in self.moments} for name, tensor in params.items()}, rates
        )

    @torch.no_grad()
    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
        lr: Tensor | float,
        step: Step | int,
    ) -> None:
        """One step, in place.

        Args:
            params: tensors (*lanes, ...) by name; those without a gradient stay.
            grads: gradients by name, same shapes.
            state: from `init`, changed in place.
            lr: a number, or one a lane (*lanes).
            step: counts from 0.
        """
        now = step.step if isinstance(step, Step) else step
        for name, grad in grads.items():
            rate = lr * state.rates.get(name, 1.0)
            self.step_tensor(params[name], grad, state, name, per_lane(rate, params[name]), now)

    def state_bytes(self, state: State) -> int:
        """What the moments of all lanes take."""
        return sum(moment.numel() * moment.element_size() for moments in state.values() for moment in moments.values())

    def step_tensor(self, param: Tensor, grad: Tensor, state: State, name: str, lr: Tensor | float, step: int) -> None:
        """Move one tensor; `lr` broadcasts against it."""
        raise NotImplementedError(f"{type(self).__name__} must define step_tensor()")


def per_lane(lr: Tensor | float, param: Tensor) -> Tensor | float:
    """A rate (*lanes) with trailing dimensions of one, to broadcast against a tensor (*lanes, ...)."""
    if not isinstance(lr, Tensor):
        return lr
    return lr.reshape(lr.shape + (1,) * (param.ndim - lr.ndim))
