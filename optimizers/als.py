"""Alternating least squares: each factor in turn is set to the best one beside the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import InputError, decomposable
from linalg.checks import check_integer
from optimizers._manifold import orthonormal
from optimizers._optimizer import per_lane
from optimizers._pair import PairRule
from parameterizations import Step

Map = Callable[[Tensor], Tensor]

STRIDE = 2.0**30  # how far a derivative is taken: it is exact at any length, and there the constant part is lost in rounding


@dataclass(frozen=True)
class ALS(PairRule):
    """L ← L + lr (argmin_L loss(L R) - L) at even steps, R likewise at odd ones; lr = 1 is the exact minimum.

    Args:
        iterations: of conjugate gradients in a step, at most, where the rows of L (the columns of R) are not solved one by one;
            they stop at the rounding of the gradient.

    The learning rate is a relaxation: in exact arithmetic the loss falls for all of 0 < lr < 2. The objective must be quadratic in
    the weight and is seen whole: mini-batches are refused. What is solved starts from the gradient handed over, so that a base of
    the method's own is no obstacle. After a step the factor that moved is made orthonormal and the other takes up the rest, which
    leaves the weight where it is and the next system well conditioned. Multipliers of the rate by name do not apply.
    """

    reference: ClassVar[str] = "Jain, Netrapalli and Sanghavi 2013, arXiv 1212.0467; Hestenes and Stiefel 1952"
    memory: ClassVar[str] = "0"
    needs: ClassVar[tuple[str, ...]] = ("quadratic",)
    span: ClassVar[tuple[float, float]] = (0.5, 2.0)

    iterations: int = 100

    def __post_init__(self) -> None:
        check_integer("iterations", self.iterations)

    def supports(self, parameterization):
        if parameterization.penalizes or parameterization.directs:
            return "it solves for the loss itself, and here training follows something else"
        return super().supports(parameterization)

    @torch.no_grad()
    def update(self, params, grads, state, lr, step):
        instance = step.instance if isinstance(step, Step) else None
        if instance is None:
            raise InputError("als: solves the objective; pass update() a Step with an instance")
        if getattr(instance, "batch_size", 0):
            raise InputError(f"problem.batch_size={instance.batch_size}: must be 0 for als, which solves on all the data")
        left, right, scale = params["left"], params["right"], state.scale
        turn = step.step % 2
        parts, moving = [scale * left, right], [scale * left, right][turn]
        wanted = (turn == 0, turn == 1)

        def gradient(factor: Tensor) -> Tensor:
            parts[turn] = factor
            return instance.part_gradients(tuple(parts), None, wanted, None)[turn]

        at_zero = gradient(torch.zeros_like(moving))
        dims = (-3, -2, -1) if instance.layers is not None else (-2, -1)

        def curve(direction: Tensor) -> Tensor:
            length = direction.square().sum(dims, keepdim=True).sqrt()
            far = direction * (STRIDE / length).where(length > 0, 0.0)
            return (gradient(far) - at_zero) * (length / STRIDE)

        if turn:
            correction = solve(lambda x: curve(x.mT).mT, -grads["right"].mT, dims, self.iterations).mT
        else:
            correction = solve(curve, -grads["left"] / scale, dims, self.iterations)
        moved = moving + per_lane(lr, moving) * correction
        if turn:
            basis = orthonormal(moved.mT)
            left.copy_(left @ (moved @ basis))
            right.copy_(basis.mT)
        else:
            basis = orthonormal(moved)
            right.copy_((basis.mT @ moved) @ right / scale)
            left.copy_(basis)


def solve(apply: Map, b: Tensor, dims: tuple[int, ...], iterations: int) -> Tensor:
    """x (..., p, r) with A x = b for a positive semidefinite A, one system for what is left after `dims`; of several the shortest.

    Where every row of x has a system of its own, as the rows of L do in least squares, r products with A give all of them; a
    residual tells whether that is so. The rest is left to conjugate gradients: one look at the numbers an iteration.
    """
    ones = [torch.zeros_like(b).index_fill_(-1, torch.tensor([k], device=b.device), 1.0) for k in range(b.shape[-1])]
    rows = torch.stack([apply(one) for one in ones], -1)
    rows = (rows + rows.mT) / 2
    usable = decomposable(rows)[..., None, None]
    inverse = torch.linalg.pinv(rows.where(usable, 0.0), hermitian=True)
    x = (inverse @ b[..., None])[..., 0]
    energy = b.square().sum(dims, keepdim=True)
    left_over = b - apply(x)
    solved = left_over.square().sum(dims, keepdim=True) <= torch.finfo(b.dtype).eps * energy
    x = x.where(solved, 0.0)
    residual = direction = b.where(~solved, 0.0)
    least, energy = torch.finfo(b.dtype).eps ** 2 * energy, energy.where(~solved, 0.0)
    for _ in range(iterations):
        active = energy > least
        if not active.any():
            break
        image = apply(direction)
        curvature = (direction * image).sum(dims, keepdim=True)
        length = (energy / curvature).where(active & (curvature > 0), 0.0)
        x = x + length * direction
        residual = residual - length * image
        new = residual.square().sum(dims, keepdim=True)
        direction = residual + (new / energy).where(active, 0.0) * direction
        energy = new.where(active, energy)
    return x
