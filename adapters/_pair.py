"""The tensors of a parameterization in a model: what stands behind the A and B of one layer."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapters._functions import Core, Preconditioned, Tangent
from adapters._sites import Site
from linalg import InputError
from optimizers import SLOT, TangentRule
from parameterizations import Parameterization, Params, Step

Precondition = Callable[..., tuple[Tensor, Tensor]]


class Tensors(nn.Module):
    """The tensors of a parameterization as a module: those that train are parameters, the others buffers.

    A pretrained base is not among them: it stays where the model has it.

    Args:
        tensors: of `Parameterization.init`, without a base.
        at: where the run stands, with generators of its own.
    """

    def __init__(self, method: Parameterization, tensors: Mapping[str, Tensor], at: Step) -> None:
        super().__init__()
        self.method, self.at = method, at
        self.names = list(tensors)
        self.started: Params = {}  # tensors with a rate of their own, as they were before the optimizer's step
        self.precondition: Precondition | None = None
        self.tangent: TangentRule | None = None
        for name, tensor in tensors.items():
            if name in method.frozen:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor.contiguous()))
        self.mark()

    def mark(self) -> None:
        """Let the parameters know whose they are; again where others have been put in their place."""
        for name, tensor in self.named_parameters(recurse=False):
            setattr(tensor, SLOT, (self, name))

    def loaded(self, layer: nn.Module, keys: Any) -> None:
        """A state may have been put in the parameters' place (`assign=True`)."""
        self.mark()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # of a copy of the model, whose parameters have lost their marks
        self.mark()

    def live(self) -> Params:
        """All tensors by name."""
        return {name: getattr(self, name) for name in self.names}

    def tensors(self) -> Params:
        """The same, detached."""
        return {name: whole(tensor.detach()) for name, tensor in self.live().items()}

    @property
    def scale(self) -> float:
        """The number in front of left @ right in the layer's weight."""
        raise NotImplementedError


class Shared(Tensors):
    """The tensors of a method whose layers share some of them, for layers of one shape.

    Args:
        own: the names of those that have a part for each layer, in the first dimension.
    """

    def __init__(
        self, method: Parameterization, tensors: Mapping[str, Tensor], own: Collection[str], sites: Sequence[Site], at: Step
    ) -> None:
        super().__init__(method, tensors, at)
        self.own, self.sites = set(own), list(sites)

    def of_layer(self, index: int) -> Params:
        """A stack of one layer."""
        return {name: tensor[index : index + 1] if name in self.own else tensor for name, tensor in self.live().items()}

    @property
    def scale(self) -> float:
        return self.sites[0].scaling * self.method.scaling


