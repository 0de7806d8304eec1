"""Losses that grow no faster than the residual: a fully observed matrix with gross errors."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from linalg import FactoredMatrix, Program
from problems._instance import Instance, run_once


@dataclass(eq=False)
class RobustApproximation(Instance):
    """Σ h(W_ij - Y_ij), h(x) = ½ x² for small x and delta |x| for large ones.

    `smooth`: h(x) = delta (√(x² + delta²) - delta), the smoothed absolute value; else Huber's, ½ x² up to delta and
    delta (|x| - delta / 2) beyond.

    Args:
        hidden: (..., m, n), the matrix without the errors: what relative errors are taken against.
        observed: Y (..., m, n).
        delta: where the loss turns.
        smooth: which loss.
        floor_rank: the rank from which the loss can be zero.
    """

    hidden: Tensor
    observed: Tensor
    delta: float
    smooth: bool
    floor_rank: int

    @property
    def shape(self):
        return self.hidden.shape[-2], self.hidden.shape[-1]

    @property
    def truth(self):
        return self.hidden

    def loss(self, weight: FactoredMatrix, batch: None = None) -> Tensor:
        residual, delta = weight.dense() - self.observed, self.delta
        if self.smooth:  # √(x² + δ²) - δ without its cancellation
            fit = residual.square() * delta / ((residual.square() + delta**2).sqrt() + delta)
        else:
            within = residual.abs().clamp(max=delta)
            fit = within * (residual.abs() - 0.5 * within)
        return fit.sum((-2, -1))

    def part_gradients(self, parts, base, wanted, batch):
        lead = torch.broadcast_shapes(self.observed.shape[:-2], () if base is None else base.shape[:-2])
        return run_once(partial(self._record, base=base), parts, wanted, lead)

    def record(self, program, parts, base, cotangents, batch):
        self._record(program, parts, cotangents, base)

    def _record(
        self, program: Program, parts: tuple[Tensor, ...], cotangents: tuple[Tensor | None, ...], base: Tensor | None
    ) -> None:
        if len(parts) == 1:
            if cotangents[0] is not None:
                self._record_slope(program, parts[0], base, cotangents[0])
            return
        left, right = parts
        lead = torch.broadcast_shapes(*(part.shape[:-2] for part in parts), self.observed.shape[:-2])
        slope = program.empty(left, (*lead, *self.shape))
        program.matmul(left, right, slope)
        self._record_slope(program, slope, base, slope)
        if cotangents[0] is not None:
            program.matmul(slope, right.mT, cotangents[0])
        if cotangents[1] is not None:
            program.matmul(left.mT, slope, cotangents[1])

    def _record_slope(self, program: Program, update: Tensor, base: Tensor | None, out: Tensor) -> None:
        """h'(W - Y)."""
        program.do(torch.sub, update, self.observed, out=out)
        if base is not None:
            program.do(out.add_, base)
        if not self.smooth:
            program.do(out.clamp_, -self.delta, self.delta)
            return
        root = program.empty(out, out.shape)
        program.do(torch.div, out, self.delta, out=root)
        program.do(torch.addcmul, torch.ones_like(root[..., :1, :1]), root, root, out=root)
        program.do(root.rsqrt_)
        program.do(out.mul_, root)

    def measure(self, weight):
        error = (weight.dense() - self.hidden).square().sum((-2, -1)).sqrt()
        return {"loss": self.loss(weight), "relative_error": error / self.hidden.square().sum((-2, -1)).sqrt()}

    def workspace(self, parts):
        return 0

    def best(self, rank: int) -> float | None:
        return 0.0 if rank >= self.floor_rank else None
