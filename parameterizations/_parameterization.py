"""The contract of a parameterization: a map from trainable tensors to a weight."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from linalg import FactoredMatrix, InputError, Program
from linalg.checks import check_integer, check_number, check_rank, check_shape
from parameterizations._recorded import Recorded, record_autograd
from parameterizations._step import Params, Step

Gradient = Callable[[Tensor], Tensor]
Moments = MutableMapping[str, MutableMapping[str, Tensor]]


@dataclass(frozen=True)
class Parameterization:
    """Base class. A subclass is a frozen dataclass of hyperparameters in a file of its own.

    It gives `initial` (one lane's tensors) and `factors` (the chain for any leading dimensions); the rest has defaults.
    Tensors named in `frozen` get no gradient. A pretrained weight travels in the parameters as the frozen `base`.

    `pair` says how the chain is one of two factors, for rules that treat them together: `stored`, where the tensors `left`
    (m, r) and `right` (r, n) are the factors and both train; `predicted`, where other tensors give them. `needs` names what
    a problem must provide (see `Problem.provides`). `size` is how many numbers train for one weight (m, n): an expression in m,
    n, r for the rank, and the fields by name; where the layers of a stack share tensors in L, too, and then for the whole stack.

    A stack of L weights of one shape, `layers`, is a leading dimension like others, the last before the matrices:
    (seeds, rates, L, m, n). A method whose layers share tensors overrides `initial_layers`; such a tensor has no L.
    """

    reference: ClassVar[str] = ""
    size: ClassVar[str] = ""
    pair: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if hasattr(self, "rank"):
            check_integer("rank", self.rank)
        if getattr(self, "alpha", None) is not None:
            check_number("alpha", self.alpha, above=0)  # type: ignore[attr-defined]  # guarded by the line above

    def initial(
        self, shape: tuple[int, int], generator: torch.Generator | None, base: Tensor | None, gradient: Gradient | None
    ) -> Params:
        """One lane's tensors in float64 on the CPU, without `base`."""
        raise NotImplementedError(f"{type(self).__name__} must define initial()")

    def factors(self, params: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The chain whose product, times `scaling`, is the update."""
        raise NotImplementedError(f"{type(self).__name__} must define factors()")

    def init(
        self,
        shape: tuple[int, int],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        base: Tensor | None = None,
        gradient: Gradient | None = None,
        layers: int | None = None,
    ) -> Params:
        """Draw one lane's tensors for an (m, n) weight, or for a stack of L of them.

        Args:
            shape: (m, n).
            generator: where the random numbers come from; torch's global one if None.
            base: (m, n), or (L, m, n), the pretrained weight, for fine-tuning.
            gradient: W (m, n) -> dL/dW (m, n), or both (L, m, n), for methods that start from the first gradient.
            layers: L; None for one weight alone.

        Raises:
            InputError: where the hyperparameters do not fit the shape, or `gradient` is needed and absent.
        """
        shape = (shape[0], shape[1]) if len(shape) == 2 else shape
        check_shape("shape", shape)
        if "rank" in self.__dataclass_fields__:
            check_rank("rank", self.rank, shape)  # type: ignore[attr-defined]  # guarded by the line above
        if "base" in self.needs and base is None:
            raise InputError(f"base=None: {type(self).__name__} starts from a pretrained weight")
        if layers is None:
            params = self.initial(shape, generator, base, gradient)
        else:
            params = self.initial_layers(shape, layers, generator, base, gradient)
        params = {name: tensor.to(device=device, dtype=dtype) for name, tensor in params.items()}
        if base is not None and "base" not in params:
            params["base"] = base.to(device=device, dtype=dtype)
        return params

    def initial_layers(
        self,
        shape: tuple[int, int],
        layers: int,
        generator: torch.Generator | None,
        base: Tensor | None,
        gradient: Gradient | None,
    ) -> Params:
        """The same for a stack: each layer's own tensors (L, ...), drawn one layer after the other.

        A layer's first gradient is taken with the others at their base.
        """
        zero = torch.zeros(layers, *shape, dtype=torch.float64) if base is None else base

        def of_layer(layer: int, weight: Tensor) -> Tensor:
            assert gradient is not None
            return gradient(zero.to(weight).index_copy(0, torch.tensor([layer], device=weight.device), weight[None]))[layer]

        drawn = [
            self.initial(shape, generator, None if base is None else base[i], None if gradient is None else partial(of_layer, i))
            for i in range(layers)
        ]
        return {name: torch.stack([params[name] for params in drawn]) for name in drawn[0]}

    def weight(self, params: Mapping[str, Tensor], at: Step | None = None) -> FactoredMatrix:
        """The weight that the parameters stand for; any leading dimensions.

        Args:
            at: the step, where the weight is trained; None for the weight as it would be used.
        """
        return FactoredMatrix(self.factors(params), params.get("base"), self.scaling)

    @property
    def scaling(self) -> float:
        """The number in front of the chain: alpha / r where a method has both and alpha is given, else 1."""
        alpha, rank = getattr(self, "alpha", None), getattr(self, "rank", None)
        return 1.0 if alpha is None or rank is None else float(alpha / rank)

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("base",)

    @property
    def rates(self) -> Mapping[str, float]:
        """Multipliers of the learning rate by tensor name, where not 1."""
        return {}

    @property
    def needs(self) -> tuple[str, ...]:
        """What a problem must provide, see `Problem.provides`: a pretrained `base`, a stack of `layers`, `tasks` in time."""
        return ()

    @property
    def merges(self) -> bool:
        """Whether the base takes up what the factors learn, so that tensors change outside the optimizer."""
        return False

    @property
    def splits(self) -> bool:
        """Whether the factors start from a part that is taken off the base, so that what is learned is not the chain."""
        return False

    def reach(self, shape: tuple[int, int]) -> int:
        """The highest rank that the update can have: what the best reachable loss is computed for."""
        return int(min(*shape, getattr(self, "rank", min(shape))))

    def caution(self, shape: tuple[int, int]) -> str | None:
        """What to know before a weight (m, n) is trained with these hyperparameters, or None."""
        return None

    def penalty(self, params: Mapping[str, Tensor]) -> Tensor | None:
        """(...,), or with more dimensions, which are summed: what training adds to the loss; its gradient is taken by autograd.
        Measures do not have it."""
        return None

    @property
    def penalizes(self) -> bool:
        """Whether training adds anything to the loss."""
        return type(self).penalty is not Parameterization.penalty

    def direct(self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], at: Step) -> None:
        """Turn the gradients, in place, into what the rule is to follow: projected onto a tangent space, masked."""

    @property
    def directs(self) -> bool:
        """Whether the rule follows anything but the gradients."""
        return type(self).direct is not Parameterization.direct

    def record_tangent(self, program: Program, params: Params, grads: Params) -> Recorded:
        """See `SVD.record_tangent`."""
        raise InputError(f"{type(self).__name__} has no orthonormal factors to move along")

    def after_step(self, params: Params, grads: Mapping[str, Tensor], state: Any, at: Step) -> None:
        """Runs after every update of the optimizer: resample, merge, truncate. May rotate the optimizer's moments.

        Trainable tensors are best changed in place. What a method keeps to itself belongs into `at.memory`; frozen tensors
        that the weight is made of may be put in the place of others.
        """

    def after_steps(self, runs: Sequence[tuple[Params, Mapping[str, Tensor], Any, Step]]) -> None:
        """`after_step` of several weights of one model, each with its own arguments; methods with a budget share it here."""
        for run in runs:
            self.after_step(*run)

    def record(self, program: Program, params: Params, grads: Params, at: Step) -> Recorded:
        """Record the factors of `params`, tensors that keep their memory; what comes back carries their gradients on to `grads`.

        Where the factors are the parameters themselves nothing is left to do. Elsewhere autograd goes through `weight`, unless
        a method records its own map.
        """
        weight = self.weight(params, at)
        names = [next((name for name, tensor in params.items() if tensor is factor), None) for factor in weight.factors]
        itself = type(self).weight is Parameterization.weight and None not in names and len(set(names)) == len(names)
        if itself:
            return Recorded(weight, tuple(grads.get(str(name)) for name in names), lambda: None)
        return record_autograd(lambda tensors: self.weight(tensors, at), program, params, grads)

    def export(self, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The plain LoRA pair (A: (..., r, n), B: (..., m, r)) with B @ A equal to the update, scale baked in.

        Raises:
            InputError: where no such pair exists.
        """
        left, right = self.weight(params).pair()
        return right, left
