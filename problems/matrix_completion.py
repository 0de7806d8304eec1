"""Complete a low-rank matrix from some of its entries."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import InputError
from linalg.checks import check_number, check_rank, check_shape
from linalg.random import gaussian
from problems._completion import Completion
from problems._problem import Problem
from problems._scaling import reduction_weight, spectrally_normalized


@dataclass(frozen=True)
class MatrixCompletion(Problem):
    """½ ‖mask · (W - M)‖²_F / observed for a Gaussian product M of rank `rank`.

    Args:
        shape: (m, n).
        rank: of M.
        observed: fraction of entries in the training loss: exactly int(observed m n), without replacement.
        noise: standard deviation of the noise on observed values, relative to the root mean square of M's entries.
        validation: entries held out to pick the learning rate, as a fraction of the observed ones; the rest is the test.
        normalize, reduction: as in `matrix_factorization`; `sum` here divides by the observed fraction.
    """

    reference: ClassVar[str] = "Candès and Recht 2009, arXiv 0805.4471"

    shape: tuple[int, int] = (64, 64)
    rank: int = 4
    observed: float = 0.3
    noise: float = 0.0
    validation: float = 0.1
    normalize: str = "spectral"
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)
        check_rank("rank", self.rank, self.shape)
        check_number("observed", self.observed, above=0, most=1)
        check_number("noise", self.noise, least=0)
        check_number("validation", self.validation, above=0, most=1)

    def instance(self, seed):
        generator, (m, n) = self.generator(seed), self.shape
        hidden = gaussian(m, self.rank, generator=generator) @ gaussian(self.rank, n, generator=generator)
        hidden = spectrally_normalized(hidden, self.normalize)
        order = torch.randperm(m * n, generator=generator)
        count = int(self.observed * m * n)
        held_out = max(1, int(self.validation * count))
        if count < 1 or m * n - count - held_out < 1:
            raise InputError(
                f"observed={self.observed}: leaves {count} of {m * n} entries to train on and {m * n - count} for "
                "validation and test; each needs some"
            )
        noise = self.noise * hidden.square().mean().sqrt() * gaussian(count, generator=generator)
        observed = order[:count].sort().values
        validation, test = order[count : count + held_out].sort().values, order[count + held_out :].sort().values
        flat = hidden.flatten()
        values = flat[observed] + noise
        weight = reduction_weight(self.reduction, count, values.square().sum())
        if self.reduction == "sum":
            weight = weight * m * n / count
        return Completion(
            rows=m,
            columns=n,
            weight=weight,
            observed=observed,
            values=values,
            validation=validation,
            validation_values=flat[validation],
            test=test,
            test_values=flat[test],
            unit=torch.ones((), dtype=torch.float64),
            hidden=hidden,
            floor=0.0 if self.noise == 0 else None,
            hidden_rank=self.rank,
        )
