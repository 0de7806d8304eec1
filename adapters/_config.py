"""Layers by name, and what a LoraConfig says of them: ranks, scales and patterns."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from adapters._sites import sites
from linalg import InputError


def describe(model: nn.Module, adapter: str) -> None:
    """Write the ranks and scales that A and B have into the model's LoraConfig, where it has one."""
    config = getattr(model, "peft_config", {}).get(adapter)
    if config is not None:
        found = {plain_name(site.name): site for site in sites(model, adapter)}
        ranks = {name: site.stored[0].shape[0] for name, site in found.items()}
        vars(config).update(patterns(ranks, {name: site.scaling for name, site in found.items()}))


def patterns(ranks: Mapping[str, int], scales: Mapping[str, float] | None = None) -> dict[str, Any]:
    """What a LoraConfig has to say of layers of these ranks and scales, by their plain names; without scales they are 1."""
    alphas = {name: rank * (1.0 if scales is None else scales[name]) for name, rank in ranks.items()}
    kinds = [(rank, alphas[name]) for name, rank in ranks.items()]
    most = max(dict.fromkeys(kinds), key=kinds.count)
    others = [name for name, kind in zip(ranks, kinds, strict=True) if kind != most]
    shadowed = [name for name in ranks if name not in others and any(name.endswith(f".{other}") for other in others)]
    listed = sorted([*others, *shadowed], key=len, reverse=True)  # peft takes the first whose end fits
    return {
        "r": most[0],
        "lora_alpha": whole(most[1]),
        "use_rslora": False,
        "rank_pattern": {name: ranks[name] for name in listed},
        "alpha_pattern": {name: whole(alphas[name]) for name in listed},
        "init_lora_weights": True,
    }


def whole(number: float) -> float:
    """An integer where it is one."""
    return int(number) if float(number).is_integer() else number


def plain_name(name: str) -> str:
    """A layer's name in the model that was wrapped."""
    return name.removeprefix("base_model.model.")


def matcher(target: str | Sequence[str], names: Sequence[str]) -> Callable[[str], bool]:
    """Whether a layer's name matches: a pattern the whole of it, or one of several endings.

    Raises:
        InputError: where nothing does.
    """
    if isinstance(target, str):
        try:
            pattern = re.compile(target)
        except re.error as error:
            raise InputError(f"target={target!r}: must be a regular expression ({error})") from error

        def fits(name: str) -> bool:
            return bool(pattern.fullmatch(plain_name(name)))
    else:
        endings = list(target)

        def fits(name: str) -> bool:
            return any(plain_name(name) == ending or name.endswith(f".{ending}") for ending in endings)

    if not any(map(fits, names)):
        some = ", ".join(plain_name(name) for name in list(names)[:5])
        raise InputError(f"target={target!r}: matches no layer; there are {some}{', ...' if len(names) > 5 else ''}")
    return fits
