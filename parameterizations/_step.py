"""Where a run stands: what the hooks of parameterizations and optimizers are handed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from linalg import InputError, gaussian

Params = dict[str, Tensor]


@dataclass
class Step:
    """Where a run stands; handed to the hooks of parameterizations and optimizers.

    Args:
        step: counts from 0.
        steps: how many the run takes in all, None where nobody knows.
        generators: one a seed; lanes of a seed that differ only in the learning rate share their draws.
        closure: for a lane's index, its loss () and gradients by name (1, 1, ...) at the present parameters, for line searches.
        lr: (seeds, rates) learning rates of this step, for hooks that move tensors themselves.
        memory: what a method keeps from step to step beside its tensors, by name; empty at the start.
        instance: the objective, stacked over seeds, for reference methods that solve it (see `Problem.provides`).
        gradient: gives dL/dW (seeds, rates, ..., m, n) at the present weight, on the step's batch, for rules that need it whole.
    """

    step: int = 0
    steps: int | None = None
    generators: Sequence[torch.Generator] = ()
    closure: Callable[[tuple[int, int]], tuple[Tensor, dict[str, Tensor]]] | None = None
    lr: Tensor | float | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    instance: Any = None
    gradient: Callable[[], Tensor] | None = None

    def gaussian_like(self, like: Tensor) -> Tensor:
        """N(0, 1) entries in the shape of `like`: (p, q), or (seeds, rates, ..., p, q) with (..., p, q) from each generator,
        which the rates of a seed share."""
        lead = like.shape[:-2]
        if len(self.generators) != (lead[0] if lead else 1):
            raise InputError(f"generators: {len(self.generators)} given, but {lead[0] if lead else 1} matrices are to be drawn")
        own = like.shape[2:] if len(lead) > 1 else like.shape[-2:]
        drawn = torch.stack([gaussian(*own, generator=generator) for generator in self.generators]).to(like)
        return drawn[:, None].expand(like.shape) if len(lead) > 1 else drawn.reshape(like.shape)
