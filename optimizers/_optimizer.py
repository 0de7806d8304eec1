"""The contract of an optimizer: an update rule on named tensors, in place, for any leading dimensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from linalg import Program
from optimizers._state import State
from parameterizations import Parameterization, Step

Outer = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Optimizer:
    """Base class. A subclass is a frozen dataclass of hyperparameters in a file of its own, the learning rate not among them.

    It names its `moments` and gives `step_tensor`; `span` is the range of learning rates that a sweep starts from
    when none is asked for, in a suite whose targets have spectral norm 1. Where `elementwise` is true, an entry's step
    depends on that entry's own gradients alone: the engine then steps all tensors as one. Where `stepless` is true, `update`
    makes the same calls at every step, whatever its number: it can be captured into a graph.

    A rule that treats the two factors of a chain together and keeps nothing in between gives `precondition`: where other
    tensors predict the factors, it acts before the gradients are pulled back to them. One with moments of the pair is a
    `PairRule`. Where `tangent` is true the rule moves along the manifold of low-rank matrices: its parameterization is `svd`
    and its gradients are the products of `SVD.record_tangent`. `needs` names what a problem must provide.

    `memory` is how many numbers a lane keeps from step to step beside its parameters where one matrix (m, n) trains, or, for a
    rule that takes none alone, the pair (m, r) and (r, n): an expression in m, n, r, and the fields by name. Counts of steps,
    which the lanes share, are left out.
    """

    reference: ClassVar[str] = ""
    memory: ClassVar[str] = ""
    moments: ClassVar[tuple[str, ...]] = ()
    elementwise: ClassVar[bool] = False
    stepless: ClassVar[bool] = False
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)
    tangent: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    def supports(self, parameterization: Parameterization) -> str | None:
        """None, or the reason why the two do not go together."""
        if self.preconditions and not parameterization.pair:
            return "it preconditions a chain of two factors, both of which train"
        return None

    @property
    def preconditions(self) -> bool:
        """Whether the rule changes the gradients of a pair of factors."""
        return type(self).precondition is not Optimizer.precondition

    def precondition(
        self, left: Tensor, right: Tensor, grad_left: Tensor, grad_right: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """What takes the place of the gradients of a chain scale · left @ right, (..., m, r) and (..., r, n)."""
        return grad_left, grad_right

    def init(self, params: Mapping[str, Tensor], rates: Mapping[str, float] | None = None, scale: float = 1.0) -> State:
        """Zero moments for every tensor in `params`.

        Args:
            rates: multipliers of the learning rate by the names of tensors.
            scale: the number in front of the product of a pair.
        """
        moments = {name: {moment: torch.zeros_like(tensor) for moment in self.moments} for name, tensor in params.items()}
        state = State(moments, rates, scale)
        state.entrywise = self.elementwise
        return state

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
        if self.preconditions and {"left", "right"} <= grads.keys():
            pair = self.precondition(params["left"], params["right"], grads["left"], grads["right"], state.scale)
            grads = {**grads, "left": pair[0], "right": pair[1]}
        self.move(params, grads, state, lr, step)

    def update_together(self, runs: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Tensor], State, Any, Step | int]]) -> None:
        """`update` of several weights of one model, each with its own arguments; rules with a budget share it here."""
        for run in runs:
            self.update(*run)

    def move(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
        lr: Tensor | float,
        step: Step | int,
    ) -> None:
        """`update` along gradients that have been preconditioned."""
        now = step.step if isinstance(step, Step) else step
        for name, grad in grads.items():
            param = params[name]
            if grad.stride() != param.stride():
                grad = torch.empty_like(param).copy_(grad)  # rules go through memory, tensor beside tensor
            rate = lr if name not in state.rates else lr * state.rates[name]
            self.step_tensor(param, grad, state, name, per_lane(rate, param), now)

    def prefers_names(self, entries: int, device: torch.device, outer: bool) -> bool:
        """Whether an elementwise rule would rather `record` tensors by name than all as one.

        Args:
            entries: of a lane.
            outer: whether some gradients come as outer products.
        """
        return False

    def record(
        self,
        program: Program,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
        lr: Tensor,
        at: Step,
        outer: Outer,
    ) -> None:
        """Record `update` on tensors that keep their memory, the learning rates among them; along gradients that have been
        preconditioned.

        Args:
            outer: gradients that are still to be formed in `grads`: column (*lanes, p, 1) and row (*lanes, 1, q) by name.
        """
        if outer:
            program.do(form, outer, grads)
        update = self.move if self.preconditions else self.update
        (program.do if self.stepless else program.decide)(update, params, grads, state, lr, at)

    def state_bytes(self, state: State) -> int:
        """What the moments of all lanes take."""
        return sum(moment.numel() * moment.element_size() for moments in state.values() for moment in moments.values())

    def step_tensor(self, param: Tensor, grad: Tensor, state: State, name: str, lr: Tensor | float, step: int) -> None:
        """Move one tensor; `lr` broadcasts against it. `grad` lies in memory as `param` does."""
        raise NotImplementedError(f"{type(self).__name__} must define step_tensor()")


def per_lane(lr: Tensor | float, param: Tensor) -> Tensor | float:
    """A rate (*lanes) with trailing dimensions of one, to broadcast against a tensor (*lanes, ...)."""
    if not isinstance(lr, Tensor):
        return lr
    lr = lr if lr.dtype == param.dtype else lr.to(param.dtype)
    return lr if lr.ndim == param.ndim else lr.reshape(lr.shape + (1,) * (param.ndim - lr.ndim))


def form(outer: Outer, grads: Mapping[str, Tensor]) -> None:
    """Multiply outer products out into the gradients that they stand for."""
    for name, (column, row) in outer.items():
        torch.mul(column, row, out=grads[name])


def in_rows(x: Tensor) -> Tensor:
    """A tensor that lies transposed, transposed back: kernels that go through memory would copy it first."""
    return x if x.is_contiguous() or x.ndim < 2 else x.mT


def descend(param: Tensor, direction: Tensor, lr: Tensor | float) -> None:
    """param ← param - lr direction."""
    if isinstance(lr, Tensor):
        param.addcmul_(direction, lr, value=-1)
    else:
        param.add_(direction, alpha=-lr)
