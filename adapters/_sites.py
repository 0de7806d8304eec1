"""Where adapters sit in a model: the LoRA layers that peft, diffusers or `adapters.wrap` made, seen alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from linalg import InputError

KINDS = ("linear", "conv", "embedding")


@dataclass(frozen=True)
class Site:
    """One LoRA pair of a model: a layer with a base and, under the adapter's name, A, B and their scale.

    Args:
        name: of the layer, as in `model.named_modules()`.
        layer: has `base_layer`, `lora_A`, `lora_B`, `scaling`, `r` and `lora_alpha`, as peft's layers do.
        adapter: the adapter's name.
        kind: linear; conv, of any number of dimensions; embedding.
    """

    name: str
    layer: Any  # a module; what else it has, no type says
    adapter: str
    kind: str

    @property
    def holders(self) -> tuple[tuple[nn.Module, str], tuple[nn.Module, str]]:
        """The modules, with the names of tensors in them, that hold A and B."""
        layer = self.layer
        if self.kind == "embedding":
            return (layer.lora_embedding_A, self.adapter), (layer.lora_embedding_B, self.adapter)
        return (layer.lora_A[self.adapter], "weight"), (layer.lora_B[self.adapter], "weight")

    @property
    def stored(self) -> tuple[Tensor, Tensor]:
        """A and B as the layer has them."""
        (a, a_name), (b, b_name) = self.holders
        return getattr(a, a_name), getattr(b, b_name)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """left B (m, r) and right A (r, n): the update of the weight as a matrix is scaling · left @ right."""
        a, b = self.stored
        return b.flatten(1), a.flatten(1)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the weight as a matrix: outputs by inputs, of a convolution outputs by everything else, of an embedding its
        dimension by the number of tokens."""
        left, right = self.factors
        return left.shape[0], right.shape[1]

    @property
    def scaling(self) -> float:
        return float(self.layer.scaling[self.adapter])

    @property
    def rank(self) -> int:
        return int(self.layer.r[self.adapter])

    @property
    def active(self) -> bool:
        """Whether a forward pass uses the pair."""
        layer = self.layer
        return self.adapter in layer.active_adapters and not layer.disable_adapters and not layer.merged

    def reshaped(self, left: Tensor, right: Tensor, input_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A and B in the layer's own shapes; `input_shape` is that of one row of A."""
        if self.kind == "conv":
            return right.unflatten(1, tuple(input_shape)), left.reshape(*left.shape, *(1,) * (len(input_shape) - 1))
        return right, left

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one row of A: (n,), of a convolution (channels, *kernel)."""
        return tuple(self.stored[0].shape[1:])

    def set(self, left: Tensor, right: Tensor, scaling: float) -> None:
        """Put plain factors in the place of what is there, of any rank."""
        rank = left.shape[1]
        tensors = self.reshaped(left, right, self.input_shape)
        for (module, name), tensor in zip(self.holders, tensors, strict=True):
            parameter = nn.Parameter(tensor.contiguous())
            if isinstance(module, nn.ParameterDict):
                module[name] = parameter
            else:
                setattr(module, name, parameter)
        if self.kind == "linear":
            self.layer.lora_A[self.adapter].out_features = self.layer.lora_B[self.adapter].in_features = rank
        elif self.kind == "conv":
            self.layer.lora_A[self.adapter].out_channels = self.layer.lora_B[self.adapter].in_channels = rank
        self.layer.r[self.adapter] = rank
        self.layer.scaling[self.adapter] = scaling
        self.layer.lora_alpha[self.adapter] = scaling * rank

    @property
    def base(self) -> nn.Parameter:
        """The pretrained weight as the model stores it."""
        base = self.layer.base_layer
        while not isinstance(getattr(base, "weight", None), Tensor):
            base = base.base_layer
        return base.weight

    @property
    def base_is_transposed(self) -> bool:
        """Whether the base is stored as inputs by outputs: embeddings, and the linear layers of GPT-2."""
        return self.kind == "embedding" or bool(getattr(self.layer, "fan_in_fan_out", False))

    def base_matrix(self) -> Tensor:
        """(m, n) the pretrained weight.

        Raises:
            InputError: where it is quantised.
        """
        weight = self.base.detach()
        if not weight.is_floating_point() or weight.ndim < 2 or weight.numel() != self.shape[0] * self.shape[1]:
            raise InputError(f"{self.name}: its weight is quantised, or in groups, and this method has to read it as a matrix")
        return weight.mT if self.base_is_transposed else weight.flatten(1)

    def original_base(self, matrix: Tensor) -> Tensor:
        """A matrix in the shape and precision of the base."""
        weight = self.base
        return (matrix.mT if self.base_is_transposed else matrix).reshape(weight.shape).to(weight.dtype).contiguous()

    @torch.no_grad()
    def set_base(self, matrix: Tensor) -> None:
        weight = self.base
        weight.copy_((matrix.mT if self.base_is_transposed else matrix).reshape(weight.shape))

    def apply(self, x: Tensor, matrix: Tensor) -> Tensor:
        """What the layer would add to its output for x, were `matrix` (m, n) added to its weight."""
        if self.kind == "embedding":
            return nn.functional.embedding(x, matrix.mT)
        x = x.to(matrix.dtype)
        if self.kind == "linear":
            return nn.functional.linear(x, matrix)
        conv = self.layer.base_layer
        function = getattr(nn.functional, f"conv{len(self.input_shape) - 1}d")
        weight = matrix.unflatten(1, self.input_shape)
        return function(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def sites(model: nn.Module, adapter: str = "default", target: Callable[[str], bool] | None = None) -> list[Site]:
    """Every LoRA pair of an adapter, in the order of the model's modules.

    Raises:
        InputError: where a layer is of a kind whose pair is not two matrices, or there is none.
    """
    found = [site for site in _all(model, adapter) if target is None or target(site.name)]
    if not found:
        names = {name for _, layer in layers(model) for name in layer.scaling}
        there = f"; there are {', '.join(sorted(names))}" if names else ": wrap it by peft.get_peft_model or adapters.wrap first"
        raise InputError(f"model: has no LoRA layers of an adapter {adapter!r}{there}")
    return found


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """LoRA layers by name."""
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "lora_A") and isinstance(getattr(module, "scaling", None), dict):
            yield name, module


def _all(model: nn.Module, adapter: str) -> Iterator[Site]:
    for name, layer in layers(model):
        if adapter not in layer.scaling:
            continue
        if adapter in getattr(layer, "lora_embedding_A", {}):
            yield Site(name, layer, adapter, "embedding")
            continue
        a = layer.lora_A[adapter]
        if isinstance(a, nn.Linear):
            site = Site(name, layer, adapter, "linear")
        elif isinstance(a, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            site = Site(name, layer, adapter, "conv")
        else:
            raise InputError(f"{name}: has a {type(a).__name__} for lora_A; Linear, Conv and Embedding are known")
        if type(layer).__name__ in ("ParamWrapper", "MultiheadAttention"):
            raise InputError(f"{name}: is a {type(layer).__name__}, whose forward pass peft writes into the weight; leave it out")
        yield site
