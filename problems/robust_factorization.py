"""Approximate a low-rank matrix of which some entries are grossly wrong."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_choice, check_number, check_rank, check_shape
from linalg.random import gaussian, with_spectrum
from problems._problem import Problem
from problems._robust import RobustApproximation


@dataclass(frozen=True)
class RobustFactorization(Problem):
    """Σ h(W_ij - Y_ij), Y = M + noise + sparse gross errors, h Huber's loss or the smoothed absolute value.

    Args:
        shape: (m, n).
        rank: of M, whose singular values fall evenly from 1 to 1 / condition.
        condition: σ1/σr of M.
        outliers: fraction of entries that are wrong: exactly int(outliers m n), anywhere.
        magnitude: of the errors, which have random signs, in root mean squares of M's entries.
        noise: standard deviation of the noise on all entries, in root mean squares of M's entries.
        loss: `huber`, ½ x² up to δ and δ (|x| - δ/2) beyond; `smoothed_l1`, δ (√(x² + δ²) - δ). Both are ½ x² near zero.
        delta: δ in root mean squares of M's entries.

    Relative errors are against M. An outlier pulls with δ, so the minimum is off M by about
    δ √(outliers r (m + n - r)) / (1 - outliers): smaller δ is more exact, and slower where steps are proportional to gradients.
    """

    reference: ClassVar[str] = "Candès et al. 2011, arXiv 0912.3599; Huber 1964"
    provides: ClassVar[tuple[str, ...]] = ()

    shape: tuple[int, int] = (64, 64)
    rank: int = 4
    condition: float = 1.0
    outliers: float = 0.1
    magnitude: float = 10.0
    noise: float = 0.0
    loss: str = "huber"
    delta: float = 0.1

    def check(self):
        check_shape("shape", self.shape)
        check_rank("rank", self.rank, self.shape)
        check_number("condition", self.condition, least=1)
        check_number("outliers", self.outliers, least=0, most=1)
        check_number("magnitude", self.magnitude, least=0)
        check_number("noise", self.noise, least=0)
        check_choice("loss", self.loss, ("huber", "smoothed_l1"))
        check_number("delta", self.delta, above=0)

    def instance(self, seed):
        generator, (m, n) = self.generator(seed), self.shape
        spectrum = torch.linspace(1, 1 / self.condition, self.rank, dtype=torch.float64)
        hidden = with_spectrum(m, n, spectrum, generator)
        unit = float(spectrum.norm()) / (m * n) ** 0.5
        wrong = torch.randperm(m * n, generator=generator)[: int(self.outliers * m * n)]
        signs = 2.0 * torch.randint(2, (len(wrong),), generator=generator, dtype=torch.float64) - 1
        errors = self.noise * unit * gaussian(m * n, generator=generator)
        errors[wrong] += self.magnitude * unit * signs
        spoiled = bool(errors.any())
        return RobustApproximation(
            hidden=hidden,
            observed=hidden + errors.view(m, n),
            delta=self.delta * unit,
            smooth=self.loss == "smoothed_l1",
            floor_rank=min(m, n) if spoiled else self.rank,
        )
