"""Checks on what a user passes in: one line that names the key, the value and what is allowed."""

from collections.abc import Collection
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """A value that the user gave and can mend; the command line prints it as one line and exits with 2."""


def check(ok: bool, key: str, value: Any, allowed: str) -> None:
    """Raise `InputError` as `key=value: must be allowed` unless `ok`."""
    if not ok:
        raise InputError(f"{key}={value!r}: must be {allowed}")


def check_choice(key: str, value: Any, choices: Collection[Any]) -> None:
    check(any(value == choice for choice in choices), key, value, "one of " + ", ".join(map(str, choices)))


def check_integer(key: str, value: Any, least: int = 1) -> None:
    integral = isinstance(value, Integral) and not isinstance(value, bool)
    check(integral and value >= least, key, value, f"an integer of at least {least}")


def check_number(key: str, value: Any, above: float | None = None, least: float | None = None, most: float = float("inf")) -> None:
    """Finite real number, greater than `above` or at least `least`, and at most `most`."""
    bounds = [f"above {above:g}"] if above is not None else [f"at least {least:g}"] if least is not None else []
    bounds += [f"at most {most:g}"] if most != float("inf") else []
    ok = isinstance(value, Real) and not isinstance(value, bool) and abs(float(value)) < float("inf")
    ok = ok and (above is None or value > above) and (least is None or value >= least) and value <= most
    check(ok, key, value, " ".join(["a number", " and ".join(bounds)]).strip())


def two_decays(key: str, values: Any, *, corrected: bool = True) -> tuple[float, float]:
    """Decay rates of two moving averages as a tuple; below 1 where a bias correction divides by 1 - rate."""
    check(isinstance(values, Collection) and len(values) == 2, key, values, "two numbers")
    first, second = values
    for value in (first, second):
        check_number(key, value, least=0, most=1)
        check(value < 1 or not corrected, key, values, "below 1: the bias correction divides by 1 - beta")
    return first, second


def check_shape(key: str, value: Any) -> None:
    ok = isinstance(value, tuple) and len(value) == 2
    ok = ok and all(isinstance(side, Integral) and not isinstance(side, bool) and int(side) >= 1 for side in value)
    check(ok, key, value, "two positive integers, rows then columns")


def check_rank(key: str, value: Any, shape: tuple[int, int]) -> None:
    check_integer(key, value)
    check(value <= min(shape), key, value, f"at most {min(shape)}, the smaller side of the {shape[0]} x {shape[1]} matrix")
