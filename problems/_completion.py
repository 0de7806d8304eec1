"""Squared losses over some entries of a matrix, with others held out."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import FactoredMatrix
from problems._problem import Instance

warnings.filterwarnings(
    "ignore", message="Sparse CSR tensor support is in beta"
)  # said once a process; what is used here is tested
DENSE_ABOVE = 0.05  # observed fraction from which a dense mask beats gathered entries


@dataclass(eq=False)
class Completion(Instance):
    """c/2 Σ (W_ij - M_ij)² over the observed entries.

    Entries are given by flat index i n + j, sorted, with their values; `validation` picks the learning rate and `test`
    is only reported.

    Args:
        rows, columns: the shape (m, n).
        weight: (...,) c. The suite's `reduction: sum` divides by the observed fraction.
        observed, values: (..., N).
        validation, validation_values: (..., N').
        test, test_values: (..., N'').
        unit: (...,) what one unit of the scaled matrix is in units of the data; root mean square errors are reported in these.
        hidden: (..., m, n), the noiseless matrix, where it is known.
        floor: a loss that the hidden matrix reaches, None where unknown; with `hidden_rank`, the rank that it takes.
    """

    selection: ClassVar[str] = "validation_rmse"
    headline: ClassVar[str] = "test_rmse"

    rows: int
    columns: int
    weight: Tensor
    observed: Tensor
    values: Tensor
    validation: Tensor
    validation_values: Tensor
    test: Tensor
    test_values: Tensor
    unit: Tensor
    hidden: Tensor | None = None
    floor: float | None = None
    hidden_rank: int = 0

    def __post_init__(self) -> None:
        self._dense = self.observed.shape[-1] > DENSE_ABOVE * self.rows * self.columns
        if self._dense:
            lead = self.observed.shape[:-1]
            blank = torch.zeros(*lead, self.rows * self.columns, dtype=self.values.dtype, device=self.values.device)
            ones = torch.ones_like(self.values)
            self._mask = blank.scatter(-1, self.observed, ones).unflatten(-1, (self.rows, self.columns))
            self._target = blank.scatter(-1, self.observed, self.values).unflatten(-1, (self.rows, self.columns))
        self._pattern: _Pattern | None = None

    @property
    def shape(self):
        return self.rows, self.columns

    @property
    def truth(self):
        return self.hidden

    def loss(self, weight: FactoredMatrix, batch: None = None) -> Tensor:
        residual = self.entries(weight, self.observed) - self.values
        return 0.5 * self.weight * residual.square().sum(-1)

    def entries(self, weight: FactoredMatrix, index: Tensor) -> Tensor:
        """(..., N) the weight's entries at flat indices (..., N)."""
        if self._dense or len(weight.parts) == 1 or weight.base is not None:
            return _take(weight.dense().flatten(-2), index)
        left, right = weight.parts
        row, column = (index // self.columns)[..., None, :], (index % self.columns)[..., None, :]
        return (_take(left.mT, row) * _take(right, column)).sum(-2)

    def part_gradients(self, parts, base, wanted, batch):
        if self._dense or len(parts) == 1 or base is not None:
            residual = self._dense_residual(parts, base)
            if len(parts) == 1:
                return (residual,)
            return (residual @ parts[1].mT if wanted[0] else None), (parts[0].mT @ residual if wanted[1] else None)
        left, right = parts
        return self._gathered_gradients(left, right, wanted)

    def _dense_residual(self, parts: tuple[Tensor, ...], base: Tensor | None) -> Tensor:
        """(..., m, n) the loss's derivative by the weight: zero off the observed entries."""
        residual = parts[0] @ parts[1] if len(parts) == 2 else parts[0].clone()
        if base is not None:
            residual = residual + base
        if self._dense:
            same = residual.shape == torch.broadcast_shapes(residual.shape, self._mask.shape)
            masked = residual.mul_(self._mask) if same else residual * self._mask
            return masked.sub_(self._target).mul_(self.weight[..., None, None])
        flat = residual.flatten(-2)
        index = self.observed.expand(*flat.shape[:-1], -1)
        gathered = (flat.gather(-1, index) - self.values) * self.weight[..., None]
        return torch.zeros_like(flat).scatter_(-1, index, gathered).view_as(residual)

    def _gathered_gradients(self, left: Tensor, right: Tensor, wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        lead = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2], self.observed.shape[:-1])
        if self._pattern is None or self._pattern.lead != lead:
            self._pattern = _Pattern(self.observed, lead, self.rows, self.columns)
        left, right = left.expand(*lead, *left.shape[-2:]), right.expand(*lead, *right.shape[-2:])
        tall, wide = left.reshape(-1, left.shape[-1]), right.mT.reshape(-1, right.shape[-2])
        residual = self._pattern.sample(tall, wide).view(*lead, -1)
        residual = residual.sub_(self.values).mul_(self.weight[..., None]).view(-1)
        grad_left = self._pattern.multiply(residual, wide).view(left.shape) if wanted[0] else None
        grad_right = self._pattern.multiply_transposed(residual, tall).view(right.mT.shape).mT if wanted[1] else None
        return grad_left, grad_right

    def measure(self, weight):
        measures = {"loss": self.loss(weight)}
        for part, index, values in (
            ("validation", self.validation, self.validation_values),
            ("test", self.test, self.test_values),
        ):
            residual = self.entries(weight, index) - values
            measures[f"{part}_rmse"] = self.unit * residual.square().mean(-1).sqrt()
        if self.hidden is None:
            energy = self.test_values.square().mean(-1).sqrt()
            measures["relative_error"] = measures["test_rmse"] / (self.unit * energy)
        else:
            error = (weight.dense() - self.hidden).square().sum((-2, -1)).sqrt()
            measures["relative_error"] = error / self.hidden.square().sum((-2, -1)).sqrt()
        return measures

    def workspace(self, parts):
        return 2 * self.rows * self.columns if self._dense or parts == 1 else 4 * self.observed.shape[-1]

    def best(self, rank: int) -> float | None:
        return self.floor if rank >= self.hidden_rank else None


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values (..., p) at index (..., N) along the last dimension, leading dimensions broadcast."""
    lead = torch.broadcast_shapes(values.shape[:-1], index.shape[:-1])
    return torch.take_along_dim(values.expand(*lead, -1), index.expand(*lead, -1), dim=-1)


class _Pattern:
    """The observed entries of all lanes as one block-diagonal sparse matrix: sampled products and products in one call each."""

    def __init__(self, observed: Tensor, lead: torch.Size, rows: int, columns: int) -> None:
        self.lead = lead
        flat = observed.expand(*lead, -1).reshape(-1, observed.shape[-1])
        lane = torch.arange(len(flat), device=flat.device)[:, None]
        row, column = (lane * rows + flat // columns).view(-1), (lane * columns + flat % columns).view(-1)
        self.size = (len(flat) * rows, len(flat) * columns)
        self.by_row = (_pointers(row, self.size[0]), column)
        self.order = torch.argsort(column, stable=True)
        self.by_column = (_pointers(column, self.size[1]), row[self.order])

    def sample(self, left: Tensor, right: Tensor) -> Tensor:
        """(nnz,) entries of left (M, r) @ right (N, r).T in the pattern."""
        blank = torch.sparse_csr_tensor(*self.by_row, left.new_zeros(len(self.order)), self.size, check_invariants=False)
        return torch.sparse.sampled_addmm(blank, left, right.T, beta=0.0).values()

    def multiply(self, values: Tensor, right: Tensor) -> Tensor:
        """(M, r): the sparse matrix with these values @ right (N, r)."""
        return torch.sparse_csr_tensor(*self.by_row, values, self.size, check_invariants=False) @ right

    def multiply_transposed(self, values: Tensor, left: Tensor) -> Tensor:
        """(N, r): its transpose @ left (M, r)."""
        size = (self.size[1], self.size[0])
        return torch.sparse_csr_tensor(*self.by_column, values[self.order], size, check_invariants=False) @ left


def _pointers(index: Tensor, size: int) -> Tensor:
    """(size + 1,) compressed pointers of sorted or unsorted indices."""
    return torch.cat([index.new_zeros(1), torch.bincount(index, minlength=size).cumsum(0)])
