"""Approximate the Hilbert matrix, the classical ill-conditioned matrix."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_shape
from problems._least_squares import approximation
from problems._problem import Problem


@dataclass(frozen=True)
class Hilbert(Problem):
    """½ ‖W - M‖²_F for M_ij = 1 / (i + j + 1), counted from 0; seeds differ only in how the factors start.

    At 16 x 16 its condition number is beyond float64, and it is small enough for every probe.
    """

    reference: ClassVar[str] = "Hilbert 1894"
    provides: ClassVar[tuple[str, ...]] = ("quadratic", "target")
    dtype: ClassVar[torch.dtype] = torch.float64

    shape: tuple[int, int] = (16, 16)
    normalize: str = "spectral"
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)

    def instance(self, seed):
        row, column = (torch.arange(side, dtype=torch.float64) for side in self.shape)
        return approximation(1 / (row[:, None] + column + 1), self.normalize, self.reduction)
