"""Fine-tune one linear layer: the smallest honest model of fine-tuning."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check, check_integer, check_number, check_rank, check_shape
from linalg.random import gaussian, orthogonal, with_spectrum
from problems._least_squares import LeastSquares
from problems._problem import Problem
from problems._scaling import reduction_weight


@dataclass(frozen=True)
class LinearRegression(Problem):
    """½ ‖W X - Y‖²_F with W = W0 + update, Y = (W0 + Δ) X + noise, ‖X‖₂ = 1.

    Args:
        shape: (m, n), outputs then inputs of the layer.
        rank: of Δ, which has equal singular values.
        decay: W0's singular values fall as i^-decay from 1, as those of trained layers do roughly.
        shift: spectral norm of Δ (W0's is 1).
        condition: of the inputs' covariance, whose eigenvalues fall geometrically.
        samples: N; 0 for four times the inputs.
        batch_size: samples a step, drawn without replacement; 0 for all.
        noise: standard deviation of the labels' noise, relative to the root mean square of Δ X.
        reduction: `sum`, `mean` over all outputs, or `relative` to the loss at W0.
    """

    reference: ClassVar[str] = "the linear case of Hu et al. 2022, arXiv 2106.09685"
    provides: ClassVar[tuple[str, ...]] = ("quadratic", "base")

    shape: tuple[int, int] = (64, 64)
    rank: int = 4
    decay: float = 1.0
    shift: float = 1.0
    condition: float = 100.0
    samples: int = 0
    batch_size: int = 0
    noise: float = 0.0
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)
        check_rank("rank", self.rank, self.shape)
        check_number("decay", self.decay, least=0)
        check_number("shift", self.shift, above=0)
        check_number("condition", self.condition, least=1)
        check_integer("samples", self.samples, least=0)
        check_integer("batch_size", self.batch_size, least=0)
        check_number("noise", self.noise, least=0)
        samples = self.samples or 4 * self.shape[1]
        check(self.batch_size <= samples, "batch_size", self.batch_size, f"at most {samples}, the number of samples")

    def instance(self, seed):
        generator, (m, n) = self.generator(seed), self.shape
        samples = self.samples or 4 * n
        spectrum = torch.arange(1, min(m, n) + 1, dtype=torch.float64) ** -self.decay
        pretrained = with_spectrum(m, n, spectrum, generator)
        target = pretrained + self.shift * with_spectrum(m, n, torch.ones(self.rank), generator)
        deviations = torch.logspace(0, -0.5, n, base=float(self.condition), dtype=torch.float64)
        inputs = orthogonal(n, n, generator) @ (deviations[:, None] * gaussian(n, samples, generator=generator))
        inputs = inputs / torch.linalg.matrix_norm(inputs, 2)
        signal = (target - pretrained) @ inputs
        noise = self.noise * signal.square().mean().sqrt() * gaussian(m, samples, generator=generator)
        return LeastSquares(
            target=target,
            weight=reduction_weight(self.reduction, m * samples, (signal + noise).square().sum()),
            pretrained=pretrained,
            inputs=inputs,
            outputs=target @ inputs + noise,
            batch_size=self.batch_size,
        )
