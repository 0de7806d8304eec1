"""Put a parameterization behind the LoRA pairs of a model."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adapters import _steps
from adapters._config import describe, matcher
from adapters._gradients import Loss, first_gradients
from adapters._install import install, pair_of
from adapters._pair import Pair, Shared
from adapters._sites import Site, layers, sites
from linalg import InputError
from linalg.checks import check, check_integer
from linalg.random import generator
from parameterizations import Parameterization, Params, Step
from parameterizations._described import built


def attach(
    model: nn.Module,
    parameterization: Parameterization | str,
    *,
    adapter: str = "default",
    target: str | Sequence[str] | None = None,
    batch: Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    steps: int | None = None,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """Train every LoRA pair of a model in another parameterization, from that parameterization's own start.

    Rank and scale are those of the model's LoraConfig, or of `adapters.wrap`. Any optimizer moves the new tensors, which are
    parameters of the model; what a method does around a step (penalties, resampling, truncation) hangs on the optimizer's step.

    Args:
        model: wrapped by `peft.get_peft_model`, by diffusers' `add_adapter` or by `adapters.wrap`; changed in place.
        parameterization: an object, or the name of one in the catalogue, with `options` for its other hyperparameters.
        adapter: whose pairs.
        target: which layers: a pattern that must match the whole name, or endings of names, as in a LoraConfig; None for all.
        batch: keyword arguments of the model for a first batch, for methods that start from the first gradient.
        loss: from the model to that batch's loss; None for `model(**batch).loss`.
        steps: how many steps the run takes in all, for methods whose schedule depends on it (AdaLoRA, Flat-LoRA).
        seed: of all that is drawn; each layer has a stream of its own, by its name.

    Returns:
        The model.

    Raises:
        InputError: where something is attached already, a rank or scale is not the LoraConfig's, a rank is above a layer's size,
            nothing matches, or the method has no place in a model, with the reason.
    """
    if steps is not None:
        check_integer("steps", steps)
    chosen = sites(model, adapter, None if target is None else matcher(target, [name for name, _ in layers(model)]))
    for site in chosen:
        if pair_of(site) is not None:
            raise InputError(f"{site.name}: has a parameterization attached already; bake or detach it first")
    methods = {site.name: of_rank(parameterization, options, site) for site in chosen}
    cautions = [f"{site.name}: {said}" for site in chosen if (said := methods[site.name].caution(site.shape))]
    if cautions:
        warnings.warn(cautions[0] if len(cautions) == 1 else f"{cautions[0]} (and {len(cautions) - 1} more layers)", stacklevel=2)
    check_weights(model, chosen, next(iter(methods.values())))
    stacked = [site for site in chosen if "layers" in methods[site.name].needs]
    made = [each for stack in stacks(stacked) for each in share(stack, methods[stack[0].name], seed, steps)]
    single = [site for site in chosen if site not in stacked]
    streams = {site.name: f"adapter {site.name}" for site in chosen}
    drawn: dict[str, Params] = {}
    asked: dict[str, Tensor] = {}
    for site in single:
        try:
            drawn[site.name] = draw(methods[site.name], site, generator(seed, streams[site.name]), ask)
        except Asked as question:
            asked[site.name] = question.at
    if asked:
        if loss is None and batch is None:
            name = type(methods[chosen[0].name]).__name__
            raise InputError(f"batch=None: {name} starts from the first gradient; give a batch, or a loss of the model")
        waiting = [site for site in single if site.name in asked]
        found = first_gradients(model, waiting, asked, loss or partial(loss_of, batch=batch or {}))
        for site in waiting:
            drawn[site.name] = draw(
                methods[site.name], site, generator(seed, streams[site.name]), partial(answer, found[site.name])
            )
    for site in single:
        at = Step(steps=steps, generators=[generator(seed, f"steps {site.name}")])
        made.append((site, Pair(methods[site.name], drawn[site.name], site, at)))
    for site, pair in made:
        install(site, pair, getattr(model, "peft_config", {}).get(adapter))
    _steps.install()
    if any(site.stored[0].shape[0] != site.rank for site in chosen):  # then peft is to save what it will load
        describe(model, adapter)
    return model


class Asked(Exception):  # noqa: N818  # a question, not an error
    """A method's start asks for the gradient at a weight."""

    def __init__(self, at: Tensor) -> None:
        super().__init__()
        self.at = at


def ask(weight: Tensor) -> Tensor:
    raise Asked(weight.detach().float())


def answer(gradient: Tensor, weight: Tensor) -> Tensor:
    return gradient.to(weight)


def loss_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The loss that a model of transformers' kind gives for a batch."""
    output = model(**batch)
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if not isinstance(found, Tensor):
        raise InputError("batch: the model's output has no loss; give labels in the batch, or loss=, a function of the model")
    return found


