"""Squared losses over linear measurements of a matrix."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from linalg import FactoredMatrix
from problems._instance import Instance, by_part
from problems._normal_equations import shared_matmul

Parts = tuple[Tensor, ...]


@dataclass(eq=False)
class Measurements(Instance):
    """c/2 Σ_k (⟨A_k, W⟩ - y_k)² over the first `training` measurements; the others pick the learning rate.

    The A_k are the rows of `sensing`, or a_k b_kᵀ, of which nothing larger than the a_k and b_k is ever formed.

    Args:
        hidden: (..., m, n), the matrix that was measured.
        weight: (...,) c.
        values: (..., N + N') y.
        training: N.
        floor_rank: the rank from which the loss can be zero; None where noise forbids it.
        sensing: (..., N + N', m n).
        left_vectors, right_vectors: (..., N + N', m) and (..., N + N', n): a and b.

    `test_rmse` is what fresh measurements of Gaussian entries, or vectors, have: √E⟨A, W - M⟩² = ‖W - M‖_F.
    """

    selection: ClassVar[str] = "validation_rmse"
    selection_root: ClassVar[bool] = True

    hidden: Tensor
    weight: Tensor
    values: Tensor
    training: int
    floor_rank: int | None
    sensing: Tensor | None = None
    left_vectors: Tensor | None = None
    right_vectors: Tensor | None = None

    def __post_init__(self) -> None:
        self._remaining_of: tuple[Tensor | None, int] = (None, -1)
        self._remaining: Tensor | None = None

    @property
    def shape(self):
        return self.hidden.shape[-2], self.hidden.shape[-1]

    @property
    def truth(self):
        return self.hidden

    def measured(self, parts: Parts, which: slice) -> Tensor:
        """(..., N) ⟨A_k, W⟩ of the update (..., m, n), or of its pair, by one GEMM a seed."""
        if self.sensing is not None:
            update = parts[0] if len(parts) == 1 else parts[0] @ parts[1]
            return shared_matmul(update.flatten(-2)[..., None, :], self.sensing[..., which, :].mT)[..., 0, :]
        first, second = self._projected(parts, which)
        return (first * second).sum(-2)

    def _projected(self, parts: Parts, which: slice) -> tuple[Tensor, Tensor]:
        """(..., q, N) each, whose product summed over q is a_kᵀ W b_k: through the pair's rank, or through n."""
        assert self.left_vectors is not None
        assert self.right_vectors is not None
        left, right = (vectors[..., which, :].mT for vectors in (self.left_vectors, self.right_vectors))
        return shared_matmul(parts[0].mT, left), right if len(parts) == 1 else shared_matmul(parts[1], right)

    def loss(self, weight: FactoredMatrix, batch: None = None) -> Tensor:
        training = slice(self.training)
        residual = self.measured(weight.parts, training) - self.values[..., training]
        if weight.base is not None:
            residual = residual + self.measured((weight.base,), training)
        return 0.5 * self.weight * residual.square().sum(-1)

    def part_gradients(self, parts, base, wanted, batch):
        training = slice(self.training)
        remaining = self._left_to_fit(base)
        if self.sensing is not None:
            slope = (self.measured(parts, training) - remaining) * self.weight[..., None]
            gradient = shared_matmul(slope[..., None, :], self.sensing[..., training, :])[..., 0, :].unflatten(-1, self.shape)
            return by_part(gradient, parts, wanted)
        assert self.left_vectors is not None
        assert self.right_vectors is not None
        first, second = self._projected(parts, training)
        slope = (((first * second).sum(-2) - remaining) * self.weight[..., None])[..., None, :]
        by_left = shared_matmul(slope * second, self.left_vectors[..., training, :]).mT if wanted[0] else None
        if len(parts) == 1:
            return (by_left,)
        return by_left, shared_matmul(slope * first, self.right_vectors[..., training, :]) if wanted[1] else None

    def _left_to_fit(self, base: Tensor | None) -> Tensor:
        """(..., N) y less the base's measurements; kept until another base comes, or this one is changed in place."""
        version = 0 if base is None else base._version
        if self._remaining is None or self._remaining_of[0] is not base or self._remaining_of[1] != version:
            training = slice(self.training)
            values = self.values[..., training]
            self._remaining = values if base is None else values - self.measured((base,), training)
            self._remaining_of = (base, version)
        return self._remaining

    def measure(self, weight):
        held_out = slice(self.training, None)
        dense = weight.dense()
        error = (dense - self.hidden).square().sum((-2, -1)).sqrt()
        return {
            "loss": self.loss(weight),
            "validation_rmse": (self.measured((dense,), held_out) - self.values[..., held_out]).square().mean(-1).sqrt(),
            "test_rmse": error,
            "relative_error": error / self.hidden.square().sum((-2, -1)).sqrt(),
        }

    def workspace(self, parts):
        m, n = self.shape
        if self.sensing is not None:
            return 2 * (m * n + self.training)
        return 3 * self.training * (n if parts == 1 else m * n // (2 * (m + n)))

    def best(self, rank: int) -> float | None:
        """Zero from the hidden rank on without noise, and for any matrix where there are no more measurements than entries:
        Gaussian ones are then almost surely independent."""
        m, n = self.shape
        interpolates = rank >= min(m, n) and self.training <= m * n
        return 0.0 if interpolates or (self.floor_rank is not None and rank >= self.floor_rank) else None
