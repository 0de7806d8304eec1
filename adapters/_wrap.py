"""LoRA layers for models without peft: any module's Linear, Conv and Embedding layers, by name. They look as peft's do."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapters._config import matcher
from adapters._install import pair_of
from adapters._sites import layers, sites
from linalg import InputError
from linalg.checks import check_integer, check_number

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LoRALayer(nn.Module):
    """A layer with a pair beside it: base(x) + scaling · B A x. Its attributes are those of a peft layer with one adapter."""

    def __init__(self, base_layer: Any, rank: int, alpha: float, adapter: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.r, self.lora_alpha, self.scaling = {adapter: rank}, {adapter: alpha}, {adapter: alpha / rank}
        self.active_adapters = [adapter]
        self.disable_adapters = self.merged = False
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.lora_embedding_A, self.lora_embedding_B = nn.ParameterDict(), nn.ParameterDict()
        like: dict[str, Any] = {"device": base_layer.weight.device, "dtype": base_layer.weight.dtype}
        if isinstance(base_layer, nn.Embedding):
            self.lora_embedding_A[adapter] = nn.Parameter(torch.randn(rank, base_layer.num_embeddings, **like))
            self.lora_embedding_B[adapter] = nn.Parameter(torch.zeros(base_layer.embedding_dim, rank, **like))
        elif isinstance(base_layer, nn.Linear):
            self.lora_A[adapter] = nn.Linear(base_layer.in_features, rank, bias=False, **like)
            self.lora_B[adapter] = nn.Linear(rank, base_layer.out_features, bias=False, **like)
        else:
            assert isinstance(base_layer, CONVOLUTIONS)
            cls: Any = type(base_layer)
            ones = (1,) * len(base_layer.kernel_size)
            shape = {key: getattr(base_layer, key) for key in ("stride", "padding", "dilation")}
            self.lora_A[adapter] = cls(base_layer.in_channels, rank, base_layer.kernel_size, bias=False, **shape, **like)
            self.lora_B[adapter] = cls(rank, base_layer.out_channels, ones, bias=False, **like)
        for module in self.lora_B.values():
            nn.init.zeros_(module.get_parameter("weight"))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for adapter in self.active_adapters:
            if adapter in self.lora_A:
                change = self.lora_B[adapter](self.lora_A[adapter](x))
            else:
                rows = nn.functional.embedding(x, self.lora_embedding_A[adapter].T)
                change = rows @ self.lora_embedding_B[adapter].T
            result = result + (change * self.scaling[adapter]).to(result.dtype)
        return result


def wrap(
    model: nn.Module, target: str | Sequence[str], *, rank: int = 8, alpha: float | None = None, adapter: str = "default"
) -> nn.Module:
    """Put LoRA pairs beside layers of any model, and freeze everything else. Names, shapes and starts are peft's.

    Args:
        target: a pattern that must match a layer's whole name, or endings of names, as in a LoraConfig.
        rank: r.
        alpha: the numerator of the scale; None for r, so that the scale is 1.

    Returns:
        The model, changed in place.

    Raises:
        InputError: where nothing matches, what matches is no Linear, Conv or Embedding layer, or its weight is smaller than the
            rank; where there are LoRA layers already.
    """
    check_integer("rank", rank)
    if alpha is not None:
        check_number("alpha", alpha, above=0)
    if any(True for _ in layers(model)):
        raise InputError("model: has LoRA layers already")
    known = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding, *CONVOLUTIONS))}
    fits = matcher(target, list(known))
    model.requires_grad_(False)
    for name, module in known.items():
        if not fits(name):
            continue
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            raise InputError(f"{name}: has {module.groups} groups; its weight is several matrices, leave it out of target")
        smaller = min(module.weight.shape[0], module.weight[0].numel())
        if rank > smaller:
            raise InputError(f"rank={rank}: must be at most {smaller}, the smaller side of {name}")
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LoRALayer(module, rank, alpha or rank, adapter))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the pairs of `wrap` to the weights and take the LoRA layers out: the model as it was, with what it learned.

    Raises:
        InputError: where the model has no layers of `wrap`; peft's have `merge_and_unload`.
    """

    found = {name: layer for name, layer in layers(model) if isinstance(layer, LoRALayer)}
    if not found:
        raise InputError("model: has no layers of adapters.wrap; peft's have merge_and_unload()")
    for site in sites(model, next(iter(next(iter(found.values())).scaling))):
        if pair_of(site) is not None:
            raise InputError(f"{site.name}: has a parameterization attached; bake it first")
        left, right = site.factors
        site.set_base(site.base_matrix() + site.scaling * left @ right)
    for name, layer in found.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.base_layer)
    return model
