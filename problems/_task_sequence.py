"""Linear tasks that are trained on one after the other and measured together."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import FactoredMatrix
from parameterizations.color import Routed
from problems._instance import Instance
from problems._normal_equations import shared_matmul
from problems._routing import active_task, of_task, routed, routing_accuracy, task_batch


@dataclass(eq=False)
class TaskSequence(Instance):
    """c/2 ‖W X_t - Y_t‖²_F on the batch's task t; without a batch the mean over the T tasks.

    Args:
        weight: (...,) c.
        pretrained: (..., m, n).
        inputs, test_inputs: X (..., T, n, N) and (..., T, n, N').
        outputs, test_outputs: Y (..., T, m, N) and (..., T, m, N'), which a weight of each task's own fits exactly.
        distances, test_distances: (..., T, T, N) of every task's inputs from every domain, see `domain_distances`.

    A `Routed` weight gives every input to the nearest of the domains seen so far.
    """

    headline: ClassVar[str] = "test_loss"

    weight: Tensor
    pretrained: Tensor
    inputs: Tensor
    outputs: Tensor
    test_inputs: Tensor
    test_outputs: Tensor
    distances: Tensor
    test_distances: Tensor

    def __post_init__(self) -> None:
        self._gram = self.inputs @ self.inputs.mT
        self._cross = self.outputs @ self.inputs.mT
        self._at_start = self.task_losses(FactoredMatrix((torch.zeros_like(self.pretrained),), self.pretrained))

    @property
    def shape(self):
        return self.pretrained.shape[-2], self.pretrained.shape[-1]

    @property
    def base(self):
        return self.pretrained

    @property
    def tasks(self) -> int:
        """T."""
        return self.inputs.shape[-3]

    def active(self, step: int, steps: int | None) -> int:
        """The task of that step."""
        return active_task(step, steps, self.tasks)

    def batch(self, at):
        return task_batch(at, self.tasks, self.weight)

    def loss(self, weight: FactoredMatrix, batch: Tensor | None = None) -> Tensor:
        if batch is None:
            return self.task_losses(weight).mean(-1)
        inputs, outputs = of_task(batch, self.inputs, -3), of_task(batch, self.outputs, -3)
        return 0.5 * self.weight * (weight.apply(inputs.mT).mT - outputs).square().sum((-2, -1))

    def part_gradients(self, parts, base, wanted, batch):
        if batch is None:
            gram, cross = self._gram.mean(-3), self._cross.mean(-3)
        else:
            gram, cross = of_task(batch, self._gram, -3), of_task(batch, self._cross, -3)
        cross = cross if base is None else cross - base @ gram
        scale = self.weight[..., None, None]
        if len(parts) == 1:
            return (scale * (shared_matmul(parts[0], gram) - cross),)
        left, right = parts
        through = shared_matmul(right, gram)
        grad_left = scale * (left @ (through @ right.mT) - shared_matmul(right, cross.mT).mT) if wanted[0] else None
        grad_right = scale * (left.mT @ left @ through - shared_matmul(left.mT, cross)) if wanted[1] else None
        return grad_left, grad_right

    def task_losses(self, weight: FactoredMatrix, test: bool = False) -> Tensor:
        """(..., T) of every task, on its inputs for training or for the test."""
        inputs, outputs = (self.test_inputs, self.test_outputs) if test else (self.inputs, self.outputs)
        if isinstance(weight, Routed):
            residual = weight.dense().unsqueeze(-4) @ inputs.unsqueeze(-3) - outputs.unsqueeze(-3)  # (..., T, t, m, N)
            squares = routed(residual.square().sum(-2), self.test_distances if test else self.distances)
        else:
            squares = (weight.dense().unsqueeze(-3) @ inputs - outputs).square().sum(-2)
        return 0.5 * self.weight[..., None] * squares.sum(-1)

    def measure(self, weight):
        losses = self.task_losses(weight)
        left = losses / self._at_start
        measures = {"loss": losses.mean(-1), "test_loss": self.task_losses(weight, test=True).mean(-1)}
        measures |= {f"task_{t + 1}": left[..., t] for t in range(self.tasks)}
        if self.tasks > 1:
            measures["forgetting"] = left[..., :-1].mean(-1)
        if isinstance(weight, Routed):
            accuracy = routing_accuracy(self.test_distances, weight.dense().shape[-3])
            measures["routing_accuracy"] = accuracy.expand(losses.shape[:-1])
        return measures

    def workspace(self, parts):
        return 4 * self.shape[0] * self.shape[1]
