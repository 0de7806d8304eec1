"""The dense weight itself: the yardstick that every factorization is measured against."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from parameterizations._parameterization import Parameterization


@dataclass(frozen=True)
class Full(Parameterization):
    """The dense update, started at zero."""

    size: ClassVar[str] = "m * n"

    def initial(self, shape, generator, base, gradient):
        return {"update": torch.zeros(shape, dtype=torch.float64)}

    def factors(self, params):
        return (params["update"],)
