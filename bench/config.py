"""From Hydra's configuration to a cell: the dataclasses are the configuration groups."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from bench.catalogue import AXES, entries
from bench.cell import Cell, LearningRates
from linalg import InputError
from optimizers import Torch

SHARED = {
    "parameterization": ("rank", "alpha", "depth", "scale"),
    "problem": ("shape", "normalize", "reduction"),
    "optimizer": ("rank",),
}


CUSTOM = "custom"


def node(axis: str, cls: Any) -> dict[str, Any]:
    """A configuration group's entry: where the class is and the defaults of its hyperparameters; shared ones interpolate."""
    values: dict[str, Any] = {"_target_": f"{cls.__module__}.{cls.__qualname__}"}
    for field in fields(cls):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        values[field.name] = list(default) if isinstance(default, tuple) else default
        if field.name in SHARED[axis]:
            values[field.name] = "${" + field.name + "}"
    if cls is Torch:
        return {"_target_": values["target"], "options": {}}
    return values


def register() -> None:
    """Put every entry of the catalogue into Hydra's store, and for each axis `custom`, for a class of one's own."""
    for axis in AXES:
        shared = {name: "${" + name + "}" for name in SHARED[axis]}
        ConfigStore.instance().store(group=axis, name=CUSTOM, node={"_target_": None, **shared})
        for name, cls in entries(axis).items():
            ConfigStore.instance().store(group=axis, name=name, node=node(axis, cls))


def build(axis: str, config: DictConfig) -> Any:
    """The object that the configuration describes for an axis; null shared options stay at the class's own default.

    Raises:
        InputError: where `_target_` cannot be imported or takes no such option.
    """
    values = group(config, axis, f"{axis}=NAME; NAME is one of {', '.join(entries(axis))}")
    options = {str(name): value for name, value in values.items() if name != "_target_"}
    target = str(values.get("_target_"))
    if values.get("_target_") is None:
        raise InputError(f"{axis}._target_=null: must be the dotted name of a class, such as my_package.MyMethod")
    try:
        cls = get_object(target)
    except Exception as error:  # whatever the module raises while it is imported
        raise InputError(f"{axis}._target_={target!r}: must be a class that can be imported ({error})") from error
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer):
        return Torch(target, {**options.pop("options", {}), **options})
    if not (inspect.isclass(cls) and issubclass(cls, AXES[axis])):
        raise InputError(f"{axis}._target_={target!r}: must be a subclass of {AXES[axis].__name__}")
    known = {field.name for field in fields(cls)}
    options = {name: value for name, value in options.items() if name not in SHARED[axis] or (name in known and value is not None)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(f"{axis}.{unknown[0]}={options[unknown[0]]!r}: {target} takes {', '.join(sorted(known)) or 'no options'}")
    try:
        return cls(**options)
    except (ValueError, TypeError) as error:  # InputError, or whatever a class from elsewhere raises
        said = str(error)
        raise InputError(said if said.startswith((f"{axis}=", f"{axis}.")) else f"{axis}.{said}") from error


def cell(config: DictConfig) -> Cell:
    """The cell that a job's configuration describes."""
    rates = group(config, "lr", "lr.values, or lr.min, lr.max and lr.count", [field.name for field in fields(LearningRates)])
    given = group(config, "seeds", "seeds.tune and seeds.report", ["tune", "report"])
    seeds = {name: seed_list(f"seeds.{name}", given.get(name), first) for name, first in (("tune", 0), ("report", 100))}
    return Cell(
        problem=build("problem", config),
        parameterization=build("parameterization", config),
        optimizer=build("optimizer", config),
        lr=LearningRates(**rates),
        tune=seeds["tune"],
        report=seeds["report"],
        steps=config.steps,
        schedule=config.schedule,
        warmup=config.warmup,
        dtype=config.dtype,
        device=str(config.device),
        probes=str(config.probes),
        timeout=config.timeout,
    )


def rebuilt(description: dict[str, Any]) -> Cell:
    """The cell that `Cell.describe` described."""
    settings: dict[str, Any] = {**description, **{name: tuple(seeds) for name, seeds in description["seeds"].items()}}
    del settings["seeds"]
    for axis in AXES:
        options = {name: value for name, value in description[axis].items() if name not in ("name", "_target_")}
        settings[axis] = get_object(description[axis]["_target_"])(**options)
    return Cell(**{**settings, "lr": LearningRates(**description["lr"])})


def signature(arguments: list[str]) -> str:
    """A hash of what decides which cells a sweep is made of: the overrides, the configuration files, every default."""
    decisive = sorted(argument for argument in arguments if not argument.startswith("hydra/launcher="))
    files = [path.read_text() for path in sorted((Path(__file__).parent / "conf").rglob("*.yaml"))]
    nodes = [node(axis, cls) for axis in AXES for cls in entries(axis).values()]
    return hashlib.sha256(json.dumps([decisive, files, nodes], default=str).encode()).hexdigest()


def group(config: DictConfig, name: str, keys: str, known: Sequence[str] | None = None) -> dict[str, Any]:
    """A group of keys as plain data.

    Raises:
        InputError: where a bare value was given for it, or a key that is not `known`.
    """
    if not OmegaConf.is_dict(config[name]):
        raise InputError(f"{name}={config[name]}: must be given as {keys}")
    container = OmegaConf.to_container(config[name], resolve=True)
    assert isinstance(container, dict)
    for key in map(str, container):
        if known is not None and key not in known:
            raise InputError(f"{name}.{key}: no such key; allowed are {', '.join(f'{name}.{each}' for each in known)}")
    return {str(key): value for key, value in container.items()}


def seed_list(key: str, value: Any, first: int) -> tuple[int, ...]:
    """Seeds as given, or that many from `first` on where a number is given."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise InputError(f"{key}={value}: must be a list of seeds, or how many")
        return tuple(range(first, first + value))
    try:
        return tuple(value)
    except TypeError as error:
        raise InputError(f"{key}={value!r}: must be a list of seeds, or how many") from error


def experiments() -> dict[str, str]:
    """The named sweeps by name, with the line under their package header."""
    folder = Path(__file__).parent / "conf" / "experiment"
    return {path.stem: path.read_text().splitlines()[1].lstrip("# ") for path in sorted(folder.glob("*.yaml"))}
