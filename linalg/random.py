"""Seeded random matrices. Everything is drawn on the CPU in float64 and then cast, so that a seed means the same
numbers in every precision and on every device."""

import hashlib

import torch
from torch import Tensor


def generator(seed: int, stream: str) -> torch.Generator:
    """A generator of its own for each (seed, name of the stream): drawing more from one never moves another."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def gaussian(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    """Entries i.i.d. N(0, 1), float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniform(*shape: int, bound: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Entries i.i.d. U[-bound, bound], float64."""
    return (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1) * bound


def orthogonal(m: int, n: int, generator: torch.Generator | None = None) -> Tensor:
    """(m, n) with orthonormal columns (m >= n) or rows (m < n), uniform in the Haar measure, float64."""
    q, r = torch.linalg.qr(gaussian(max(m, n), min(m, n), generator=generator))
    q = q * r.diagonal().sgn()  # QR leaves the signs to LAPACK; fixing them makes the law uniform
    return q if m >= n else q.mT.contiguous()


def with_spectrum(m: int, n: int, values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(m, n) with the given singular values (k,) and Haar-random singular vectors, float64."""
    left = orthogonal(m, len(values), generator)
    right = orthogonal(n, len(values), generator)
    return (left * values.double()) @ right.mT
