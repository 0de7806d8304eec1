"""Recover a low-rank matrix from the magnitudes of projections of its columns."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_choice, check_integer, check_number, check_rank, check_shape
from linalg.random import gaussian, with_spectrum
from problems._phaseless import Phaseless, spectral_estimate
from problems._problem import Problem


@dataclass(frozen=True)
class PhaseRetrieval(Problem):
    """½ Σ_ik (|a_ikᵀ w_k| - √y_ik)² / samples, y_ik = (a_ikᵀ x_k)² for the columns x_k of a low-rank X; W = W0 + update.

    Args:
        shape: (m, n) of X.
        rank: of X, whose singular values fall evenly from 1 to 1 / condition.
        condition: σ1/σr of X.
        samples: Gaussian vectors a_ik for each column; 0 for the least number that gives thirty times the r (m + n - r)
            degrees of freedom of X: with half as many, descent often ends at wrong signs within a column.
        noise: standard deviation of the noise on √y, relative to its root mean square.
        loss: `amplitude`, as above; `intensity`, Σ (z² - y)² / (8 ȳ samples), z = a_ikᵀ w_k and ȳ the mean of y: of the fourth
            order in W, and so scaled that both are close to ½ ‖W - X‖²_F near X in the mean over the a_ik.

    Nothing fixes the sign of a column, and W = 0 is a stationary point of both losses. The base W0 is therefore what the
    literature starts from, a spectral estimate of rank `rank`: at no update the gradient is not zero. The signs of its columns
    decide which of the 2ⁿ truths is near. The update that is missing has up to twice the rank of X.
    """

    reference: ClassVar[str] = "Nayer, Narayanamurthy and Vaswani 2020, arXiv 1902.04972"
    provides: ClassVar[tuple[str, ...]] = ("base",)

    shape: tuple[int, int] = (32, 32)
    rank: int = 2
    condition: float = 1.0
    samples: int = 0
    noise: float = 0.0
    loss: str = "amplitude"

    def check(self):
        check_shape("shape", self.shape)
        check_rank("rank", self.rank, self.shape)
        check_number("condition", self.condition, least=1)
        check_integer("samples", self.samples, least=0)
        check_number("noise", self.noise, least=0)
        check_choice("loss", self.loss, ("amplitude", "intensity"))

    def instance(self, seed):
        generator, (m, n) = self.generator(seed), self.shape
        samples = self.samples or -(-30 * self.rank * (m + n - self.rank) // n)
        spectrum = torch.linspace(1, 1 / self.condition, self.rank, dtype=torch.float64)
        hidden = with_spectrum(m, n, spectrum, generator)
        vectors = gaussian(n, samples, m, generator=generator)
        magnitudes = (vectors @ hidden.mT[..., None])[..., 0].abs()
        noise = self.noise * magnitudes.square().mean().sqrt() * gaussian(n, samples, generator=generator)
        values = (magnitudes + noise).clamp(min=0).square()
        base = spectral_estimate(vectors, values, self.rank)
        return Phaseless(
            vectors=vectors,
            values=values,
            pretrained=base,
            hidden=hidden * torch.where((base * hidden).sum(0) < 0, -1.0, 1.0),
            amplitude=self.loss == "amplitude",
            floor_rank=None if self.noise else min(2 * self.rank, m, n),
        )
