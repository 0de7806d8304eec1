"""The contract of a problem: a family of objectives over a matrix, drawn with a seed into an instance."""

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from linalg import generator
from linalg.checks import check_choice, check_integer
from optimizers import Optimizer
from parameterizations import Parameterization
from problems._instance import Instance
from problems._scaling import NORMALIZE, REDUCTIONS


@dataclass(frozen=True)
class Problem:
    """Base class. A subclass is a frozen dataclass in a file of its own that gives `instance`.

    `dtype` is what the problem trains in when nobody asks for another: float64 where rounding would decide the result.
    `provides` says what methods may need: `base`, a pretrained weight; `layers`, a stack of weights; `quadratic`, a loss that
    is quadratic in the weight; `target`, a matrix that the loss is the distance to; `tasks`, tasks that come one after
    the other; `model`, a model around the weights; `clients`, a stack of clients' weights, `client_weights` each.
    """

    reference: ClassVar[str] = ""
    provides: ClassVar[tuple[str, ...]] = ("quadratic",)
    dtype: ClassVar[torch.dtype] = torch.float32
    client_weights: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # configurations have no tuples
                object.__setattr__(self, field.name, tuple(value))
        for name, choices in (("normalize", NORMALIZE), ("reduction", REDUCTIONS)):
            if hasattr(self, name):
                check_choice(name, getattr(self, name), choices)
        self.check()

    def check(self) -> None:
        """Raise `InputError` for a hyperparameter out of range."""

    def instance(self, seed: int) -> Instance:
        """The instance of that seed in float64 on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} must define instance()")

    def draw(self, seed: int = 0, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Instance:
        """Draw an instance; the same numbers for the same seed in every dtype and on every device, to rounding.

        Raises:
            InputError: where the hyperparameters, or a file they name, do not give one.
        """
        check_integer("seed", seed, least=0)
        drawn = self.instance(int(seed))
        dtype = dtype or self.dtype
        moved = {}
        for field in fields(drawn):
            value = getattr(drawn, field.name)
            if isinstance(value, Tensor):
                value = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            moved[field.name] = value
        return type(drawn)(**moved)

    def span(self, optimizer: Optimizer) -> tuple[float, float]:
        """Where a sweep looks for the learning rate when none is given."""
        return optimizer.span

    def refuses(self, parameterization: Parameterization, optimizer: Optimizer) -> str | None:
        """None, or the reason why the two cannot run here, beside what they need and the problem does not provide."""
        return None

    def generator(self, seed: int, stream: str = "problem") -> torch.Generator:
        return generator(seed, stream)

    def fingerprint(self) -> str:
        """What decides the instances beside the hyperparameters, such as the content of a file."""
        return ""
