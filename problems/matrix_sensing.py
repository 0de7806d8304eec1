"""Recover a low-rank matrix from linear measurements of it."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_choice, check_integer, check_number, check_rank, check_shape
from linalg.random import gaussian, with_spectrum
from problems._measurements import Measurements
from problems._problem import Problem
from problems._scaling import reduction_weight


@dataclass(frozen=True)
class MatrixSensing(Problem):
    """½ Σ_k (⟨A_k, W⟩ - y_k)² / samples, y_k = ⟨A_k, M⟩ + noise; its mean over the A_k is ½ ‖W - M‖²_F.

    Args:
        shape: (m, n).
        rank: of M, whose singular values fall evenly from 1 to 1 / condition.
        condition: σ1/σr of M.
        sensing: `gaussian`, entries N(0, 1), which has the restricted isometry property; `rank_one`, A_k = a_k b_kᵀ with
            Gaussian vectors, which has not in this norm, and takes (m + n) numbers a measurement instead of m n.
        samples: N; 0 for five times the r (m + n - r) degrees of freedom of M.
        noise: its standard deviation, relative to that of ⟨A_k, M⟩.
        validation: further measurements, without noise, that pick the learning rate, as a fraction of `samples`.
        reduction: as in `matrix_factorization`; `sum` here divides by the number of measurements.
    """

    reference: ClassVar[str] = "Recht, Fazel and Parrilo 2010, arXiv 0706.4138; Cai and Zhang 2015, arXiv 1310.5791"

    shape: tuple[int, int] = (24, 24)
    rank: int = 2
    condition: float = 1.0
    sensing: str = "gaussian"
    samples: int = 0
    noise: float = 0.0
    validation: float = 0.1
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)
        check_rank("rank", self.rank, self.shape)
        check_number("condition", self.condition, least=1)
        check_choice("sensing", self.sensing, ("gaussian", "rank_one"))
        check_integer("samples", self.samples, least=0)
        check_number("noise", self.noise, least=0)
        check_number("validation", self.validation, above=0, most=1)

    def instance(self, seed):
        generator, (m, n) = self.generator(seed), self.shape
        spectrum = torch.linspace(1, 1 / self.condition, self.rank, dtype=torch.float64)
        hidden = with_spectrum(m, n, spectrum, generator)
        training = self.samples or 5 * self.rank * (m + n - self.rank)
        count = training + max(1, int(self.validation * training))
        if self.sensing == "gaussian":
            operator = {"sensing": gaussian(count, m * n, generator=generator)}
            values = operator["sensing"] @ hidden.flatten()
        else:
            operator = {
                "left_vectors": gaussian(count, m, generator=generator),
                "right_vectors": gaussian(count, n, generator=generator),
            }
            values = ((operator["left_vectors"] @ hidden) * operator["right_vectors"]).sum(-1)
        values[:training] += self.noise * hidden.norm() * gaussian(training, generator=generator)
        weight = reduction_weight(self.reduction, training, values[:training].square().sum())
        return Measurements(
            hidden=hidden,
            weight=weight / training if self.reduction == "sum" else weight,
            values=values,
            training=training,
            floor_rank=None if self.noise else self.rank,
            **operator,
        )
