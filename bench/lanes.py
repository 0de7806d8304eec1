"""How the tensors of a block lie in memory."""

from collections.abc import Mapping

import torch
from torch import Tensor

from linalg import Program
from optimizers import Optimizer, State
from optimizers._optimizer import Outer, form
from optimizers._state import EVERY
from parameterizations import Step

WHOLE = "whole"  # the name of a buffer taken as one tensor


class Lanes:
    """Tensors of all lanes, one name after the other in one buffer.

    Args:
        tensors: one lane's, by name.
        shape: (seeds, rates) of the lanes.

    A name's lanes follow each other, so that the rates of a seed make one tall matrix, in a stack those of a layer; a tall
    matrix lies transposed in its lane, because long rows are faster; not so those that the layers of a stack share.
    """

    def __init__(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> None:
        self.shape = shape
        self.stacked = any(tensor.ndim > 2 for tensor in tensors.values())
        self.lane = {name: tensor.shape for name, tensor in tensors.items()}
        self.entries = sum(tensor.numel() for tensor in tensors.values()) * shape[0] * shape[1]

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """(seeds, rates, ...) of every name in a buffer (entries,)."""
        views, start = {}, 0
        for name, lane in self.lane.items():
            stop = start + lane.numel() * self.shape[0] * self.shape[1]
            matrix = len(lane) >= (3 if self.stacked else 2)  # in a stack (L, k) are a vector a layer
            tall = matrix and lane[-2] > lane[-1]
            stored = (*lane[:-2], lane[-1], lane[-2]) if tall else lane
            if len(lane) == 3:  # a stack: the rates of a layer follow each other
                view = buffer[start:stop].view(self.shape[0], stored[0], self.shape[1], *stored[1:]).movedim(1, 2)
            else:
                view = buffer[start:stop].view(*self.shape, *stored)
            views[name], start = (view.mT if tall else view), stop
        return views

    def zeros(self, like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A buffer of zeros and its views."""
        buffer = torch.zeros(self.entries, dtype=like.dtype, device=like.device)
        return buffer, self.views(buffer)


class Buffers:
    """Parameters, gradients, moments and learning rates of a block's lanes.

    An elementwise rule steps all of a buffer as one tensor, with a learning rate for every entry; others see tensors by name.

    Args:
        lanes: the layout.
        lr: (seeds, rates) learning rates.
        optimizer: the rule.
        rates: multipliers of the learning rate by tensor name.
        scale: the number in front of the chain of factors.

    `lr` holds the rates of the present step.
    """

    def __init__(self, lanes: Lanes, lr: Tensor, optimizer: Optimizer, rates: Mapping[str, float], scale: float = 1.0) -> None:
        self.optimizer, self._lanes, self.lr = optimizer, lanes, lr.clone()
        self._params, self.params = lanes.zeros(lr)
        self._grads, self.grads = lanes.zeros(lr)
        self.state = optimizer.init(self.params, rates, scale)
        self.state.counts[EVERY] = torch.zeros((), device=lr.device)
        self._whole: State | None = None
        self._lr_by_name: dict[str, Tensor] = {}
        self._unformed = 0  # entries of gradients that stay outer products
        if optimizer.elementwise:
            self._whole = optimizer.init({WHOLE: self._params})
            self.share_count()
            for moment, buffer in self._whole[WHOLE].items():
                for name, view in lanes.views(buffer).items():
                    self.state[name][moment] = view
        self.set_rates(lr)

    def share_count(self) -> None:
        """Let the buffer taken as one tensor count with all names, where they have one count."""
        if self._whole is not None and EVERY in self.state.counts:
            self._whole.counts[WHOLE] = self.state.counts[EVERY]

    @property
    def bytes(self) -> int:
        """What a step of all lanes goes through."""
        kept = self.optimizer.state_bytes(self.state)
        beside = (1 + (kept > 0)) if self._lr_by_name else 0  # a rate for every entry; a rule with moments needs scratch memory
        entries = (2 + beside) * self._params.numel() - self._unformed
        return entries * self._params.element_size() + kept

    def set_rates(self, lr: Tensor) -> None:
        """Learning rates (seeds, rates) from here on."""
        self.lr.copy_(lr)
        for name, view in self._lr_by_name.items():
            rate = self.lr * self.state.rates.get(name, 1.0)
            view.copy_(rate.reshape(rate.shape + (1,) * (view.ndim - rate.ndim)))

    def record(self, program: Program, at: Step, outer: Outer) -> None:
        """Record one step of the rule along the gradients; again once a moment has been reset.

        Args:
            outer: gradients still to be formed, see `Optimizer.record`.
        """
        lane = self._params.numel() // self.lr.numel()
        alone = not self.state.rates and not self._lanes.stacked  # a lane's tensors are one piece each, at one rate
        prefers = alone and self.optimizer.prefers_names(lane, self.lr.device, bool(outer))
        self._unformed = sum(self.grads[name].numel() for name in outer) if prefers else 0
        if self._whole is None or self.state.restarted or prefers:
            self._lr_by_name = {}
            self.optimizer.record(program, self.params, self.grads, self.state, self.lr, at, outer)
            return
        if outer:
            program.do(form, outer, self.grads)
        if not self._lr_by_name:
            self._lr_of_entry, self._lr_by_name = self._lanes.zeros(self.lr)
            self.set_rates(self.lr)
        self.optimizer.record(program, {WHOLE: self._params}, {WHOLE: self._grads}, self._whole, self._lr_of_entry, at, {})
