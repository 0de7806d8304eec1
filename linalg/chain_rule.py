"""From the gradient by a weight's parts to the gradients by its factors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from linalg.factored_matrix import FactoredMatrix, products
from linalg.program import Program


class ChainRule:
    """`parts` of a chain and what carries dL/dpart back to its factors, as operations of a program on fixed memory.

    Args:
        weight: its factors are memory that is filled before the program's operations run.
        cotangents: one a factor: where dL/dfactor goes, None where it is not wanted.

    `parts` are those of the weight, `part_cotangents` where dL/dpart is to be left: None for a part that is not wanted,
    the part's own memory where nothing needs the part any more. Every product keeps the narrow side of the chain.
    """

    def __init__(self, weight: FactoredMatrix, program: Program, cotangents: Sequence[Tensor | None]) -> None:
        self.program, self.scale = program, weight.scale
        if len(weight.factors) == 1:
            self._chains: list[tuple[Tensor, ...]] = []
            self._one = cotangents[0]
            self.parts: tuple[Tensor, ...] = (weight.factors[0] if self.scale == 1 else self._scaled(weight.factors[0]),)
            self.part_cotangents: tuple[Tensor | None, ...] = (self._one,)
            return
        left, right = weight.sides()
        mirrored = [None if cotangent is None else cotangent.mT for cotangent in reversed(cotangents[: len(left)])]
        self._chains, self._wanted = [left, right], [mirrored, list(cotangents[len(left) :])]
        self._products = [products(side, program.matmul) for side in self._chains]
        self._ends = [products[-1] for products in self._products]
        self._end_cotangents = [self._memory(*side) for side in zip(self._ends, self._wanted, strict=True)]
        if weight.thin:
            outer = self._ends[0].mT
            self.parts = (outer if self.scale == 1 else self._scaled(outer), self._ends[1])
            first, second = self._end_cotangents
            self.part_cotangents = (None if first is None else first.mT, second)
        else:
            self.parts = (program.matmul(self._ends[0].mT, self._ends[1], alpha=self.scale),)
            self.part_cotangents = self.parts

    def _scaled(self, x: Tensor) -> Tensor:
        scaled = self.program.empty(x, x.mT.shape).mT if x.shape[-2] > x.shape[-1] else self.program.empty(x, x.shape)
        self.program.do(torch.mul, x, self.scale, out=scaled)
        return scaled

    def _memory(self, end: Tensor, wanted: Sequence[Tensor | None]) -> Tensor | None:
        """Where the gradient of a side's product goes: straight to a factor's place where the side is that factor."""
        if all(cotangent is None for cotangent in wanted):
            return None
        return wanted[0] if len(wanted) == 1 else self.program.empty(end, end.shape)

    def pull_back(self) -> None:
        """Record how `part_cotangents` become the factors' gradients."""
        program, scale = self.program, self.scale
        if not self._chains:
            if scale != 1 and self._one is not None:
                program.do(self._one.mul_, scale)
            return
        first, second = self._end_cotangents
        if len(self.parts) == 1:
            gradient = self.parts[0]  # whose memory now holds it
            if first is not None:
                program.matmul(self._ends[1], gradient.mT, first, alpha=scale)
            if second is not None:
                program.matmul(self._ends[0], gradient, second, alpha=scale)
        elif scale != 1 and first is not None:
            program.do(first.mul_, scale)
        for chain, partial, wanted, cotangent in zip(self._chains, self._products, self._wanted, self._end_cotangents, strict=True):
            if cotangent is not None:
                self._along(chain, partial, wanted, cotangent)

    def _along(
        self, chain: Sequence[Tensor], partial: Sequence[Tensor], wanted: Sequence[Tensor | None], cotangent: Tensor
    ) -> None:
        """Outside in: `cotangent` is that of chain[0] @ ... @ chain[i], `partial` hold these."""
        for i in range(len(chain) - 1, 0, -1):
            place = wanted[i]
            if place is not None:
                self.program.matmul(partial[i - 1].mT, cotangent, place)
            if any(earlier is not None for earlier in wanted[:i]):
                cotangent = self.program.matmul(cotangent, chain[i].mT, wanted[0] if i == 1 else None)
