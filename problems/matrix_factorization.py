"""Approximate a fully observed matrix: the plainest setting, with a known optimum."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check, check_choice, check_integer, check_number, check_rank, check_shape
from linalg.random import gaussian, with_spectrum
from problems._least_squares import approximation
from problems._problem import Problem


@dataclass(frozen=True)
class MatrixFactorization(Problem):
    """½ ‖W - M‖²_F for a uniform, gaussian or low-rank M.

    Args:
        shape: (m, n).
        kind: `uniform`, entries U[0, 1], the proxy of the OP-LoRA paper: full rank, one dominant direction;
            `gaussian`, entries N(0, 1); `low_rank`, rank `rank` with random singular vectors.
        rank: of a `low_rank` target; the other kinds are of full rank.
        spectrum: the singular values of a `low_rank` target; None for equal ones.
        normalize: `spectral` scales M to spectral norm 1, `none` leaves it.
        reduction: see `reduction_weight`.
    """

    reference: ClassVar[str] = "Eckart and Young 1936; Teterwak et al. 2024, arXiv 2412.10362, section B.2"
    provides: ClassVar[tuple[str, ...]] = ("quadratic", "target")

    shape: tuple[int, int] = (64, 64)
    kind: str = "uniform"
    rank: int = 8
    spectrum: tuple[float, ...] | None = None
    normalize: str = "spectral"
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)
        check_choice("kind", self.kind, ("uniform", "gaussian", "low_rank"))
        check_integer("rank", self.rank)
        if self.kind == "low_rank":
            check_rank("rank", self.rank, self.shape)
            if self.spectrum is not None:
                fits = isinstance(self.spectrum, tuple) and len(self.spectrum) == self.rank
                check(fits, "spectrum", self.spectrum, f"{self.rank} numbers of at least 0, one for each of the rank")
                for value in self.spectrum:
                    check_number("spectrum", value, least=0)

    def instance(self, seed):
        generator, (m, n) = self.generator(seed), self.shape
        if self.kind == "uniform":
            target = torch.rand(m, n, generator=generator, dtype=torch.float64)
        elif self.kind == "gaussian":
            target = gaussian(m, n, generator=generator)
        else:
            values = torch.tensor(self.spectrum if self.spectrum is not None else [1.0] * self.rank, dtype=torch.float64)
            target = with_spectrum(m, n, values, generator)
        return approximation(target, self.normalize, self.reduction)
