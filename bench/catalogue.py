"""What there is on each axis, found by walking the three packages: a file in the folder is an entry."""

import importlib
import inspect
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
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
    "clients": "clients, each with a weight of its own",
    "tasks": "tasks that come one after the other",
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


def partners() -> Iterator[tuple[str, list[str], dict[str, list[str]]]]:
    """For every optimizer that does not train all parameterizations: its name, those that it trains, and the others by reason;
    all at their default settings."""
    for name, optimizer in entries("optimizer").items():
        accepted: list[str] = []
        refused: dict[str, list[str]] = defaultdict(list)
        for other, parameterization in entries("parameterization").items():
            reason = optimizer().supports(parameterization())
            (refused[reason] if reason else accepted).append(other)
        if refused:
            yield name, accepted, dict(refused)


def needs() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """For every entry that needs something of a problem: its axis and name, what it needs, in words, and which problems have it."""
    for axis in ("parameterization", "optimizer"):
        for name, cls in entries(axis).items():
            needed = cls().needs
            if needed:
                fitting = [other for other, problem in entries("problem").items() if set(needed) <= set(problem().provides)]
                yield axis, name, [NEEDS[need] for need in needed], fitting


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
    if reason := problem.refuses(parameterization, optimizer):
        pair = f"parameterization={name_of(parameterization)} optimizer={name_of(optimizer)}"
        raise InputError(f"{pair} cannot run on problem={name_of(problem)}: {reason}")
    if "clients" in parameterization.needs:
        has, needed = getattr(parameterization, "weights", problem.client_weights), problem.client_weights
        if has != needed:
            clients = f"the weights of a client of problem={name_of(problem)}"
            raise InputError(f"parameterization.weights={has}: must be {needed}, {clients}")
