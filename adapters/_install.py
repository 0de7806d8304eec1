"""Pairs at their places in a model: put there, found again, taken off."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from adapters._config import plain_name
from adapters._names import Names
from adapters._pair import Other, Pair
from adapters._sites import Site, sites
from linalg import InputError


def install(site: Site, pair: Pair, config: Any = None) -> None:
    """Make a pair the parametrization of a site's A and B."""
    (a, a_name), (b, b_name) = site.holders
    trains = site.stored[0].requires_grad
    register_parametrization(a, a_name, pair, unsafe=True)
    register_parametrization(b, b_name, Other(pair), unsafe=True)
    pair.requires_grad_(trains)
    pair.hooks.append(site.layer.register_forward_pre_hook(pair.hold))
    if hasattr(pair.method, "perturbation"):
        pair.hooks.append(site.layer.register_forward_hook(pair.perturb))
    pair.hooks.append(site.layer.register_forward_hook(pair.release, always_call=True))
    if site.kind == "embedding" and hasattr(site.layer, "adapter_layer_names"):
        # peft switches what trains through these; it takes A and B of an embedding for tensors without anything behind them
        site.layer.low_rank_pairs = {**getattr(site.layer, "low_rank_pairs", {}), site.adapter: pair}
        if "low_rank_pairs" not in site.layer.adapter_layer_names:
            site.layer.adapter_layer_names = (*site.layer.adapter_layer_names, "low_rank_pairs")
    names = Names(pair, config, plain_name(site.name))
    pair.hooks.append(site.layer.register_state_dict_post_hook(partial(names.write)))
    pair.hooks.append(site.layer.register_load_state_dict_pre_hook(partial(names.read)))
    pair.hooks.append(site.layer.register_load_state_dict_post_hook(pair.loaded))


def pair_of(site: Site) -> Pair | None:
    """What is attached at a site."""
    (module, name), _ = site.holders
    parametrizations = getattr(module, "parametrizations", {})
    if name not in parametrizations:
        return None
    found = parametrizations[name][0]
    return found if isinstance(found, Pair) else None


def attached(model: nn.Module, adapter: str = "default") -> list[Pair]:
    """Every pair that is attached to an adapter of a model.

    Raises:
        InputError: where there is none.
    """
    found = [pair for site in sites(model, adapter) if (pair := pair_of(site)) is not None]
    if not found:
        raise InputError(f"model: nothing is attached to its adapter {adapter!r}")
    return found


def remove(pair: Pair, left: Tensor, right: Tensor, scaling: float) -> None:
    """Take a pair off, and leave plain factors in its place."""
    site = pair.site
    for hook in pair.hooks:
        hook.remove()
    trains = any(tensor.requires_grad for tensor in pair.source.parameters())
    if site.adapter in getattr(site.layer, "low_rank_pairs", {}):
        site.layer.low_rank_pairs = {name: each for name, each in site.layer.low_rank_pairs.items() if name != site.adapter}
    left, right = left.to(pair.like), right.to(pair.like)
    tensors = site.reshaped(left, right, pair.input_shape)
    pair.values = lambda: tensors  # type: ignore[method-assign]  # what the removal leaves
    for module, name in site.holders:
        remove_parametrizations(module, name)
    site.set(left, right, scaling)
    for tensor in site.stored:
        tensor.requires_grad_(trains)


def restore(pair: Pair) -> None:
    """Give the base back what was merged into it."""
    if pair.original is not None:
        pair.site.set_base(pair.original.to(pair.site.base))