class Pair(Tensors):
    """A and B of one layer, made from the tensors of a parameterization whenever a forward pass asks for them.

    It is registered as the parametrization of A's weight; `Other` is B's, and gives what was computed with A.

    Args:
        tensors: of `Parameterization.init`, without a base; none where layers share them.
        site: where in the model.
        at: where the run stands; its generators are the layer's own.
        shared: what the tensors are shared in, and which layer this is; the first layer registers it.
    """

    def __init__(
        self,
        method: Parameterization,
        tensors: Mapping[str, Tensor],
        site: Site,
        at: Step,
        shared: tuple[Shared, int] | None = None,
    ) -> None:
        super().__init__(method, tensors, at)
        self.site = site
        self.input_shape = site.input_shape
        self.original: Tensor | None = None  # of a base that has taken up what factors learned, on the CPU
        self.hooks: list[Any] = []  # on the site's layer
        self.stack = shared
        if shared is not None and shared[1] == 0:
            self.shared = shared[0]
        self._held: tuple[Tensor, Tensor] | None = None

    @property
    def source(self) -> Tensors:
        """What holds the tensors: itself, or what several layers share."""
        return self if self.stack is None else self.stack[0]

    def live(self) -> Params:
        return super().live() if self.stack is None else self.stack[0].of_layer(self.stack[1])

    @property
    def scale(self) -> float:
        return self.site.scaling * self.method.scaling

    def factors(self) -> tuple[Tensor, Tensor]:
        """left (m, k) and right (k, n), differentiable: the layer's update is scaling · left @ right."""
        tensors, precondition = self.live(), self.source.precondition
        if self.tangent is not None:
            by = Tangent if self.tangent.moves_bases(self.at.step) else Core
            return by.apply(tensors["left"], tensors["core"], tensors["right"])
        if self.method.splits:
            right, left = self.method.export(tensors)
            return left, right
        weight = self.method.weight(tensors)
        if precondition is None or len(weight.factors) != 2:
            return alone(*weight.pair())
        left, right = alone(*Preconditioned.apply(*weight.factors, precondition, self.scale))
        return left * weight.scale if weight.scale != 1 else left, right

    def compute(self) -> tuple[Tensor, Tensor]:
        """A and B as the layer stores them; in the tensors' own precision under autocast, too."""
        with torch.autocast(self.device.type, enabled=False):
            return self.site.reshaped(*self.factors(), self.input_shape)

    @property
    def device(self) -> torch.device:
        return self.like.device

    @property
    def like(self) -> Tensor:
        """A tensor of the precision and on the device of all."""
        return next(self.source.parameters())

    def hold(self, layer: nn.Module, args: Any) -> None:
        """Compute A and B once for the forward pass that begins."""
        if torch.compiler.is_compiling() or not self.site.active:
            return  # the compiler merges what is computed twice
        self.check_marks()
        self._held = self.compute()

    def check_marks(self) -> None:
        """Where others have taken the parameters' place, no optimizer's step finds the way to the pair.

        Raises:
            InputError: where the method has something to do there.
        """
        method = self.method
        works = method.penalizes or method.directs or method.rates or hasattr(method, "perturbation")
        if not works and type(method).after_step is Parameterization.after_step:
            return
        if not all(hasattr(tensor, SLOT) for tensor in self.source.parameters(recurse=False)):
            raise InputError(
                f"{self.site.name}: {type(method).__name__} works around the optimizer's step, and others have taken its tensors' "
                "place, as FSDP's shards do; use DistributedDataParallel, or a method that does nothing there, as lora and op_lora"
            )

    def release(self, layer: nn.Module, args: Any, output: Any) -> None:
        """The forward pass is over."""
        self._held = None

    def perturb(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Train on a perturbed weight, for methods that have a `perturbation`; the same one wherever a step goes forward again."""
        if not (layer.training and self.site.active):
            return None
        with torch.no_grad():
            left, right = self.factors()
            weight = self.site.base_matrix() + self.site.scaling * (left @ right)
            noise = self.method.perturbation(weight, self.at)  # type: ignore[attr-defined]  # this hook is for those that have it
        return output + self.site.apply(args[0], noise).to(output.dtype)

    def values(self) -> tuple[Tensor, Tensor]:
        """A and B."""
        return self.compute() if self._held is None else self._held

    def forward(self) -> Tensor:
        return self.values()[0]

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        return ()  # nothing is kept of the tensor that was there

    @torch.no_grad()
    def plain(self, trimmed: bool = True) -> tuple[Tensor, Tensor]:
        """left (m, k) and right (k, n) of all that was learned, scale included, in float64.

        Where the base has taken up what earlier factors learned, k is the rank of the whole change.

        Args:
            trimmed: whether directions that are zero are left out.
        """
        tensors = {name: tensor.double() for name, tensor in self.tensors().items()}
        if not self.method.merges:
            right, left = self.method.export(tensors)
        else:
            left, right = self.method.weight(tensors).pair()
        left, right = alone(left, right)
        left = left * self.site.scaling
        if self.original is not None:
            merged = self.site.base_matrix().double() - self.original.to(left)
            left, right = compressed(merged + left @ right, self.original)
        used = left.any(0) & right.any(1)
        return (left[:, used], right[used]) if trimmed and used.any() else (left, right)

    @torch.no_grad()
    def shown(self) -> tuple[Tensor, Tensor]:
        """left and right of all that was learned, as the layer's own scale multiplies them."""
        left, right = self.plain(trimmed=False)
        place: Any = {"dtype": self.like.dtype, "device": self.like.device}
        return (left / self.site.scaling).to(**place), right.to(**place, copy=True)


def alone(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of one layer, where they come as those of a stack of one."""
    return (left, right) if left.ndim == 2 else (left[0], right[0])


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which FSDP may keep but a shard here."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def compressed(change: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """left (m, k) and right (k, n) of a change to a base, of the rank that it has above the rounding of the base's entries."""
    u, values, vt = torch.linalg.svd(change, full_matrices=False)
    noise = torch.finfo(base.dtype).eps * float(base.abs().max()) * max(change.shape) ** 0.5
    rank = max(1, int((values > noise).sum()))
    return u[:, :rank] * values[:rank], vt[:rank]


class Other(nn.Module):
    """The parametrization of B: what `Pair` computed with A."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self._pair = (pair,)  # in a tuple, so that its tensors are not registered twice

    def forward(self) -> Tensor:
        return self._pair[0].values()[1]

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        return ()
