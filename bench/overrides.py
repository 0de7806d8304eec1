"""What is wrong with overrides as they are written, said before Hydra composes anything."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser  # what `hydra.main` itself reads the command line with
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bench import catalogue, config
from linalg import InputError

VALUES = "a word, a number, a list such as [8,6], text in quotes, or several to sweep: a,b or choice(a,b) or range(1,4) or glob(s*)"


def check_overrides(arguments: list[str]) -> None:
    """Raise `InputError` for the first argument that is no override, naming it with what is allowed.

    Values are checked where they are used; this is about how they are written, and keys that nobody would read.
    """
    parsed, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        raise InputError(f"{unknown[0]}: no such option; settings are written as KEY=VALUE, such as steps=100")
    for override in [read(argument) for argument in parsed.overrides]:
        check_written(override, parsed.overrides)


def read(argument: str) -> Override:
    """An override as Hydra understands it."""
    if "=" not in argument and not argument.startswith("~"):
        raise InputError(f"{argument}: must be written as KEY=VALUE, such as steps=100")
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException as error:
        reason = re.split(r" expecting |\n", str(error))[0].replace("'<EOF>'", "the end")
        raise InputError(f"{argument}: cannot be read ({reason}); must be KEY=VALUE with {VALUES}") from error


def check_written(override: Override, arguments: Sequence[str]) -> None:
    """Raise `InputError` for an override that Hydra can read and would misunderstand."""
    written, key, value = override.input_line, override.key_or_group, override._value
    if not key:
        raise InputError(f"{written}: must be written as KEY=VALUE, such as steps=100")
    alternatives = value.list if isinstance(value, ChoiceSweep) else [value]
    if nested := [each for each in alternatives if isinstance(each, (Sweep, Glob)) and each is not value]:
        name = type(nested[0]).__name__.removesuffix("Sweep").lower()
        raise InputError(f"{written}: {name}(...) must be the whole value, not one of several")
    if names := entries_of(key):
        for each in [] if override.is_delete() else alternatives:
            if isinstance(each, Glob) and not each.filter(names):
                raise InputError(f"{written}: must match one of {', '.join(names)}")
            if key in catalogue.AXES and not (each and isinstance(each, (Glob, QuotedString, str))):
                raise InputError(f"{written}: must be one of {', '.join(names)}")
    elif isinstance(value, Glob) and "/" not in key:
        raise InputError(f"{written}: glob(...) must be of {', '.join(catalogue.AXES)}, whose entries it chooses from")
    if override.is_delete() and key in top_keys() and key not in [shared for keys in config.SHARED.values() for shared in keys]:
        raise InputError(f"{written}: this key cannot be left out")
    adds, is_read = override.is_add() or override.is_force_add(), any(f"${{{key}" in argument for argument in arguments)
    if adds and not {".", "/"} & set(key) and key not in top_keys() and not is_read:
        raise InputError(f"{written}: no such key; allowed are {', '.join(top_keys())}")


def entries_of(key: str) -> list[str]:
    """The names that a key chooses from, if it does."""
    if key == "experiment":
        return list(config.experiments())
    return [*catalogue.entries(key), config.CUSTOM] if key in catalogue.AXES else []


def top_keys() -> list[str]:
    """The keys of the configuration that are not part of another."""
    return [str(name) for name in whole() if name not in ("defaults", "hydra")] + list(catalogue.AXES)


def allowed_keys(key: str, arguments: list[str]) -> list[str]:
    """The keys beside an unknown one: those of its group, as chosen on the command line, or of the whole configuration."""
    axis = key.partition(".")[0]
    if "." not in key or (axis not in catalogue.AXES and not OmegaConf.is_dict(whole().get(axis))):
        return top_keys()
    if axis not in catalogue.AXES:
        return [f"{axis}.{name}" for name in whole()[axis]]
    chosen = [str(choice[axis]) for choice in whole()["defaults"] if axis in choice]
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{axis}=")] or chosen
    classes = [catalogue.entries(axis)[name] for name in ",".join(chosen).split(",") if name in catalogue.entries(axis)]
    return sorted({f"{axis}.{name}" for cls in classes for name in config.node(axis, cls) if name != "_target_"})


def swept_by(axis: str, arguments: list[str]) -> str:
    """What the experiment on the command line sweeps an axis over, where the command line does not choose itself; else nothing."""
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("experiment=")]
    chosen = any(argument.startswith(f"{axis}=") for argument in arguments)
    if not named or chosen or axis not in catalogue.AXES or named[-1] not in config.experiments():
        return ""
    swept = OmegaConf.select(read_yaml(f"experiment/{named[-1]}.yaml"), "hydra.sweeper.params") or {}
    return f"{axis}={swept[axis]}" if axis in swept else ""


def read_yaml(name: str) -> DictConfig:
    """A file of the configuration."""
    loaded = OmegaConf.load(Path(config.__file__).parent / "conf" / name)
    assert isinstance(loaded, DictConfig)
    return loaded


def whole() -> Any:
    """The configuration file."""
    return read_yaml("config.yaml")


def one_line(error: Exception, arguments: list[str]) -> str:
    """Hydra's messages on one line, with what is allowed."""
    text = " ".join(str(error).split())
    if match := re.match(r"In 'config': Could not find '(.+?)/(.+?)' Available options in '.+?': (.*?) Config search path", text):
        group, value, options = match.groups()
        return f"{group}={value}: must be one of {', '.join(options.split())}"
    if match := re.match(r"Could not override '(.+?)'", text):
        key = match[1]
        if swept := swept_by(key.partition(".")[0], arguments):
            return f"{key}: name what it is of beside it, as in {swept} {key}=...: the experiment sweeps over that"
        return f"{key}: no such key; allowed are {', '.join(allowed_keys(key, arguments))}"
    if "does not support sweep type : INTERVAL" in text:
        written = next((argument for argument in arguments if "interval(" in argument), "interval(...)")
        return f"{written}: needs a sweeper that draws values; the one at hand takes {VALUES}"
    return re.split(r" See https| Set the environment variable| full_key:", text)[0]