def of_rank(parameterization: Parameterization | str, options: Mapping[str, Any], site: Site) -> Parameterization:
    """The method for a site, with the site's rank, and a scale that is left to the layer."""
    if isinstance(parameterization, str):
        named = {"rank": site.rank} if "rank" not in options else {}
        method = built("parameterization", parameterization, options, **named)
    else:
        check(not options, "options", ", ".join(options), "given with a parameterization's name, not with an object")
        method = parameterization
    name = type(method).__name__
    check(isinstance(method, Parameterization), "parameterization", name, "a parameterization of this suite, or the name of one")
    if reason := refusal(method):
        raise InputError(f"{name}: {reason}")
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    if values.get("rank", site.rank) != site.rank:
        raise InputError(f"rank={values['rank']}: the LoraConfig's r is {site.rank} at {site.name}, and that is the rank")
    if values.get("rslora"):
        raise InputError("rslora=True: give the LoraConfig use_rslora=True instead")
    if (alpha := values.get("alpha")) is None:
        return method
    if not close(alpha / site.rank, site.scaling):
        raise InputError(f"alpha={alpha:g}: the LoraConfig's scale is {site.scaling:g} at {site.name}; leave alpha out")
    return type(method)(**values | {"alpha": None})


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b))


def refusal(method: Parameterization) -> str | None:
    """Why a method has no place in a model, or None."""
    name = type(method).__name__
    if name in ("DoRA", "OPDoRA"):
        inner = "leave the pair as it is" if name == "DoRA" else "attach op_lora"
        return f"peft has DoRA around any pair: give the LoraConfig use_dora=True and {inner}"
    if "clients" in method.needs or "tasks" in method.needs:
        return f"it needs {' and '.join(method.needs)}, which one model does not have"
    if not getattr(method, "rank", None) and name == "Full":
        return "it has no factors; train the model's own weights"
    return None


def draw(method: Parameterization, site: Site, source: torch.Generator, gradient: Callable[[Tensor], Tensor]) -> Params:
    """A site's tensors in its precision and on its device, without the base."""
    reads_base = "base" in method.needs
    like = site.stored[0]
    base = site.base_matrix().double().cpu() / site.scaling if reads_base else None
    try:
        params = method.init(site.shape, generator=source, dtype=like.dtype, device=like.device, base=base, gradient=gradient)
    except InputError as error:
        raise InputError(f"{site.name}: {error}") from error
    params.pop("base", None)
    return params


def stacks(chosen: Sequence[Site]) -> list[list[Site]]:
    """Sites of one shape, rank, scale and precision each."""
    found: dict[Any, list[Site]] = {}
    for site in chosen:
        like = site.stored[0]
        found.setdefault((site.shape, site.rank, site.scaling, like.dtype, like.device), []).append(site)
    return list(found.values())


def check_weights(model: nn.Module, chosen: Sequence[Site], method: Parameterization) -> None:
    """Raise `InputError` where a method is to read or change weights that do not let it."""
    for site in chosen:
        if getattr(site.layer, "lora_bias", {}).get(site.adapter):
            raise InputError(f"{site.name}: has a bias in its pair; give the LoraConfig lora_bias=False")
        if method.merges or hasattr(method, "perturbation"):
            site.base_matrix()
    if method.merges:
        owners: dict[int, list[str]] = {}
        for name, tensor in model.named_parameters(remove_duplicate=False):
            owners.setdefault(id(tensor), []).append(name)
        for site in chosen:
            if len(names := owners[id(site.base)]) > 1:
                raise InputError(f"{site.name}: {type(method).__name__} merges into its weight, which is tied: {', '.join(names)}")


def share(stack: Sequence[Site], method: Parameterization, seed: int, steps: int | None) -> list[tuple[Site, Pair]]:
    """Pairs of layers that share what the method shares; a part for each layer is what grows with their number."""

    def drawn(layers: int) -> Params:
        source = generator(seed, f"adapter {stack[0].name}")
        like = stack[0].stored[0]
        try:
            return method.init(
                stack[0].shape, layers=layers, generator=source, dtype=like.dtype, device=like.device, gradient=refuse
            )
        except InputError as error:
            raise InputError(f"{stack[0].name}: {error}") from error

    def refuse(weight: Tensor) -> Tensor:
        raise InputError(f"{type(method).__name__}: its layers share tensors, and it starts from each one's own first gradient")

    tensors, more = drawn(len(stack)), drawn(len(stack) + 1)
    own = [name for name, tensor in tensors.items() if tensor.shape != more[name].shape]
    at = Step(steps=steps, generators=[generator(seed, f"steps {stack[0].name}")])
    shared = Shared(method, tensors, own, stack, at)
    return [(site, Pair(method, {}, site, at, (shared, i))) for i, site in enumerate(stack)]
