"""What there is on each axis, found by walking the three packages: a file in the folder is an entry."""

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from linalg import InputError
from optimizers import Optimizer, Torch
from parameterizations import Parameterization
from problems import Problem

AXES: dict[str, type[Problem] | type[Parameterization] | type[Optimizer]] = {
    "problem": Problem,
    "parameterization": Parameterization,
    "optimizer": Optimizer,
}
PACKAGES = {"problem": "problems", "parameterization": "parameterizations", "optimizer": "optimizers"}

NEEDS = {
    "base": "a pretrained weight",
    "layers": "a stack of weights",
    "quadratic": "a loss that is quadratic in the weight",
    "target": "a matrix to approximate, all of it observed",
}


@cache
def entries(axis: str) -> dict[str, Any]:
    """The dataclasses of an axis by name, the name being the file's.

    Raises:
        TypeError: where a file holds no dataclass of the axis, or more than one.
    """
    package = importlib.import_module(PACKAGES[axis])
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("_"):
            continue
        path = f"{PACKAGES[axis]}.{module.name}"
        members = vars(importlib.import_module(path)).values()
        own = [m for m in members if inspect.isclass(m) and issubclass(m, AXES[axis]) and m.__module__ == path and is_dataclass(m)]
        if len(own) != 1:
            raise TypeError(f"{path} must hold one {AXES[axis].__name__} dataclass, but holds {len(own)}")
        found[module.name] = own[0]
    return dict(sorted(found.items()))


def name_of(entry: Any) -> str:
    """The name that tables and folders use: the file's; a torch.optim class's with `torch_` before it; else the class's."""
    cls = type(entry)
    if cls is Torch:
        return f"torch_{entry.target.rpartition('.')[2].lower()}"
    names = {candidate: name for axis in AXES for name, candidate in entries(axis).items()}
    return names.get(cls, cls.__name__)


def summary(cls: type) -> str:
    """The first line of the docstring."""
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def refusals() -> list[tuple[str, str, str]]:
    """(optimizer, parameterization, reason) for every pair that does not go together at its default settings."""
    found = []
    for optimizer_name, optimizer in entries("optimizer").items():
        for name, parameterization in entries("parameterization").items():
            reason = optimizer().supports(parameterization())
            if reason:
                found.append((optimizer_name, name, reason))
    return found


def check_cell(problem: Problem, optimizer: Optimizer, parameterization: Parameterization) -> None:
    """Raise `InputError` with the reason where the three do not go together."""
    reason = optimizer.supports(parameterization)
    if reason:
        raise InputError(f"optimizer={name_of(optimizer)} cannot train parameterization={name_of(parameterization)}: {reason}")
    entry: Optimizer | Parameterization
    for axis, entry in (("parameterization", parameterization), ("optimizer", optimizer)):
        missing = [NEEDS[need] for need in entry.needs if need not in problem.provides]
        if missing:
            raise InputError(f"{axis}={name_of(entry)} cannot run on problem={name_of(problem)}: it needs {' and '.join(missing)}")
