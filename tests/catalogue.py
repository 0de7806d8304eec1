"""What the packages hold, found as the suite finds it: a file dropped into a folder is under test at once."""

import pkgutil
from dataclasses import fields
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch

import problems
from linalg import InputError
from problems import FineTuning, Instance, Problem

SMALL = {"rank": 2, "hidden": 4, "embedding": 5, "interval": 3, "depth": 3}
SMALL |= {"shape": (12, 9), "ranks": (1, 3, 0), "tasks": 3, "clients": 3, "domains": 2}  # of problems


def members(package: ModuleType, base: type) -> dict[str, list[type]]:
    """Subclasses of `base` defined in each public module of `package`, by the module's name."""
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    modules = {name: import_module(f"{package.__name__}.{name}") for name in names}
    return {
        name: [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
        ]
        for name, module in modules.items()
    }


def matrix_problems() -> dict[str, list[type]]:
    """The problems over matrices: all but those that live in models."""
    return {name: found for name, found in members(problems, Problem).items() if not issubclass(found[0], FineTuning)}


def counted(formula: str, entry: Any, **sizes: int) -> Any:
    """An entry's `size` or `memory` in numbers, of m, n, r and what else it names beside the entry's own hyperparameters."""
    names = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return eval(formula, {"__builtins__": {"min": min, "max": max}}, names | sizes)


def small(cls: type, **options: Any) -> Any:
    """An instance of the dataclass with small sizes wherever it has the field."""
    return cls(**{name: value for name, value in (SMALL | options).items() if name in {field.name for field in fields(cls)}})


def drawn(problem: Problem, seed: int = 0, dtype: torch.dtype | None = torch.float64) -> Instance:
    """The instance of a seed; the test is skipped where it needs a package that is not installed."""
    try:
        return problem.draw(seed, dtype=dtype)
    except InputError as error:
        if "needs the package" in str(error):
            pytest.skip(str(error))
        raise
