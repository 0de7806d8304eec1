"""Adam: the step is the mean gradient over the root of the mean squared gradient, entry by entry."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check_number, two_decays
from optimizers._optimizer import Optimizer, in_rows
from optimizers._state import EVERY

LARGE = 8192  # entries of a lane

Tensors = list[Tensor]


@dataclass(frozen=True)
class Adam(Optimizer):
    """w ← w - lr m̂ / (√v̂ + eps); weight decay, if any, is added to the gradient."""

    reference: ClassVar[str] = "Kingma and Ba 2015, arXiv 1412.6980"
    memory: ClassVar[str] = "2 * m * n"
    moments: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    elementwise: ClassVar[bool] = True
    stepless: ClassVar[bool] = True
    span: ClassVar[tuple[float, float]] = (1e-4, 1.0)

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", two_decays("betas", self.betas))
        check_number("eps", self.eps, least=0)
        check_number("weight_decay", self.weight_decay, least=0)

    def step_tensor(self, param, grad, state, name, lr, step):
        if self.weight_decay:
            grad = self._decay(param, grad, lr)
        moments = [state[name]["exp_avg"]], [state[name]["exp_avg_sq"]]
        if not isinstance(lr, Tensor):
            self._fused([param], [grad], *moments, state.count(name, param), lr)
            return
        # the kernel takes one rate for a tensor: at rate 1, a zero tensor becomes minus the direction
        direction = state.scratch(name, param).zero_()
        self._fused([direction], [grad], *moments, state.count(name, param), 1.0)
        param.addcmul_(direction, lr)

    def _fused(self, params: Tensors, grads: Tensors, first: Tensors, second: Tensors, count: Tensor, lr: Tensor | float) -> None:
        """One pass over all there is, by torch's own kernel."""
        torch._fused_adam_(
            params,
            grads,
            first,
            second,
            [],
            [count] * len(params),
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def prefers_names(self, entries, device, outer):
        return entries >= LARGE and device.type == "cpu" and not self.weight_decay

    def record(self, program, params, grads, state, lr, at, outer):
        """Large lanes go one by one, each at its own rate: that spares the passes which bring the rates in.

        A lane's outer products are formed just before they are used, while they fit a core's own cache.
        """
        entries = sum(tensor.numel() for tensor in params.values()) // lr.numel()
        if not self.prefers_names(entries, lr.device, bool(outer)) or state.rates or state.restarted:
            super().record(program, params, grads, state, lr, at, outer)
            return
        count = state.counts.setdefault(EVERY, torch.zeros(()))
        program.do(count.add_, 1)
        formed = {name: program.empty(params[name], in_rows(params[name][0, 0]).shape) for name in outer}
        for lane in product(*map(range, lr.shape)):
            for name, (column, row) in outer.items():
                place = formed[name] if params[name].is_contiguous() else formed[name].mT
                program.matmul(column[lane], row[lane], place)
            streams = params, grads, *({name: state[name][moment] for name in params} for moment in self.moments)
            rows = [[in_rows(stream[name][lane]) for name in params] for stream in streams]
            rows[1] = [formed.get(name, gradient) for name, gradient in zip(params, rows[1], strict=True)]
            program.do(self._fused, *rows, count, lr[lane])

    def _decay(self, param, grad, lr):
        return grad.add(param, alpha=self.weight_decay)
