"""A parameterization by its name and back again: what stands in a configuration for a method inside another."""

import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from linalg import InputError
from linalg.checks import check, check_choice
from parameterizations._parameterization import Parameterization


def class_named(key: str, name: str) -> type[Parameterization]:
    """The class of a module here, or one by its dotted name.

    Raises:
        InputError: where there is none; `key` is what the user gave the name for.
    """
    package, _, cls = name.rpartition(".")
    if not package:
        modules = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
        check_choice(key, name, [module for module in modules if not module.startswith("_")])
        package, cls = f"{__package__}.{name}", ""
    try:
        members = vars(import_module(package))
    except ImportError as error:
        raise InputError(f"{key}={name!r}: must be a class that can be imported ({error})") from error
    found = [members.get(cls)] if cls else [member for member in members.values() if getattr(member, "__module__", "") == package]
    methods = [member for member in found if isinstance(member, type) and issubclass(member, Parameterization)]
    check(len(methods) == 1, key, name, "the dotted name of a Parameterization")
    return methods[0]


def described(method: Parameterization | str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A name that `class_named` finds, and the hyperparameters that are not at their defaults.

    Args:
        options: of a method that is given by its name; a method itself has its own.
    """
    if isinstance(method, str):
        return method, dict(options)
    check(not options, "options", dict(options), "empty beside a method itself, which has its own")
    cls = type(method)
    package, _, module = cls.__module__.rpartition(".")
    given = {}
    for entry in fields(method):
        value = getattr(method, entry.name)
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if value != default:
            given[entry.name] = str(value) if isinstance(value, str) else value
    return module if package == __package__ else f"{cls.__module__}.{cls.__qualname__}", given


def built(key: str, name: str, options: Mapping[str, Any], **shared: Any) -> Parameterization:
    """The method of that name; `shared` hyperparameters are left out where it has no such.

    Raises:
        InputError: where it has none of an option's name.
    """
    cls = class_named(key, name)
    known = [entry.name for entry in fields(cls)]
    free = [option for option in known if option not in shared]
    for option in options:
        check(option in free, "options", dict(options), f"among the options of {name}: {', '.join(free) or 'it has none'}")
    return cls(**{option: value for option, value in shared.items() if option in known}, **options)
