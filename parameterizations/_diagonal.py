"""Chains left diag(d) right: two factors with a number for each of their r directions in between."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import FactoredMatrix
from parameterizations._parameterization import Parameterization
from parameterizations._recorded import Recorded


@dataclass(frozen=True)
class Diagonal(Parameterization):
    """Base class. The tensors are left (..., m, r), right (..., r, n) and, under the name `inner`, d (..., r)."""

    pair: ClassVar[str] = "predicted"
    inner: ClassVar[str] = "diagonal"

    rank: int = 8

    def factors(self, params):
        return params["left"] * params[self.inner][..., None, :], params["right"]

    def record(self, program, params, grads, at):
        left, row = params["left"], params[self.inner][..., None, :]
        tall = left.shape[-2] > left.shape[-1]
        first, place, product = (
            program.empty(left, left.mT.shape).mT if tall else program.empty(left, left.shape) for _ in range(3)
        )
        program.do(torch.mul, left, row, out=first)

        def pull_back() -> None:
            program.do(torch.mul, place, row, out=grads["left"])
            program.do(torch.mul, place, left, out=product)
            program.do(torch.sum, product, -2, out=grads[self.inner])

        return Recorded(
            FactoredMatrix((first, params["right"]), params.get("base"), self.scaling), (place, grads["right"]), pull_back
        )
