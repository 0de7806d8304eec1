"""Deep LoRA: the deep factorization trained inside the small invariant subspace that its first gradient reveals."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from linalg import InputError
from linalg.checks import check, check_integer, check_number
from linalg.random import gaussian
from parameterizations._parameterization import Gradient, Parameterization
from parameterizations.deep import Deep

LARGE = 512  # sides from which on a few singular vectors come sooner without the others


@dataclass(frozen=True)
class DeepLoRA(Parameterization):
    """left C_L ... C_1 right: the compressed network of `deep` with the same generator, depth and scale.

    Args:
        rank: 2r̂, the width of the compressed factors: even, and exact for targets of rank up to r̂ = rank / 2.
        depth: L, how many compressed factors.
        scale: ε, the compressed factors start at ε I.
        outer_rate: γ, multiplies the learning rate of left and right; 0 freezes them. The authors' 0.01 on targets of
            spectral norm 63 is about 0.16 at norm 1 (for depth 3 the trajectory depends on γ σ1^(2/3)). `size` is that with γ > 0.

    From the first gradient G = dL/dW and the network's start f(0) = ε^L Q, right spans [V_r̂(G), Qᵀ U_r̂(G)]; the
    top-r̂ singular vectors are exactly those that the paper's null space route finds. For a square weight left = Q rightᵀ.
    For a tall one the range of Q does not hold U_r̂(G), so left gains those r̂ columns and C_L that many zero rows;
    a wide one is the transpose. Fully observed, gradient descent on C alone then stays within ε^L √(min(m, n) - 2r̂) of
    the full network, rectangular shapes included.
    """

    reference: ClassVar[str] = "Yaras et al. 2024, arXiv 2406.04112"
    size: ClassVar[str] = "r * (min(m, n) + (depth - 1) * r) + (max(m, n) + r) * (r if m == n else min(3 * r // 2, max(m, n)))"

    rank: int = 8
    depth: int = 3
    scale: float = 0.1
    outer_rate: float = 0.3

    def __post_init__(self) -> None:
        check_integer("rank", self.rank)
        check(self.rank % 2 == 0, "rank", self.rank, "even for Deep LoRA: it is twice the rank that is to be found")
        check_number("outer_rate", self.outer_rate, least=0)
        Deep(self.depth, self.scale)

    def initial(self, shape, generator, base, gradient: Gradient | None):
        if gradient is None:
            raise InputError("gradient=None: Deep LoRA starts from the first gradient; pass a function W -> dL/dW to init()")
        deep = Deep(self.depth, self.scale)
        start = deep.weight(deep.initial(shape, generator, base, None)).update()
        first = gradient(start if base is None else base.double().cpu() + start).double().cpu()
        q = start / self.scale**self.depth
        cores = [torch.eye(self.rank, dtype=torch.float64)] * self.depth
        if shape[0] >= shape[1]:
            left, cores[-1], right = _compress(first, q, self.rank // 2)
        else:
            right, first_core, left = _compress(first.mT, q.mT, self.rank // 2)
            cores[0] = first_core.mT
        inner = {f"core_{layer}": self.scale * core for layer, core in enumerate(cores, start=1)}
        return {"left": left, "right": right.mT.contiguous()} | inner

    def factors(self, params):
        return params["left"], *(params[f"core_{layer}"] for layer in range(self.depth, 0, -1)), params["right"]

    @property
    def frozen(self):
        return ("base",) if self.outer_rate else ("base", "left", "right")

    @property
    def rates(self):
        return {"left": self.outer_rate, "right": self.outer_rate} if self.outer_rate else {}


def _compress(gradient: Tensor, q: Tensor, half: int) -> tuple[Tensor, Tensor, Tensor]:
    """The subspaces for a gradient (m, n) with m >= n and q (m, n) with orthonormal columns.

    Returns left (m, p), core (p, 2 half) and right (n, 2 half): left and right with orthonormal columns, left @ core = q @ right.
    p is 2 half for a square gradient, min(3 half, m) for a tall one.
    """
    u, v = _leading(gradient, half)
    right = torch.linalg.qr(torch.cat([v, q.mT @ u], dim=1)).Q
    image = q @ right
    if gradient.shape[0] == gradient.shape[1]:
        return image, torch.eye(2 * half, dtype=gradient.dtype), right
    left = torch.linalg.qr(torch.cat([image, u], dim=1)).Q  # its first columns are the image's, up to sign
    return left, left.mT @ image, right


def _leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first left and right singular vectors (m, count) and (n, count); of a large matrix by Lanczos' method, to rounding."""
    if min(matrix.shape) < LARGE or 16 * count > min(matrix.shape) or not (matrix.any() and matrix.isfinite().all()):
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :count], vt[:count].mT
    start = gaussian(min(matrix.shape), generator=torch.Generator().manual_seed(0)).numpy()  # of the search, the same every time
    u, values, vt = svds(matrix.numpy(), k=count, v0=start)
    order = values.argsort()[::-1].copy()
    return torch.from_numpy(u[:, order].copy()), torch.from_numpy(vt[order].copy()).mT
