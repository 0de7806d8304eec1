"""OP: the generator of OP-LoRA over any other parameterization."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from linalg.checks import check_choice, check_integer, check_number
from parameterizations._described import built, described
from parameterizations._heads import BIAS, START, WEIGHT, check_predictable, draw_generator, predict, record_predict
from parameterizations._parameterization import Parameterization
from parameterizations._recorded import Recorded
from parameterizations._step import Params


@dataclass(frozen=True)
class OP(Parameterization):
    """θ = W2 ReLU(W1 z + c1) + c2 for all that another method trains, from that method's own start.

    Args:
        over: the other method: its name here, the dotted name of a class, or an object, which becomes name, rank and options.
        rank, options: its rank, where it has one, and its other hyperparameters.
        hidden: width k of the hidden layer.
        embedding, embedding_scale: length of the learned input z, and its standard deviation at the start.
        head: `zero`: W2 = 0 and c2 is the other method's start, which is met to the last bit; `random`: W2 as in the paper,
            uniform, but zero for tensors that start at zero, and c2 makes up the difference: the start is met to rounding.
        shared: in a stack, one MLP for all layers, with a z of each layer's own; else an MLP a layer, the paper's choice.

    With W2 = 0 the first gradient moves W2 and c2 alone, later ones also what lies below. A rate that the other method gives a
    tensor goes to its head. A shared MLP predicts the change from a start that is kept fixed: all layers' changes lie in one
    space of k + 1 dimensions, which is why the paper shares nothing. Where layers share what they train, one MLP predicts all.
    Methods that change tensors outside the optimizer, or need orthonormal ones, are refused. `over_size`: the other's `size`.
    """

    reference: ClassVar[str] = "Teterwak et al. 2024, arXiv 2412.10362"
    size: ClassVar[str] = "(L if shared else 1) * embedding + hidden * (embedding + 1) + (hidden + 1) * over_size"

    rank: int = 8
    over: str | Parameterization = "deep_lora"
    options: Mapping[str, Any] = field(default_factory=dict)
    hidden: int = 32
    embedding: int = 128
    embedding_scale: float = 1.0
    head: str = "zero"
    shared: bool = False

    def __post_init__(self) -> None:
        name, options = described(self.over, self.options)
        if not isinstance(self.over, str):
            options.pop("rank", None)
            object.__setattr__(self, "rank", getattr(self.over, "rank", self.rank))
        object.__setattr__(self, "over", name)
        object.__setattr__(self, "options", options)
        for name in ("rank", "hidden", "embedding"):
            check_integer(name, getattr(self, name))
        check_number("embedding_scale", self.embedding_scale, above=0)
        check_choice("head", self.head, ("zero", "random"))
        check_choice("shared", self.shared, (True, False))
        check_predictable(self.inner, str(self.over), self.shared)

    def __hash__(self) -> int:
        return hash(tuple(repr(getattr(self, entry.name)) for entry in fields(self)))

    @cached_property
    def inner(self) -> Parameterization:
        """The other method."""
        return built("over", str(self.over), self.options, rank=self.rank)

    def initial(self, shape, generator, base, gradient):
        return self._over(self.inner.initial(shape, generator, base, gradient), generator)

    def initial_layers(self, shape, layers, generator, base, gradient):
        drawn = self.inner.initial_layers(shape, layers, generator, base, gradient)
        if self.shared or "layers" in self.inner.needs:
            return self._over(drawn, generator, layers if self.shared else None)
        kept, start = self._split(drawn)
        each = [self._over({name: start[name][layer] for name in start}, generator) for layer in range(layers)]
        return kept | {name: torch.stack([params[name] for params in each]) for name in each[0]}

    def _over(self, drawn: Params, generator: torch.Generator | None, layers: int | None = None) -> Params:
        """The other method's tensors, with a generator in the place of those that train."""
        kept, start = self._split(drawn)
        return kept | draw_generator(self, start, generator, layers)

    def _split(self, params: Mapping[str, Tensor]) -> tuple[Params, Params]:
        """What the other method keeps fixed, and the rest."""
        kept = {name: params[name] for name in self.inner.frozen if name in params}
        return kept, {name: params[name] for name in params if name not in kept}

    def predicted(self, params: Mapping[str, Tensor]) -> Params:
        """The other method's tensors."""
        kept, own = self._split(params)
        return kept | predict(own)

    def factors(self, params):
        return self.inner.factors(self.predicted(params))

    def weight(self, params, at=None):
        return self.inner.weight(self.predicted(params), at)

    def record(self, program, params, grads, at):
        """As the other method does it, on tensors that the generator fills."""
        found = None if self.shared else record_predict(program, params, grads)
        if found is None:
            return super().record(program, params, grads, at)
        tensors, way_back, outer = found
        places = {name: grads[name + BIAS] for name in tensors}
        inner = self.inner.record(program, self._split(params)[0] | tensors, places, at)

        def pull_back() -> None:
            inner.pull_back()
            for name, (column, row) in inner.outer.items():
                program.do(torch.mul, column, row, out=places[name])
            way_back()

        return Recorded(inner.weight, inner.cotangents, pull_back, outer)

    @property
    def scaling(self) -> float:
        return self.inner.scaling

    @property
    def frozen(self):
        return (*self.inner.frozen, START) if self.shared else self.inner.frozen

    @property
    def rates(self):
        return {name + part: rate for name, rate in self.inner.rates.items() for part in (WEIGHT, BIAS)}

    @property
    def needs(self):
        return (*self.inner.needs, "layers") if self.shared else self.inner.needs

    @property
    def pair(self):  # type: ignore[override]  # a constant of the class elsewhere; here it depends on the other method
        return "predicted" if self.inner.pair else ""

    def reach(self, shape):
        return self.inner.reach(shape)

    def penalty(self, params):
        return self.inner.penalty(self.predicted(params))

    @property
    def penalizes(self):
        return self.inner.penalizes

    def export(self, params):
        return self.inner.export(self.predicted(params))
