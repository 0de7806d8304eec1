"""Fully observed squared losses: approximate a matrix, or fit outputs from inputs."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from linalg import FactoredMatrix, Program
from parameterizations import Step
from problems._instance import Instance, run_once
from problems._normal_equations import Parts, record_normal_equations
from problems._scaling import reduction_weight, spectrally_normalized


@dataclass(eq=False)
class LeastSquares(Instance):
    """c/2 ‖W X - Y‖²_F; with no X, c/2 ‖W - Y‖²_F.

    Args:
        target: (..., m, n), the weight that is hidden; Y itself where there are no inputs.
        weight: (...,) c, see `reduction_weight`.
        pretrained: (..., m, n), the base of a fine-tuning problem.
        inputs: X (..., n, N), columns are samples.
        outputs: Y (..., m, N).
        batch_size: samples a step; 0 for all. A batch's loss is scaled by N / batch_size, so its gradient is unbiased.
        stacked: the last leading dimension of all tensors is that of a stack's layers, whose losses add up.

    With parts (L, R) and Σ = X Xᵀ the gradient never forms the residual:
    dL/dL = L (R Σ Rᵀ) - C Rᵀ and dL/dR = (Lᵀ L) R Σ - Lᵀ C, where C = (Y - base X) Xᵀ is shared by every rate of a seed.
    """

    target: Tensor
    weight: Tensor
    pretrained: Tensor | None = None
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    batch_size: int = 0
    stacked: bool = False

    def __post_init__(self) -> None:
        self._gram = None if self.inputs is None else self.inputs @ self.inputs.mT
        self._cross_of: tuple[Tensor | None, int] = (None, 0)
        self._cross: Tensor | None = None

    @property
    def shape(self):
        return self.target.shape[-2], self.target.shape[-1]

    @property
    def layers(self):
        return self.target.shape[-3] if self.stacked else None

    @property
    def base(self):
        return self.pretrained

    @property
    def truth(self):
        return self.target if self.pretrained is None else self.target - self.pretrained

    def cross(self, base: Tensor | None) -> Tensor:
        """(..., m, n) (Y - base X) Xᵀ; kept until another base comes, or this one is changed in place."""
        version = 0 if base is None else base._version
        if self._cross is None or self._cross_of[0] is not base or self._cross_of[1] != version:
            cross = self.target if self.inputs is None or self.outputs is None else self.outputs @ self.inputs.mT
            if base is not None:
                cross = cross - (base if self._gram is None else base @ self._gram)
            self._cross_of, self._cross = (base, version), cross
        return self._cross

    def loss(self, weight: FactoredMatrix, batch: Tensor | None = None) -> Tensor:
        residual = self.residual(weight, batch)
        return 0.5 * self.weight * self._batch_scale(batch) * self.total(residual)

    def total(self, x: Tensor) -> Tensor:
        """(...,) the sum of squares of (..., p, q), over a stack's layers, too."""
        return x.square().sum((-3, -2, -1) if self.stacked else (-2, -1))

    def residual(self, weight: FactoredMatrix, batch: Tensor | None = None) -> Tensor:
        """(..., m, N), W X - Y on the batch's samples."""
        if self.inputs is None or self.outputs is None:
            return weight.dense() - self.target
        inputs, outputs = (self.inputs, self.outputs) if batch is None else _columns(batch, self.inputs, self.outputs)
        return weight.apply(inputs.mT).mT - outputs

    def part_gradients(self, parts, base, wanted, batch):
        if batch is None:
            cross = self.cross(base)
            return run_once(partial(self._record_full, cross=cross), parts, wanted, cross.shape[:-2])
        scale = self._factor * self._batch_scale(batch)
        grads = self._batch_gradients(parts, base, wanted, batch)
        return tuple(None if grad is None else grad.mul_(scale) for grad in grads)

    def record(self, program, parts, base, cotangents, batch):
        if self.batch_size:
            super().record(program, parts, base, cotangents, batch)
        else:
            self._record_full(program, parts, cotangents, self.cross(base))

    def _record_full(self, program: Program, parts: Parts, cotangents: tuple[Tensor | None, ...], cross: Tensor) -> None:
        record_normal_equations(program, parts, cotangents, cross, self._gram)
        for cotangent in cotangents:
            if cotangent is not None and not self._unit:
                program.do(cotangent.mul_, self._factor)

    @property
    def _factor(self) -> Tensor:
        """c, to broadcast against the weight."""
        return self.weight[..., None, None, None] if self.stacked else self.weight[..., None, None]

    @property
    def _unit(self) -> bool:
        """Whether the gradient needs no scaling: the default, a sum over all samples."""
        if not hasattr(self, "_is_unit"):
            self._is_unit = bool((self.weight == 1).all())
        return self._is_unit

    def _batch_gradients(
        self, parts: Parts, base: Tensor | None, wanted: tuple[bool, ...], batch: Tensor
    ) -> tuple[Tensor | None, ...]:
        assert self.inputs is not None
        assert self.outputs is not None
        inputs, outputs = _columns(batch, self.inputs, self.outputs)
        if base is not None:
            outputs = outputs - base @ inputs
        if len(parts) == 1:
            return ((parts[0] @ inputs - outputs) @ inputs.mT,)
        hidden = parts[1] @ inputs
        residual = parts[0] @ hidden - outputs
        return (residual @ hidden.mT if wanted[0] else None), (parts[0].mT @ residual @ inputs.mT if wanted[1] else None)

    def _batch_scale(self, batch: Tensor | None) -> float:
        return 1.0 if batch is None or self.inputs is None else self.inputs.shape[-1] / batch.shape[-1]

    def batch(self, at: Step) -> Tensor | None:
        """(seeds, 1, b) indices of this step's samples, drawn without replacement."""
        if not self.batch_size or self.inputs is None:
            return None
        samples = self.inputs.shape[-1]
        drawn = [torch.randperm(samples, generator=source)[: self.batch_size] for source in at.generators]
        return torch.stack(drawn).reshape(*self.inputs.shape[:-2], self.batch_size).to(self.inputs.device)

    def workspace(self, parts):
        return self.batch_size * sum(self.shape) * (self.layers or 1)

    def measure(self, weight):
        dense = weight.dense()
        error = self.total(dense - self.target).sqrt()
        truth = self.total(self.truth).sqrt()
        residual = dense - self.target if self.inputs is None else dense @ self.inputs - self.outputs
        return {"loss": 0.5 * self.weight * self.total(residual), "relative_error": error / truth}

    def best(self, rank: int) -> float | None:
        """Eckart-Young: the tail of the spectrum of what is left to fit, in the metric of the inputs where there are any."""
        if self.inputs is None or self.outputs is None:
            assert self.truth_svd is not None
            values = self.truth_svd[1]
            floor = 0.0
        else:
            inputs = self.inputs.double()
            outputs = self.outputs.double() - (0 if self.pretrained is None else self.pretrained.double() @ inputs)
            rows = torch.linalg.qr(inputs.mT).Q  # (N, n): an orthonormal basis of the samples' row space
            fitted = outputs @ rows
            values = torch.linalg.svdvals(fitted)
            floor = float(outputs.square().sum() - fitted.square().sum())
        tail = float(values[..., rank:].square().sum())
        return 0.5 * float(self.weight) * (tail + max(floor, 0.0))


def _columns(batch: Tensor, *matrices: Tensor) -> tuple[Tensor, ...]:
    """The columns of each (..., p, N) that `batch` (..., b) names."""
    return tuple(torch.take_along_dim(matrix, batch[..., None, :], dim=-1) for matrix in matrices)


def approximation(target: Tensor, normalize: str, reduction: str) -> LeastSquares:
    """The instance that asks for a given (m, n) matrix, scaled as the two options say."""
    target = spectrally_normalized(target.double(), normalize)
    return LeastSquares(target, reduction_weight(reduction, target.numel(), target.square().sum()))
