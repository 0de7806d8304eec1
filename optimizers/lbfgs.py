"""L-BFGS: Newton's direction from the last few changes of the gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from linalg import InputError
from linalg.checks import check_choice, check_integer
from optimizers._inverse_hessian import descent, remember
from optimizers._line_search import strong_wolfe
from optimizers._matrix import lane_dimensions
from optimizers._optimizer import Optimizer
from optimizers._state import State
from parameterizations import Parameterization, Step

HISTORY = "history"


class JointState(State):
    """The tensors of a lane are one vector here: what starts one anew starts all."""

    lanes: int

    def reset(self, name: str) -> None:
        for moment in self[HISTORY].values():
            moment.zero_()
        self.restarted.add(name)
        self.counts[HISTORY].zero_()


@dataclass(frozen=True)
class LBFGS(Optimizer):
    """w ← w - t H g, H the inverse Hessian that the last pairs of steps and changes of the gradient give (two loops).

    Args:
        history_size: pairs kept; such with yᵀs ≤ 1e-10 are left out.
        line_search: `strong_wolfe`, a t that satisfies the Wolfe conditions (1e-4, 0.9), starting at the rate, lane by lane;
            `none`, t is the rate. The first step's t is the rate times min(1, 1 / ‖g‖₁).

    A step is one iteration: with `none` as torch.optim.LBFGS with max_iter=1, all lanes at once. A line search costs up to 25
    gradients a step, which counts of steps do not show; where it finds no descent the lane stays where it is.
    """

    reference: ClassVar[str] = "Liu and Nocedal 1989; Nocedal and Wright 2006, algorithms 3.5, 3.6, 7.4"
    memory: ClassVar[str] = "2 * (history_size + 1) * m * n + history_size + 1"
    span: ClassVar[tuple[float, float]] = (1e-2, 1e1)

    history_size: int = 10
    line_search: str = "strong_wolfe"

    def __post_init__(self) -> None:
        check_integer("history_size", self.history_size)
        check_choice("line_search", self.line_search, ("none", "strong_wolfe"))

    def supports(self, parameterization):
        if type(parameterization).after_step is not Parameterization.after_step:
            return "its curvature comes from its own steps, and this moves the weight between them"
        if parameterization.rates:
            return "it takes one learning rate for all tensors"
        if self.line_search != "none" and (parameterization.penalizes or parameterization.directs):
            return "its line search sees the loss alone; optimizer.line_search=none goes"
        return None

    def init(self, params, rates=None, scale=1.0):
        if rates:
            raise InputError("rates: L-BFGS takes one learning rate for all tensors")
        lanes = lane_dimensions(params)
        vector = torch.zeros_like(flatten(params, params, lanes))
        pairs = vector[..., None, :].expand(*vector.shape[:-1], self.history_size, -1)
        history = {"steps": pairs.clone(), "changes": pairs.clone(), "inverse": pairs[..., 0].clone()}
        history |= {"diagonal": vector[..., 0].clone(), "step": vector.clone(), "gradient": vector}
        state = JointState({**{name: {} for name in params}, HISTORY: history}, rates, scale)
        state.lanes = lanes
        state.counts[HISTORY] = torch.zeros(())
        return state

    @torch.no_grad()
    def update(self, params, grads, state, lr, step):
        gradient, history = flatten(params, grads, state.lanes), state[HISTORY]
        first = int(state.counts[HISTORY].add_(1)) == 1
        if first:
            history["diagonal"].fill_(1)
        else:
            remember(history, gradient - history["gradient"])
        history["gradient"].copy_(gradient)
        direction = descent(history, gradient)
        length = torch.as_tensor(lr, dtype=gradient.dtype, device=gradient.device).expand(gradient.shape[:-1]).clone()
        if first:
            length *= (1 / gradient.abs().sum(-1)).clamp(max=1)
        if self.line_search == "strong_wolfe":
            length = self._search(params, gradient, direction, length, state.lanes, step)
        history["step"].copy_(direction.mul_(length[..., None]))
        move(params, direction, state.lanes)

    def _search(
        self, params: Mapping[str, Tensor], gradient: Tensor, direction: Tensor, length: Tensor, lanes: int, at: Step | int
    ) -> Tensor:
        """A length for each lane, whose loss is evaluated at its parameters."""
        closure = at.closure if isinstance(at, Step) else None
        if closure is None:
            raise InputError("lbfgs: evaluates the loss within a step; pass update() a Step with a closure")
        slopes, found = (gradient * direction).sum(-1), length.clone()
        for lane in product(*map(range, length.shape)):
            own = {name: tensor[lane] for name, tensor in params.items()}
            start = {name: tensor.clone() for name, tensor in own.items()}

            def evaluate(t: float, lane=lane, own=own, start=start) -> tuple[float, float]:
                for name, tensor in own.items():
                    tensor.copy_(start[name])
                move(own, t * direction[lane], 0)
                loss, grads = closure(lane)
                shaped = {name: grad.reshape(own[name].shape) for name, grad in grads.items()}
                return float(loss), float(flatten(own, shaped, 0) @ direction[lane])

            if slopes[lane] < 0 and length[lane] > 0:  # else it is at rest, or lost
                loss, _ = evaluate(0.0)
                first, slope = float(length[lane]), float(slopes[lane])
                visible = -slope * first > torch.finfo(gradient.dtype).eps * abs(loss)  # else rounding is all there is to see
                found[lane] = strong_wolfe(evaluate, first, loss, slope) if visible else 0.0
                for name, tensor in own.items():
                    tensor.copy_(start[name])
        return found


def flatten(params: Mapping[str, Tensor], tensors: Mapping[str, Tensor], lanes: int) -> Tensor:
    """(*lanes, N): the tensors of a lane one after the other, in the order of `params`, zeros for those that are missing."""
    parts = [tensors[name] if name in tensors else torch.zeros_like(tensor) for name, tensor in params.items()]
    return torch.cat([part.reshape(*part.shape[:lanes], -1) for part in parts], -1)


def move(params: Mapping[str, Tensor], step: Tensor, lanes: int) -> None:
    """Add a vector (*lanes, N) to the tensors that it is made of."""
    sizes = [tensor.shape[lanes:].numel() for tensor in params.values()]
    for tensor, part in zip(params.values(), step.split(sizes, -1), strict=True):
        tensor.add_(part.reshape(tensor.shape))
