"""Take a parameterization off a model: with what it learned as plain LoRA, or without."""

import torch
from torch import nn

from adapters._config import describe
from adapters._install import attached, remove, restore


@torch.no_grad()
def bake(model: nn.Module, adapter: str = "default") -> nn.Module:
    """Make a model's adapter plain LoRA again: A and B as the parameterization gives them, with the scale in B.

    Every layer's rank is then that of what it learned, its scale 1. Where a method has merged into the base, the base is restored
    and A and B hold the whole change. An optimizer that was made before knows nothing of the new tensors.

    Returns:
        The model.

    Raises:
        InputError: where nothing is attached.
    """
    pairs = attached(model, adapter)
    for pair in pairs:
        left, right = pair.plain()
        restore(pair)
        remove(pair, left, right, 1.0)
    describe(model, adapter)
    return model


@torch.no_grad()
def detach(model: nn.Module, adapter: str = "default", *, keep: bool = False) -> nn.Module:
    """Take a parameterization off; the adapter's A and B are then as LoRA starts, B = 0.

    Args:
        keep: whether what was merged into the base stays there (Flora, ReLoRA); else the base is restored to the last bit.

    Returns:
        The model.

    Raises:
        InputError: where nothing is attached.
    """
    for pair in attached(model, adapter):
        if not keep:
            restore(pair)
        (m, n), rank, like = pair.site.shape, pair.site.rank, pair.like
        right = torch.empty(rank, n)
        nn.init.kaiming_uniform_(right, a=5**0.5)
        remove(pair, torch.zeros(m, rank).to(like), right.to(like), pair.site.scaling)
    describe(model, adapter)
    return model
