"""The weight as a chain of factors: what a parameterization hands to everyone else."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from linalg.checks import InputError
from linalg.spectra import svdvals


class FactoredMatrix:
    """W = base + scale * F1 @ F2 @ ... @ Fk, with any leading dimensions that broadcast.

    Args:
        factors: the chain; factor i is (..., p_i, p_i+1), so W is (..., p_1, p_k+1).
        base: (..., m, n), a pretrained weight or what has been merged so far; None for zero.
        scale: a number in front of the chain (LoRA's alpha / r).

    The chain without the base is called the *update*.

    Raises:
        InputError: where neighbouring factors, or the base, do not fit.
    """

    def __init__(self, factors: tuple[Tensor, ...], base: Tensor | None = None, scale: float = 1.0) -> None:
        self.factors = tuple(factors)
        self.base = base
        self.scale = scale
        if not self.factors:
            raise InputError("factors=(): must be at least one matrix")
        for before, after in zip(self.factors, self.factors[1:], strict=False):
            if before.shape[-1] != after.shape[-2]:
                raise InputError(f"factors of shapes {tuple(before.shape)} and {tuple(after.shape)} cannot be multiplied")
        if base is not None and base.shape[-2:] != self.shape:
            raise InputError(f"a base of shape {tuple(base.shape)} does not fit an update of shape {self.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.factors[0].shape[-2], self.factors[-1].shape[-1]

    @property
    def rank(self) -> int:
        """The narrowest dimension of the chain: no update has a higher rank."""
        return min(self.shape[0], *(factor.shape[-1] for factor in self.factors))

    def pair(self) -> tuple[Tensor, Tensor]:
        """The update as (..., m, r) @ (..., r, n), cut at the chain's narrowest inner dimension, scale included.

        A chain of one factor is paired with the identity on its smaller side.
        """
        if len(self.factors) == 1:
            update, (m, n) = self.update(), self.shape
            eye = torch.eye(min(m, n), dtype=update.dtype, device=update.device)
            return (eye, update) if m < n else (update, eye)
        left, right = (products(side)[-1] for side in self.sides())
        return (left.mT if self.scale == 1 else left.mT * self.scale), right

    def sides(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The chain on both sides of its narrowest inner dimension, each read from there outwards: the left one transposed."""
        inner = [factor.shape[-1] for factor in self.factors[:-1]]
        cut = inner.index(min(inner)) + 1
        return tuple(factor.mT for factor in reversed(self.factors[:cut])), self.factors[cut:]

    @cached_property
    def parts(self) -> tuple[Tensor, ...]:
        """The cheapest tensors to take a gradient through: the update alone, or its pair where that is thin.

        A squared loss costs 4mnr + 4(m + n)r² multiplications through the pair's Gram matrices and 6mnr through the residual.
        """
        return self.pair() if self.thin else (self.update(),)

    @property
    def thin(self) -> bool:
        """Whether the pair is the cheaper thing to take a gradient through."""
        m, n = self.shape
        return len(self.factors) > 1 and 2 * (m + n) * self.rank < m * n

    def update(self) -> Tensor:
        """(..., m, n), the chain multiplied out, without the base."""
        if len(self.factors) == 1:
            return self.factors[0] if self.scale == 1 else self.factors[0] * self.scale
        left, right = self.pair()
        return left @ right

    def dense(self) -> Tensor:
        """(..., m, n), base included."""
        return self.update() if self.base is None else self.base + self.update()

    def apply(self, x: Tensor) -> Tensor:
        """x @ W.mT through the factors: (..., b, n) to (..., b, m)."""
        y = x
        for factor in reversed(self.factors):
            y = y @ factor.mT
        y = y if self.scale == 1 else y * self.scale
        return y if self.base is None else y + x @ self.base.mT

    def svdvals(self, of: str = "weight") -> Tensor:
        """Singular values in float64, largest first.

        `of="update"`: (..., rank), by QR of the pair, so that small ones are right up to rounding of the factors.
        `of="weight"`: the same where there is no base, else (..., min(m, n)) of the dense matrix.
        """
        if of not in ("weight", "update"):
            raise InputError(f"of={of!r}: must be one of weight, update")
        if of == "weight" and self.base is not None:
            return svdvals(self.dense())
        if len(self.factors) == 1:
            return svdvals(self.update())
        left, right = (part.double() for part in self.pair())
        if left.shape[-1] >= min(self.shape):
            return svdvals(left @ right)
        triangles = torch.linalg.qr(left, mode="r").R @ torch.linalg.qr(right.mT, mode="r").R.mT
        return svdvals(triangles)

    def __repr__(self) -> str:
        chain = " @ ".join("x".join(map(str, factor.shape[-2:])) for factor in self.factors)
        return f"FactoredMatrix({'' if self.base is None else 'base + '}{chain}, leading={tuple(self.factors[0].shape[:-2])})"


def products(chain: Sequence[Tensor], multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul) -> list[Tensor]:
    """chain[0], chain[0] @ chain[1], ..., the product of all."""
    found = [chain[0]]
    for factor in chain[1:]:
        found.append(multiply(found[-1], factor))
    return found
