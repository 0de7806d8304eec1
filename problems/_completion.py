"""Squared losses over some entries of a matrix, with others held out."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from linalg import FactoredMatrix, Program
from problems._instance import Instance, run_once
from problems._pattern import Pattern

DENSE_ABOVE = 0.05  # fraction of the entries from which the whole matrix beats gathered ones


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
    selection_root: ClassVar[bool] = True
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
        self._pattern: Pattern | None = None

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
        if not self._gathers(weight.parts, weight.base, index.shape[-1]):
            return _take(weight.dense().flatten(-2), index)
        left, right = weight.parts
        row, column = (index // self.columns)[..., None, :], (index % self.columns)[..., None, :]
        return (_take(left.mT, row) * _take(right, column)).sum(-2)

    def part_gradients(self, parts, base, wanted, batch):
        if self._gathers(parts, base):
            return self._gathered_gradients(parts[0], parts[1], wanted)
        lead = torch.broadcast_shapes(self.observed.shape[:-1], () if base is None else base.shape[:-2])
        return run_once(partial(self._record_dense, base=base), parts, wanted, lead)

    def record(self, program, parts, base, cotangents, batch):
        if self._gathers(parts, base):
            super().record(program, parts, base, cotangents, batch)
        else:
            self._record_dense(program, parts, cotangents, base)

    def _record_dense(
        self, program: Program, parts: tuple[Tensor, ...], cotangents: tuple[Tensor | None, ...], base: Tensor | None
    ) -> None:
        if len(parts) == 1:
            if cotangents[0] is not None:
                self._record_residual(program, parts[0], base, cotangents[0])
            return
        left, right = parts
        residual = program.matmul(left, right)
        self._record_residual(program, residual, base, residual)
        if cotangents[0] is not None:
            program.matmul(residual, right.mT, cotangents[0])
        if cotangents[1] is not None:
            program.matmul(left.mT, residual, cotangents[1])

    def _gathers(self, parts: tuple[Tensor, ...], base: Tensor | None, count: int | None = None) -> bool:
        """Whether the weight is a bare product and `count` entries (None: those observed) are few enough to work on them alone."""
        count = self.observed.shape[-1] if count is None else count
        return len(parts) == 2 and base is None and count <= DENSE_ABOVE * self.rows * self.columns

    def _record_residual(self, program: Program, update: Tensor, base: Tensor | None, out: Tensor) -> None:
        """The loss's derivative by the weight (..., m, n): c (W - M) on the observed entries, zero off them."""
        weight = self.weight[..., None, None]
        if self._dense:
            mask, target = self._mask * weight, self._target * weight
            offset = -target if base is None else base * mask - target
            program.do(torch.addcmul, offset, update, mask, out=out)
            return
        (entries, index), (places, where) = (self._as_it_lies(x) for x in (update, out))
        values = self.values if base is None else self.values - _take(base.flatten(-2), self.observed)

        def scatter() -> None:
            gathered = (entries.gather(-1, index) - values) * self.weight[..., None]
            places.zero_().scatter_(-1, where, gathered)

        program.do(scatter)

    def _as_it_lies(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A view (..., m n) of x (..., m, n) that lies by rows or by columns, and where in it the observed entries are."""
        observed, by_columns = self.observed.expand(*x.shape[:-2], -1), x.stride(-1) != 1
        if by_columns:
            x, observed = x.mT, observed % self.columns * self.rows + observed // self.columns
        return x.view(*x.shape[:-2], -1), observed

    def _gathered_gradients(self, left: Tensor, right: Tensor, wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        lead = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2], self.observed.shape[:-1])
        if self._pattern is None or self._pattern.lead != lead:
            self._pattern = Pattern(self.observed, lead, self.rows, self.columns)
        left, right = left.expand(*lead, *left.shape[-2:]), right.expand(*lead, *right.shape[-2:])
        tall, wide = left.reshape(-1, left.shape[-1]), right.mT.reshape(-1, right.shape[-2])
        residual = self._pattern.sample(tall, wide).view(*lead, -1)
        residual = residual.sub_(self.values).mul_(self.weight[..., None]).view(-1)
        grad_left = self._pattern.multiply(residual, wide).view(left.shape) if wanted[0] else None
        grad_right = self._pattern.multiply_transposed(residual, tall).view(right.mT.shape).mT if wanted[1] else None
        return grad_left, grad_right

    def measure(self, weight):
        sought = (self.observed, self.validation, self.test)
        if self.hidden is not None or not all(self._gathers(weight.parts, weight.base, index.shape[-1]) for index in sought):
            weight = FactoredMatrix((weight.dense(),))  # multiplied out once for all
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
        return 0 if self._dense else 4 * self.observed.shape[-1]

    def best(self, rank: int) -> float | None:
        return self.floor if rank >= self.hidden_rank else None


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values (..., p) at index (..., N) along the last dimension, leading dimensions broadcast."""
    lead = torch.broadcast_shapes(values.shape[:-1], index.shape[:-1])
    return torch.take_along_dim(values.expand(*lead, -1), index.expand(*lead, -1), dim=-1)
