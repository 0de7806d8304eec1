"""Losses over magnitudes of projections of a matrix's columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from linalg import FactoredMatrix
from problems._instance import Instance, by_part


@dataclass(eq=False)
class Phaseless(Instance):
    """The fit of z_ik² to y_ik, z_ik = a_ikᵀ w_k for the columns w_k of W: in the mean over i, summed over k.

    `amplitude`: ½ (|z| - √y)²; else (z² - y)² / (8 ȳ), ȳ the mean of all y: near the truth y/ȳ times the former.
    Both are blind to the sign of every column; errors are measured up to it.

    Args:
        vectors: (..., n, s, m), s vectors a_ik for each of the n columns.
        values: (..., n, s) y of at least 0.
        pretrained: (..., m, n), the base.
        hidden: (..., m, n), the truth with the signs that are nearest to the base.
        amplitude: which loss.
        floor_rank: the rank of an update from which the loss can be zero; None where noise forbids it.
    """

    vectors: Tensor
    values: Tensor
    pretrained: Tensor
    hidden: Tensor
    amplitude: bool
    floor_rank: int | None

    def __post_init__(self) -> None:
        self._magnitudes = self.values.sqrt()
        self._mean = self.values.mean((-2, -1), keepdim=True)

    @property
    def shape(self):
        return self.hidden.shape[-2], self.hidden.shape[-1]

    @property
    def base(self):
        return self.pretrained

    @property
    def truth(self):
        return self.hidden - self.pretrained

    def project(self, weight: Tensor) -> Tensor:
        """(..., n, s) z of W (..., m, n): for each seed and column one product for all rates."""
        lead = torch.broadcast_shapes(weight.shape[:-2], self.vectors.shape[:-3])
        vectors = self.vectors.reshape(-1, *self.vectors.shape[-3:])
        columns = weight.expand(*lead, *self.shape).reshape(len(vectors), -1, *self.shape).permute(0, 3, 2, 1)
        return (vectors @ columns).permute(0, 3, 1, 2).reshape(*lead, *self.values.shape[-2:])

    def project_back(self, slope: Tensor) -> Tensor:
        """(..., m, n) Σ_i slope_ik a_ik, column by column: the adjoint of `project`."""
        vectors = self.vectors.reshape(-1, *self.vectors.shape[-3:])
        rates = slope.reshape(len(vectors), -1, *slope.shape[-2:]).permute(0, 2, 3, 1)
        return (vectors.mT @ rates).permute(0, 3, 2, 1).reshape(*slope.shape[:-2], *self.shape)

    def loss(self, weight: FactoredMatrix, batch: None = None) -> Tensor:
        z = self.project(weight.dense())
        fit = 0.5 * (z.abs() - self._magnitudes) ** 2 if self.amplitude else (z**2 - self.values) ** 2 / (8 * self._mean)
        return fit.mean(-1).sum(-1)

    def part_gradients(self, parts, base, wanted, batch):
        update = parts[0] if len(parts) == 1 else parts[0] @ parts[1]
        z = self.project(update if base is None else update + base)
        slope = z - z.sgn() * self._magnitudes if self.amplitude else (z**2 - self.values) * z / (2 * self._mean)
        gradient = self.project_back(slope / slope.shape[-1])
        return by_part(gradient, parts, wanted)

    def measure(self, weight):
        dense = weight.dense()
        squares = torch.stack([(dense - sign * self.hidden).square().sum(-2) for sign in (1, -1)])
        error = squares.amin(0).sum(-1).sqrt()
        return {"loss": self.loss(weight), "relative_error": error / self.hidden.square().sum((-2, -1)).sqrt()}

    def workspace(self, parts):
        return 4 * self.shape[0] * self.shape[1] + 3 * self.values.shape[-2] * self.values.shape[-1]

    def best(self, rank: int) -> float | None:
        return 0.0 if self.floor_rank is not None and rank >= self.floor_rank else None


def spectral_estimate(vectors: Tensor, values: Tensor, rank: int) -> Tensor:
    """(m, n) of rank `rank` from vectors (n, s, m) and values (n, s): the start of Nayer et al.

    Columns span the leading eigenvectors of the mean of y a aᵀ, without the y above nine times their mean; each column is the
    leading eigenvector of its own y a aᵀ within that span, with the length √(mean y), and a sign that makes its entries there
    sum to no less than zero. The authors' code keeps the y *above* the threshold.
    """
    kept = torch.where(values <= 9 * values.mean(), values, 0.0)
    spread = torch.einsum("ks,ksi,ksj->ij", kept, vectors, vectors)
    span = torch.linalg.eigh(spread).eigenvectors[:, -rank:]
    within = vectors @ span
    leading = torch.linalg.eigh(within.mT @ (values[..., None] * within)).eigenvectors[..., -1]
    signs = torch.where(leading.sum(-1) < 0, -1.0, 1.0)
    return span @ (leading * (signs * values.mean(-1).sqrt())[:, None]).mT
