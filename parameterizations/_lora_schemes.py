"""What LoRA's factors start from: random laws for A over a zero B, and pairs taken out of the weight."""

import math

import torch
from torch import Tensor

from linalg.random import gaussian, orthogonal, uniform

RANDOM = {
    "kaiming": lambda r, n, generator: uniform(r, n, bound=1 / math.sqrt(n), generator=generator),
    "gaussian": lambda r, n, generator: gaussian(r, n, generator=generator) / math.sqrt(r),
    "orthogonal": lambda r, n, generator: orthogonal(r, n, generator),
}
NEED_BASE = ("pissa", "milora")
SPLIT = (*NEED_BASE, "lora_ga")
SCHEMES = (*RANDOM, *SPLIT)
GAMMA = 16.0  # γ of LoRA-GA; the authors' default


def singular_pair(weight: Tensor, rank: int, scale: float, *, principal: bool) -> tuple[Tensor, Tensor]:
    """B (m, r) and A (r, n), scale · B A the part of `weight` (m, n) on its r first singular vectors, or on its r last.

    Either factor has the square root of the part's singular values over the scale (PiSSA, eqs. 2-3).
    """
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    chosen = slice(rank) if principal else slice(len(s) - rank, len(s))
    root = (s[chosen] / scale).sqrt()
    return u[:, chosen] * root, root[:, None] * vt[chosen]


def gradient_pair(gradient: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B (m, r) and A (r, n): left singular vectors r+1 to 2r and right ones 1 to r of the gradient (m, n), times m^¼ / √γ.

    At this point s (B dA + dB A) = -lr s² √m / γ [gradient]_2r (LoRA-GA, theorem 3.1, algorithm 1). Where the gradient has
    fewer than 2r singular vectors, B takes its last r.
    """
    u, _, vt = torch.linalg.svd(gradient, full_matrices=False)
    last = min(2 * rank, len(vt))
    size = gradient.shape[0] ** 0.25 / math.sqrt(GAMMA)
    return size * u[:, last - rank : last], size * vt[:rank]
