"""The contract of an instance: one drawn objective, or several stacked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from linalg import FactoredMatrix, Program, decomposable
from parameterizations import Step


@dataclass(eq=False)
class Instance:
    """One drawn objective, or several stacked: then every tensor is (seeds, 1, ...), so that it broadcasts over rates.

    A subclass gives `shape`, `loss` and `measure` for weights with any leading dimensions, and may give `part_gradients`.
    """

    selection: ClassVar[str] = "loss"  # the measure that picks the learning rate; never a test error
    selection_root: ClassVar[bool] = False  # whether that is the root of a loss, as an RMSE is, so that its square is compared
    headline: ClassVar[str] = "relative_error"  # the measure that tables report

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the weight."""
        raise NotImplementedError

    @property
    def stops_early(self) -> bool:
        """Whether a run counts as of its best probed step, because data are held out, or as of its end."""
        return self.selection != "loss"

    @property
    def layers(self) -> int | None:
        """L, where the weight is a stack (..., L, m, n); None for one weight alone. Measures are of the whole stack."""
        return None

    @property
    def base(self) -> Tensor | None:
        """(..., m, n), the pretrained weight, where the problem is fine-tuning."""
        return None

    @property
    def truth(self) -> Tensor | None:
        """(..., m, n), the update that the problem hides, where there is one: angles and spectra are taken against it."""
        return None

    def loss(self, weight: FactoredMatrix, batch: Any = None) -> Tensor:
        """(...,) the training loss, differentiable by autograd."""
        raise NotImplementedError

    def gradient(self, weight: FactoredMatrix, batch: Any = None) -> tuple[Tensor | None, ...]:
        """dL/dpart for every part in `weight.parts`, by the cheapest algebra; None for a part that asks for no gradient.

        Where no part asks (all were built without autograd), all are given. The gradients themselves carry no graph.
        """
        parts = weight.parts  # built here, where autograd may be recording
        asks = tuple(part.requires_grad for part in parts)
        with torch.no_grad():
            detached = tuple(part.detach() for part in parts)
            return self.part_gradients(detached, weight.base, asks if any(asks) else (True,) * len(parts), batch)

    def part_gradients(
        self, parts: tuple[Tensor, ...], base: Tensor | None, wanted: tuple[bool, ...], batch: Any
    ) -> tuple[Tensor | None, ...]:
        """The gradient for the update (..., m, n), or for its pair (..., m, r) and (..., r, n); None where not wanted.

        By autograd through `loss`; an instance that knows its algebra does better.
        """
        with torch.enable_grad():
            leaves = tuple(part.detach().requires_grad_(want) for part, want in zip(parts, wanted, strict=True))
            loss = self.loss(FactoredMatrix(leaves, base), batch).sum()
            found = iter(torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad]))
        return tuple(next(found) if want else None for want in wanted)

    def record(
        self,
        program: Program,
        parts: tuple[Tensor, ...],
        base: Tensor | None,
        cotangents: tuple[Tensor | None, ...],
        batch: Callable[[], Any],
    ) -> None:
        """Record what `part_gradients` computes, for parts whose memory stays: each into its place in `cotangents`.

        Args:
            cotangents: one a part, None where it is not wanted: such a part and the base keep their content, too. A place
                may be the part's own memory.
            batch: gives the batch of the step at hand, once the program runs.
        """
        wanted = tuple(cotangent is not None for cotangent in cotangents)

        def evaluate() -> None:
            for place, gradient in zip(cotangents, self.part_gradients(parts, base, wanted, batch()), strict=True):
                if place is not None and gradient is not None:
                    place.copy_(gradient)

        program.decide(evaluate)

    def measure(self, weight: FactoredMatrix) -> dict[str, Tensor]:
        """(...,) each, exact: `loss` over all training data, `relative_error`, and errors on held-out parts."""
        raise NotImplementedError

    def batch(self, at: Step) -> Any:
        """What `loss` and `gradient` see at this step; None for everything."""
        return None

    def workspace(self, parts: int) -> int:
        """Entries that a gradient of that many parts needs for one lane beside what `record` lays out."""
        return 2 * self.shape[0] * self.shape[1]

    def best(self, rank: int) -> float | None:
        """The lowest loss that an update of that rank can reach, where theory gives it; of an instance that is not stacked."""
        return None

    @cached_property
    def spectrum(self) -> Tensor | None:
        """(..., min(m, n)) singular values of `truth`, float64; of a stack all layers' together, sorted."""
        svd = self.truth_svd
        if svd is None or self.layers is None:
            return None if svd is None else svd[1]
        return svd[1].flatten(-2).sort(descending=True).values

    @cached_property
    def truth_svd(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """U (..., m, k), S (..., k), Vt (..., k, n) of `truth` in float64 with k = min(m, n); NaN where it is not finite."""
        if self.truth is None:
            return None
        matrix = self.truth.double()
        finite = decomposable(matrix)[..., None, None]
        u, s, vt = torch.linalg.svd(torch.where(finite, matrix, torch.zeros_like(matrix)), full_matrices=False)
        return u.where(finite, torch.nan), s.where(finite[..., 0], torch.nan), vt.where(finite, torch.nan)

    @classmethod
    def stack(cls, instances: Sequence[Self]) -> Self:
        """Several seeds as one: every tensor becomes (seeds, 1, ...); all else must be equal."""
        first = instances[0]
        stacked = {}
        for field in fields(first):
            values = [getattr(instance, field.name) for instance in instances]
            stacked[field.name] = torch.stack(values)[:, None] if isinstance(values[0], Tensor) else values[0]
        return cls(**stacked)


def by_part(gradient: Tensor, parts: tuple[Tensor, ...], wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """From dL/dW (..., m, n) to the gradient for the update itself, or for its pair; None where not wanted."""
    if len(parts) == 1:
        return (gradient,)
    left, right = parts
    return (gradient @ right.mT if wanted[0] else None), (left.mT @ gradient if wanted[1] else None)


def run_once(
    record: Callable[..., None], parts: tuple[Tensor, ...], wanted: tuple[bool, ...], lead: torch.Size
) -> tuple[Tensor | None, ...]:
    """What `record(program, parts, places)` leaves in new places, one a wanted part, run there and then.

    Args:
        lead: leading dimensions of all that the gradient depends on beside the parts.
    """
    lead = torch.broadcast_shapes(lead, *(part.shape[:-2] for part in parts))
    places = tuple(part.new_empty(*lead, *part.shape[-2:]) if want else None for part, want in zip(parts, wanted, strict=True))
    program = Program()
    record(program, parts, places)
    program()
    return places
