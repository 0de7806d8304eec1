"""Federated LoRA: every client trains a copy, a server averages both factors, the right ones or the left ones."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import FactoredMatrix
from linalg.checks import check, check_choice, check_integer
from linalg.random import uniform
from parameterizations._parameterization import Parameterization
from parameterizations._recorded import Recorded

AVERAGED = {"both": ("left", "right"), "right": ("right",), "left": ("left",)}


@dataclass(frozen=True)
class FedLoRA(Parameterization):
    """W_i = B_i A_i for client i; every `local_steps` what is shared becomes its mean over clients.

    Args:
        rank: r.
        share: `both`, FedAvg on LoRA; `right`, FedSA-LoRA: A is averaged, B_i stays the client's own; `left`, FFA-LoRA
            (Sun et al. 2024, arXiv 2403.12313): A stays as drawn, the same for all, and B is averaged.
        local_steps: updates that clients make between two averagings; the authors of FedSA-LoRA make 10.
        weights: weights of a client, as many as the problem gives each; the stack holds the first client's one after
            another, then the second's.
        moments: what becomes of the optimizer's moments when clients go on from an average: `reset`, all start from zero;
            `local`, each client keeps its own. They are never averaged.
        alpha: the numerator of the scale alpha / r; None for r, so that the scale is 1.

    All clients start from the same A ~ U[-1/√n, 1/√n] and B = 0. The weight as used is the aggregated one: a measure
    between two averagings sees what averaging at that moment would give. The authors build a new SGD optimizer every
    round, which `reset` does for rules with moments. All clients take part in all rounds, with the same weight.
    """

    reference: ClassVar[str] = "Guo et al. 2024, arXiv 2410.01463"
    size: ClassVar[str] = "r * (m if share == 'left' else m + n)"

    rank: int = 8
    share: str = "right"
    local_steps: int = 10
    weights: int = 1
    moments: str = "reset"
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("share", self.share, AVERAGED)
        check_integer("local_steps", self.local_steps)
        check_integer("weights", self.weights)
        check_choice("moments", self.moments, ("reset", "local"))

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        right = uniform(self.rank, n, bound=1 / math.sqrt(n), generator=generator)
        return {"left": torch.zeros(m, self.rank, dtype=torch.float64), "right": right}

    def initial_layers(self, shape, layers, generator, base, gradient):
        fits = layers % self.weights == 0
        check(fits, "weights", self.weights, f"a divisor of {layers}, the weights of all clients together")
        client = super().initial_layers(shape, self.weights, generator, None, None)
        return {name: tensor.repeat(layers // self.weights, 1, 1) for name, tensor in client.items()}

    def factors(self, params):
        return tuple(self.average(params[name]) if name in AVERAGED[self.share] else params[name] for name in ("left", "right"))

    def weight(self, params, at=None):
        if at is None:
            return super().weight(params)
        return FactoredMatrix((params["left"], params["right"]), params.get("base"), self.scaling)

    def average(self, tensor: Tensor) -> Tensor:
        """(..., clients · weights, p, q) with each of a client's weights replaced by its mean over clients."""
        if tensor.ndim < 3:
            return tensor
        clients = tensor.unflatten(-3, (-1, self.weights))
        return clients.mean(-4, keepdim=True).expand_as(clients).flatten(-4, -3)

    def record(self, program, params, grads, at):
        return Recorded(self.weight(params, at), (grads.get("left"), grads.get("right")), lambda: None)

    def after_step(self, params, grads, state, at):
        if (at.step + 1) % self.local_steps:
            return
        for name in AVERAGED[self.share]:
            params[name].copy_(self.average(params[name]))
        if self.moments == "reset":
            for name in list(state):
                state.reset(name)

    @property
    def pair(self) -> str:  # type: ignore[override]  # with A frozen only one factor trains
        return "" if self.share == "left" else "stored"

    @property
    def frozen(self):
        return ("base", "right") if self.share == "left" else ("base",)

    @property
    def needs(self):
        return ("layers", "clients")
