"""A plain torch.optim loop as everyone writes it: one run at a time, autograd through the residual."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import matmul

import numpy as np
import torch
from torch import Tensor

from bench.perf.cells import Cell
from bench.perf.work import Work, chain, clock
from problems._completion import Completion
from problems._least_squares import LeastSquares


@dataclass
class Model:
    """One lane: its leaves, its optimizer and what it is fitted to."""

    params: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    target: Tensor
    mask: Tensor | None
    scale: float


class Loop(Work):
    """A block is a lane."""

    timed = 2

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.starts = cell.start
        self.blocks = [(seed, rate) for seed in range(cell.seeds) for rate in range(cell.rates)]

    def lanes_of(self, block: tuple[int, int]) -> int:
        return 1

    def build(self, block: tuple[int, int], steps: int) -> Model:
        cell, (seed, rate) = self.cell, block
        params = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in self.starts[seed].items()}
        rates = cell.method.rates
        groups = [{"params": [param], "lr": cell.lrs[rate] * rates[name]} for name, param in params.items() if name in rates]
        groups += [{"params": [param for name, param in params.items() if name not in rates]}]
        lr = cell.lrs[rate]
        optimizer = torch.optim.SGD(groups, lr) if cell.optimizer == "sgd" else torch.optim.Adam(groups, lr, eps=cell.eps)
        target, mask, scale = dense_target(cell, seed)
        return Model(params, optimizer, target, mask, scale)

    def advance(self, built: Model, steps: int) -> float:
        started = clock(self.cell.device)
        for _ in range(steps):
            residual = reduce(matmul, chain(self.cell, built.params, torch.relu)) - built.target
            if built.mask is not None:
                residual = residual * built.mask
            loss = 0.5 * built.scale * residual.square().sum()
            built.optimizer.zero_grad()
            loss.backward()
            built.optimizer.step()
        return clock(self.cell.device) - started

    def weights(self, built: Model) -> np.ndarray:
        exact = {name: param.detach().double() for name, param in built.params.items()}
        return reduce(matmul, chain(self.cell, exact, torch.relu)).cpu().numpy()[None]


def dense_target(cell: Cell, seed: int) -> tuple[Tensor, Tensor | None, float]:
    """The matrix (m, n) to fit, the mask (m, n) of its observed entries where some are missing, and the loss's weight."""
    instance = cell.instances[seed]
    if isinstance(instance, LeastSquares):
        return instance.target.clone(), None, 1.0
    assert isinstance(instance, Completion)
    blank = torch.zeros(math.prod(instance.shape), dtype=instance.values.dtype, device=instance.values.device)
    target = blank.scatter(0, instance.observed, instance.values).view(instance.shape)
    mask = blank.scatter(0, instance.observed, torch.ones_like(instance.values)).view(instance.shape)
    return target, mask, float(instance.weight)


def start(device: str) -> None:
    """Nothing to set up beyond one thread."""
    torch.set_num_threads(1)


def works(cell: Cell, contestant: str) -> Iterator[Work]:
    yield Loop(cell)
