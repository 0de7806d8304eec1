"""Methods that train B A for a while, merge it into the base, and begin another."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from linalg import InputError
from linalg.checks import check_integer
from linalg.random import uniform
from parameterizations._parameterization import Parameterization
from parameterizations._step import Params, Step


@dataclass(frozen=True)
class Merging(Parameterization):
    """Base class. After every `interval` steps B A joins the base, and `restart` sees to the rest."""

    pair: ClassVar[str] = "stored"

    rank: int = 8
    interval: int = 100
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("interval", self.interval, least=0)

    def initial(self, shape, generator, base, gradient):
        m, n = shape
        return {
            "left": torch.zeros(m, self.rank, dtype=torch.float64),
            "right": uniform(self.rank, n, bound=1 / math.sqrt(n), generator=generator),
            "base": torch.zeros(shape, dtype=torch.float64) if base is None else base,
        }

    def factors(self, params):
        return params["left"], params["right"]

    @property
    def merges(self):
        return self.interval > 0

    def reach(self, shape):
        return min(shape) if self.merges else min(self.rank, *shape)

    def after_step(self, params, grads, state, at):
        last = at.step + 1 == at.steps  # nothing comes that another pair could learn
        if not self.merges or (at.step + 1) % self.interval or last:
            return
        params["base"] = self.weight(params).dense()
        self.restart(params, state, at)

    def restart(self, params: Params, state: Any, at: Step) -> None:
        """Start another pair from B = 0: what becomes of A, and of the optimizer's moments."""
        raise NotImplementedError(f"{type(self).__name__} must define restart()")

    @staticmethod
    def carries(state: Any) -> bool:
        """Whether the optimizer's moments are entry by entry, so that they can go on; bases, Gram matrices and seeds cannot."""
        return bool(getattr(state, "entrywise", True))

    def draw_again(self, params: Params, at: Step) -> None:
        """B = 0, and A uniform as at the start, in place."""
        right = params["right"]
        right.copy_(torch.erf(at.gaussian_like(right) / math.sqrt(2)) / math.sqrt(right.shape[-1]))
        params["left"].zero_()

    def export(self, params):
        if self.merges:
            name = type(self).__name__.lower()
            raise InputError(f"{name}: no LoRA pair holds a weight that merges; interval=0 keeps one pair and exports")
        return super().export(params)
