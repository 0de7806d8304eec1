"""RunLoRA (arXiv 2312.03415), a relative of Flora: the same layer in several orders of multiplication, those of the adapters."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adapters._run_lora import BACKWARD, FORWARD, multiplications
from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, SEEDS, Evidence, Figure, Finding, claim, typical, worst
from bench.claims.flora import by_all, lies_within, squares
from linalg.random import gaussian, generator

LEDGER = "relatives"
RUN_LORA = "Cherniuk et al., arXiv 2312.03415 (RunLoRA)"


def layer(seed: int, b: int, m: int, n: int, r: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """X (b, m), W (m, n), U (m, r), V (r, n), dY (b, n)."""
    draw = generator(seed, "layer")
    shapes = ((b, m), (m, n), (m, r), (r, n), (b, n))
    return tuple((gaussian(p, q, generator=draw) / q**0.5).to(dtype) for p, q in shapes)


def shape_of(seed: int) -> tuple[int, int, int, int]:
    """b, m, n and r that the seed draws."""
    draw = generator(seed, "shape")
    b, m, n = (int(each) for each in torch.randint(16, 200, (3,), generator=draw))
    return b, m, n, int(torch.randint(1, 16, (), generator=draw))


def disagreement(seed: int, dtype: torch.dtype) -> float:
    """The largest relative difference of an output, or a gradient, of any variant from autograd's through X W + (X U) V."""
    x, w, u, v, dy = layer(seed, *shape_of(seed), dtype)
    leaves = [each.clone().requires_grad_() for each in (u, v, x)]
    y = leaves[2] @ w + (leaves[2] @ leaves[0]) @ leaves[1]
    truth = torch.autograd.grad(y, leaves, dy)
    pairs: list[tuple[Any, Tensor]] = [(forward(x, w, u, v), y.detach()) for forward in FORWARD.values()]
    pairs += [pair for backward in BACKWARD.values() for pair in zip(backward(x, w, u, v, dy), truth, strict=True)]
    return max(float((squares(a - b) / squares(b)).sqrt()) for a, b in pairs)


def flops(function: Callable[..., object], *tensors: Tensor) -> int:
    """Counted by torch: two for each multiplication and addition of a matrix product."""
    with FlopCounterMode(display=False) as counter:
        function(*tensors)
    return int(counter.get_total_flops())


def miscounts(seed: int) -> tuple[float, float]:
    """How far the counts are from 2b (mn + mr + rn) and 2 (mrn + bmn); and wrong choices at b on either side of mn / (m + n)."""
    b, m, n, r = shape_of(seed)
    counted = [flops(forward, *layer(seed, b, m, n, r)[:4]) for forward in FORWARD.values()]
    off = abs(counted[0] - 2 * b * (m * n + m * r + r * n)) + abs(counted[1] - 2 * (m * r * n + b * m * n))
    crossover, wrong = m * n / (m + n), 0
    for each in (int(crossover) - 1, int(crossover) + 2):
        first, second = (flops(forward, *layer(seed, each, m, n, r)[:4]) for forward in FORWARD.values())
        wrong += (second < first) != (each > crossover)
    return off, wrong


@claim(
    "C9",
    "All of RunLoRA's orders of multiplication give the same loss and gradients, and W + U V first costs fewer operations "
    "exactly for batches b > mn / (m + n).",
    source=f"{RUN_LORA}, forward and backward variants as its code has them; the crossover is the dossier's (sections 3 and C9)",
    matched="two forward and five backward orders, those of adapters.runlora, against autograd; b, m, n of 16 to 200, r of 1 to 15",
)
def orders_agree(evidence: Evidence) -> Finding:
    exact = [
        worst(evidence, "relative difference from autograd, float64", [disagreement(seed, torch.float64) for seed in SEEDS]),
        worst(evidence, "relative difference from autograd, float32", [disagreement(seed, torch.float32) for seed in SEEDS]),
    ]
    off, wrong = zip(*map(miscounts, SEEDS), strict=True)
    counts = [worst(evidence, "counted operations off the formulas", off), worst(evidence, "wrong choices beside b*", wrong)]
    found = [lies_within(exact[0], 0, 1e-13), lies_within(exact[1], 0, 1e-5)] + [lies_within(each, 0, 0) for each in counts]
    return by_all(found, [*exact, *counts], "adapters.runlora trains a model's layers in these orders.")


def cheapest(b: int, m: int, n: int, r: int) -> tuple[Callable[..., Tensor], Callable[..., object]]:
    """The orders with the fewest operations."""
    forward = min(FORWARD, key=lambda name: multiplications(name, b, m, n, r))
    backward = min(BACKWARD, key=lambda name: multiplications(name, b, m, n, r))
    return FORWARD[forward], BACKWARD[backward]


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def speed(seed: int, b: int, m: int, n: int, r: int, repeats: int = 5) -> float:
    """Seconds of a pass forward and back in the cheapest order over those of autograd, medians of interleaved repeats."""
    x, w, u, v, dy = layer(seed, b, m, n, r, torch.float32)
    forward, backward = cheapest(b, m, n, r)
    leaves = [each.clone().requires_grad_() for each in (u, v, x)]

    def by_autograd() -> object:
        return torch.autograd.grad(leaves[2] @ w + (leaves[2] @ leaves[0]) @ leaves[1], leaves, dy)

    def by_count() -> object:
        return forward(x, w, u, v), backward(x, w, u, v, dy)

    by_autograd(), by_count()
    taken = np.array([(seconds(by_count), seconds(by_autograd)) for _ in range(repeats)])
    ours, theirs = np.median(taken, axis=0)
    return float(ours / theirs)


LAYERS = ((2048, 256, 256, 8), (2048, 256, 256, 64), (512, 512, 512, 32))


@claim(
    "C9/speed",
    "In the order with the fewest operations a LoRA layer's pass forward and back takes at least a tenth less time.",
    source=f"{RUN_LORA}: up to 17 % (first version), 10 to 28 % (ACL), of a training step, from its abstracts",
    matched="the same float32 layer on this machine's CPU, one thread; autograd goes through X W + (X U) V and keeps X U",
)
def orders_by_count_are_faster(evidence: Evidence) -> Finding:
    figures = []
    for b, m, n, r in LAYERS:
        name = f"seconds over autograd's, b = {b}, {m} x {n}, r = {r}"
        figures.append(typical(evidence, name, [speed(seed, b, m, n, r) for seed in SEEDS]))
    return of_speeds(figures)


def of_speeds(figures: Sequence[Figure]) -> Finding:
    """It holds where every interval lies at 0.9 or below, with a condition where some do."""
    found = [lies_within(figure, 0, 0.9) for figure in figures]
    verdict = HOLDS if all(found) else CONDITION if True in found else INCONCLUSIVE if None in found else FAILS
    return Finding(verdict, "One layer in isolation; a training step has more in it.", tuple(figures))
