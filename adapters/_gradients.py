"""The first gradient dL/dW of many layers from one backward pass, for methods that start from it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapters._sites import Site
from linalg import InputError

Loss = Callable[[nn.Module], Tensor]


def first_gradients(model: nn.Module, sites: Sequence[Site], changes: Mapping[str, Tensor], loss: Loss) -> dict[str, Tensor]:
    """(m, n) by the name of each site: the gradient at the pretrained weights plus `changes`, of what the layer multiplies.

    The random state, and the gradients of the model's own tensors, stay as they were. With several processes it is the mean.

    Args:
        changes: (m, n) by name, of what the layer's scaling multiplies.
        loss: from the model to the loss () of a first batch.

    Raises:
        InputError: where the loss is no number, or a layer takes no part in it.
    """
    places = {site.name: (site.scaling * changes[site.name].to(site.stored[0])).requires_grad_() for site in sites}
    scales = {site.name: site.layer.scaling[site.adapter] for site in sites}

    def adding(site: Site) -> Any:
        def hook(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output + site.apply(args[0], places[site.name]).to(output.dtype)

        return hook

    hooks = [site.layer.register_forward_hook(adding(site)) for site in sites]
    try:
        for site in sites:
            site.layer.scaling[site.adapter] = 0.0  # factors that are there already stay out
        with torch.random.fork_rng(), torch.enable_grad():
            value = loss(model)
            if not (isinstance(value, Tensor) and value.numel() == 1):
                raise InputError(f"loss: must give a tensor with one number, not {type(value).__name__}")
            found = torch.autograd.grad(value, list(places.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
        for site in sites:
            site.layer.scaling[site.adapter] = scales[site.name]
    gradients = dict(zip(places, found, strict=True))
    unused = [name for name, gradient in gradients.items() if gradient is None]
    if unused:
        raise InputError(f"{', '.join(unused)}: takes no part in the first batch's loss, so that it has no first gradient")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for gradient in gradients.values():
            torch.distributed.all_reduce(gradient)
            gradient.div_(torch.distributed.get_world_size())
    return {site.name: site.scaling * gradients[site.name].detach() for site in sites}
