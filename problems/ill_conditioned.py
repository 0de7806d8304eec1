"""Approximate a matrix whose singular values span a chosen condition number."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_choice, check_number, check_rank, check_shape
from linalg.random import with_spectrum
from problems._least_squares import approximation
from problems._problem import Problem

SPECTRA = {
    "geometric": lambda k, condition: torch.logspace(0, -1, k, base=condition, dtype=torch.float64),
    "polynomial": lambda k, condition: torch.arange(1, k + 1, dtype=torch.float64) ** -_exponent(k, condition),
    "step": lambda k, condition: torch.cat(
        [torch.ones(k - k // 2).double(), torch.full((k // 2,), 1 / condition, dtype=torch.float64)]
    ),
}


def _exponent(k: int, condition: float) -> float:
    """p with k^p = condition, so that i^-p falls from 1 to 1 / condition."""
    return math.log(condition) / math.log(k) if k > 1 else 0.0


@dataclass(frozen=True)
class IllConditioned(Problem):
    """½ ‖W - M‖²_F for M of rank `rank` with σ1/σr = `condition`.

    Args:
        shape: (m, n).
        rank: of the target.
        condition: from 1 to 1e12.
        spectrum: `geometric` (equal ratios), `polynomial` (i^-p) or `step` (half at 1, half at 1 / condition).
        normalize, reduction: as in `matrix_factorization`.
    """

    reference: ClassVar[str] = "Tong, Ma and Chi 2021, arXiv 2005.08898"
    provides: ClassVar[tuple[str, ...]] = ("quadratic", "target")
    dtype: ClassVar[torch.dtype] = torch.float64

    shape: tuple[int, int] = (64, 64)
    rank: int = 8
    condition: float = 100.0
    spectrum: str = "geometric"
    normalize: str = "spectral"
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)
        check_rank("rank", self.rank, self.shape)
        check_number("condition", self.condition, least=1, most=1e12)
        check_choice("spectrum", self.spectrum, SPECTRA)

    def instance(self, seed):
        values = SPECTRA[self.spectrum](self.rank, float(self.condition))
        target = with_spectrum(*self.shape, values, self.generator(seed))
        return approximation(target, self.normalize, self.reduction)
