"""LoKr: the Kronecker product of a small matrix and a low-rank one."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check, check_choice, check_integer
from linalg.random import uniform
from parameterizations._parameterization import Parameterization


@dataclass(frozen=True)
class LoKr(Parameterization):
    """C ⊗ (B A), scaled by alpha / r, with C (a, c), B (b, r) and A (r, d) for a weight (ab, cd); A starts at zero.

    Args:
        rank: r. From half of max(b, d) on the second matrix is full and starts at zero itself.
        alpha: None for r, so that the scale is 1.
        factor: how m splits into a <= b, and n into c <= d: a is `factor` where that divides m, else the largest divisor
            below it, up to √m; -1 for the largest up to √m. A prime side has a = 1.
        decompose_both: C is a product of rank r, too, where r < max(a, c) / 2.

    As a chain: with C = C1 C2 and D = D1 D2, each at its narrowest, C ⊗ D = (C1 ⊗ D1) (C2 ⊗ D2). C and B start uniform
    within 1 / √columns, as in LyCORIS; PEFT has C at zero instead. LyCORIS ignores alpha where C and D are both full; here,
    as in PEFT, it holds.
    """

    reference: ClassVar[str] = "Yeh et al. 2024, arXiv 2309.14859"
    size: ClassVar[str] = (
        "(r * (a + c) if decompose_both and r < max(a, c) / 2 else a * c) + (r * (b + d) if r < max(b, d) / 2 else b * d)"
    )

    rank: int = 8
    alpha: float | None = None
    factor: int = -1
    decompose_both: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("factor", self.factor, least=-1)
        check(self.factor != 0, "factor", self.factor, "-1 or an integer of at least 1")
        check_choice("decompose_both", self.decompose_both, (True, False))

    def initial(self, shape, generator, base, gradient):
        (a, b), (c, d) = (split(side, self.factor) for side in shape)

        def drawn(p: int, q: int) -> Tensor:
            return uniform(p, q, bound=1 / math.sqrt(q), generator=generator)

        if self.decompose_both and self.rank < max(a, c) / 2:
            params = {"first_left": drawn(a, self.rank), "first_right": drawn(self.rank, c)}
        else:
            params = {"first": drawn(a, c)}
        if self.rank < max(b, d) / 2:
            zero = torch.zeros(self.rank, d, dtype=torch.float64)
            return params | {"second_left": drawn(b, self.rank), "second_right": zero}
        return params | {"second": torch.zeros(b, d, dtype=torch.float64)}

    def factors(self, params):
        (left_1, right_1), (left_2, right_2) = (_narrowest(params, name) for name in ("first", "second"))
        return kronecker(left_1, left_2), kronecker(right_1, right_2)

    def reach(self, shape):
        (a, b), (c, d) = (split(side, self.factor) for side in shape)
        first = min(a, c, self.rank) if self.decompose_both and self.rank < max(a, c) / 2 else min(a, c)
        return first * min(b, d, self.rank if self.rank < max(b, d) / 2 else b)


def split(side: int, factor: int) -> tuple[int, int]:
    """(p, q) with p q = side and p <= q, by the rule of LyCORIS."""
    root = math.isqrt(side)
    largest = factor if factor > 0 and side % factor == 0 else root if factor < 0 else min(factor, root)
    p = next(p for p in range(largest, 0, -1) if side % p == 0)
    return min(p, side // p), max(p, side // p)


def kronecker(first: Tensor, second: Tensor) -> Tensor:
    """(..., p s, q t) of (..., p, q) and (..., s, t)."""
    product = first[..., :, None, :, None] * second[..., None, :, None, :]
    return product.flatten(-4, -3).flatten(-2)


def _narrowest(params: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """A product of two, no wider inside than outside, equal to the matrix of that name, which may be stored as a product."""
    if name not in params:
        left, right = params[f"{name}_left"], params[f"{name}_right"]
        if left.shape[-1] <= min(left.shape[-2], right.shape[-1]):
            return left, right
        matrix = left @ right
    else:
        matrix = params[name]
    rows, columns = matrix.shape[-2:]
    eye = torch.eye(min(rows, columns), dtype=matrix.dtype, device=matrix.device)
    return (eye, matrix) if rows < columns else (matrix, eye)
