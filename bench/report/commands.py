"""The command that runs a stored cell again."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench import config
from bench.catalogue import AXES, entries
from optimizers import Torch

RUN = ("steps", "schedule", "warmup", "dtype", "device", "probes", "timeout")
FIRST_REPORTED = 100  # `seeds.report=10` stands for 100 to 109
BARE = re.compile(r"[A-Za-z_][\w./-]*")  # needs no quotes in Hydra's grammar
WORDS = ("null", "true", "false", "nan", "inf", "none")  # which that grammar takes for something else


def command(description: Mapping[str, Any]) -> str:
    """The shell's line for what `Cell.describe` gave."""
    return shlex.join(["python", "-m", "bench", *overrides(description)])


def overrides(description: Mapping[str, Any]) -> list[str]:
    """Hydra overrides of which this very cell is composed: the three names, the steps, and what is not the default."""
    whole = defaults()
    found = [line for axis in AXES for line in of_axis(axis, description[axis])]
    found += [f"{name}={written(description[name])}" for name in RUN if name == "steps" or not same(description[name], whole[name])]
    found += [f"lr.{name}={written(value)}" for name, value in description["lr"].items() if not same(value, whole["lr"][name])]
    for role, seeds in description["seeds"].items():
        if seeds != whole["seeds"][role]:
            counted = role == "report" and seeds == list(range(FIRST_REPORTED, FIRST_REPORTED + len(seeds)))
            found.append(f"seeds.{role}={len(seeds) if counted else written(seeds)}")
    return found


def of_axis(axis: str, entry: Mapping[str, Any]) -> list[str]:
    """The overrides of one axis: its entry, and the entry's options that are not what the configuration would give them."""
    name, target = entry["name"], entry["_target_"]
    options = {key: value for key, value in entry.items() if key not in ("name", "_target_")}
    if target == f"{Torch.__module__}.{Torch.__qualname__}":
        chosen = [f"{axis}=torch", f"{axis}._target_={options['target']}"]
        return chosen + [f"+{axis}.{key}={written(value)}" for key, value in options["options"].items()]
    cls = entries(axis).get(name)
    known = cls is not None and target == f"{cls.__module__}.{cls.__qualname__}"
    if known:
        expected = composed(axis, cls)
        return [f"{axis}={name}"] + [
            f"{'+' if isinstance(value, Mapping) else ''}{axis}.{key}={written(value)}"  # a mapping gets keys that are not there
            for key, value in options.items()
            if not same(value, expected[key])
        ]
    shared = config.SHARED[axis]
    given = [f"{'' if key in shared else '+'}{axis}.{key}={written(value)}" for key, value in options.items()]
    return [f"{axis}={config.CUSTOM}", f"{axis}._target_={target}", *given]


def composed(axis: str, cls: Any) -> dict[str, Any]:
    """What an entry's options are when nothing is said of them: the class's defaults, but for shared ones that are set."""
    whole = defaults()
    values = {}
    for field in fields(cls):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        shared = whole[field.name] if field.name in config.SHARED[axis] else None
        values[field.name] = default if shared is None else shared
    return values


@cache
def defaults() -> dict[str, Any]:
    """The configuration's own values."""
    whole = OmegaConf.to_container(OmegaConf.load(Path(config.__file__).parent / "conf" / "config.yaml"), resolve=False)
    assert isinstance(whole, dict)
    return {str(name): value for name, value in whole.items()}


def same(a: Any, b: Any) -> bool:
    """Whether two settings are written alike: 1 and 1.0 make cells of their own."""
    return json.dumps(a, default=str, sort_keys=True) == json.dumps(b, default=str, sort_keys=True)


def written(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{written(str(key))}:{written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    if BARE.fullmatch(text) and text.lower() not in WORDS:
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)  # Hydra unescapes backslashes before a quote, and those at the end
    escaped = re.sub(r"\\+$", lambda found: found[0] * 2, escaped)
    return f"'{escaped}'"
