"""Gradient descent with heavy-ball momentum under a name of its own, so that `optimizer=sgd,momentum,adam` is a sweep."""

from dataclasses import dataclass
from typing import ClassVar

from optimizers.sgd import SGD


@dataclass(frozen=True)
class Momentum(SGD):
    """SGD with momentum 0.9."""

    reference: ClassVar[str] = "Polyak 1964"
    memory: ClassVar[str] = "m * n if momentum else 0"
    span: ClassVar[tuple[float, float]] = (1e-3, 1e1)

    momentum: float = 0.9
