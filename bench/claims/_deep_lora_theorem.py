"""Deep LoRA's theorem measured: the deep network and its compression side by side, seeds as lanes, in float64.

The theorem: for an orthogonal start ε Q_l and a target Φ of rank r, every factor of a square deep network keeps, all along
gradient descent, a block of d - 2r directions on which it is ρ_l times a fixed rotation: W_l V_2 = ρ_l U_2, V_2 of the next the U_2
of this one.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from bench.claims._claim import SEEDS
from bench.claims._deep_lora import TruncatedGaussian
from bench.engine import Block, Settings
from optimizers import SGD, Optimizer
from parameterizations import Deep, DeepLoRA, Parameterization
from problems import Instance, MatrixFactorization, Problem

SIZE, RANK = 60, 3
TARGET = MatrixFactorization(shape=(SIZE, SIZE), kind="low_rank", rank=RANK, spectrum=(1.0, 0.75, 0.5))
ROUNDING = 1e-12  # of ‖f‖, taken off distances between runs


def drawn(problem: Problem, seeds: Sequence[int]) -> list[Instance]:
    return [problem.draw(seed, dtype=torch.float64) for seed in seeds]


def begin(instances: Sequence[Instance], method: Parameterization, rule: Optimizer, lr: float, seeds: Sequence[int]) -> Block:
    """One lane a seed; the deep and the compressed network of a seed start from the same factors."""
    return Block(instances, method, rule, seeds, [lr], Settings(steps=1, dtype=torch.float64, probes="none"))


def advance(step: int, *blocks: Block) -> None:
    for each in blocks:
        each.find_gradients(step)
        each.step()


def worst_along(steps: int, blocks: Sequence[Block], measure: Callable[[int], Tensor], every: int = 1) -> Tensor:
    """(seeds,) the largest of a measure while the blocks take their steps; looked at before every so many, and after the last."""
    found = []
    for step in range(steps + 1):
        if step % every == 0:
            found.append(measure(step))
        if step < steps:
            advance(step, *blocks)
    return torch.stack(found).amax(0)


def dense(each: Block) -> Tensor:
    """(seeds, m, n) the weight."""
    with torch.no_grad():
        return each.weight().dense()[:, 0]


def factors_of(each: Block, depth: int) -> list[Tensor]:
    """(seeds, m, n) W_1, W_2, ..."""
    return [each.trainable[f"factor_{layer}"][:, 0] for layer in range(1, depth + 1)]


def target_of(each: Block) -> Tensor:
    assert each.instance.truth is not None
    return each.instance.truth[:, 0]


def norm(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices)


def spectral_norm(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices, 2)


@dataclass(frozen=True)
class Strayed:
    """(seeds,) each: ‖f - f_C‖ over ε^L √(d - 2r̂), at the start and at most, and the relative error of f at the end."""

    first: Tensor
    largest: Tensor
    left: Tensor


def strayed(depth: int, scale: float, half: int, decay: float, lr: float, steps: int, seeds: Sequence[int] = SEEDS) -> Strayed:
    """Both networks fully observed, the outer factors of the compressed one of width 2r̂ = 2 `half` frozen."""
    instances, rule = drawn(TARGET, seeds), SGD(weight_decay=decay)
    full = begin(instances, Deep(depth, scale), rule, lr, seeds)
    small = begin(instances, DeepLoRA(2 * half, depth, scale, 0.0), rule, lr, seeds)
    bound = scale**depth * math.sqrt(SIZE - 2 * half)

    def gap(step: int) -> Tensor:
        f = dense(full)
        return (norm(f - dense(small)) - ROUNDING * norm(f)) / bound

    first, target = gap(0), target_of(full)
    largest = worst_along(steps, (full, small), gap)
    return Strayed(first, largest, norm(dense(full) - target) / norm(target))


def theorem_basis(factors: Sequence[Tensor], target: Tensor) -> Tensor:
    """(seeds, d, d - 2r) V_2: the null space of Ψ and of Ψᵀ W_1, with Ψ = (W_L ... W_2)ᵀ Φ at the start."""
    upper = factors[-1]
    for factor in reversed(factors[1:-1]):
        upper = upper @ factor
    psi = upper.mT @ target
    psi = psi / norm(psi)[:, None, None]
    both = torch.cat([psi, psi.mT @ factors[0] / spectral_norm(factors[0])[:, None, None]], dim=-2)
    return torch.linalg.svd(both).Vh[:, 2 * RANK :].mT


def authors_basis(first: Tensor, gradient: Tensor, scale: float, half: int) -> Tensor:
    """(seeds, d, 2r̂) what the authors' code compresses to, by null spaces, from W_1 and the loss's gradient for it."""
    u, _, vh = torch.linalg.svd(gradient)
    image, rest = first.mT @ u[:, :, half:] / scale, vh[:, half:].mT
    null = torch.linalg.svd(torch.cat([image, -rest], dim=-1)).Vh[:, first.shape[-1] :].mT
    common = image @ null[:, : image.shape[-1]]
    return torch.linalg.svd(common).U[:, :, -2 * half :]


@dataclass(frozen=True)
class Kept:
    """(seeds,) each: the largest ‖W_l V_2 - ρ_l U_2‖₂ over all layers, the sine of the angle between V_1 and the weight's first r
    right singular vectors at the end, and the relative error there."""

    error: Tensor
    sine: Tensor
    left: Tensor


def kept_blocks(
    depth: int, scale: float, rule: Optimizer, lr: float, steps: int, *, follow: bool = True, seeds: Sequence[int] = SEEDS
) -> Kept:
    """How well every factor keeps its block, looked at on every tenth step.

    Args:
        follow: whether ρ_l is what the theorem's recursion says; else the multiple of U_2 that is nearest.
    """
    full = begin(drawn(TARGET, seeds), Deep(depth, scale), rule, lr, seeds)
    target = target_of(full)
    images = [theorem_basis(factors_of(full, depth), target)]
    for factor in factors_of(full, depth):
        images.append(factor @ images[-1] / scale)
    law = list(islice(rho_recursion(depth, scale, rule, lr), steps + 1))

    def distance(step: int) -> Tensor:
        errors, rho = [], law[step]
        for factor, block, image, size in zip(factors_of(full, depth), images, images[1:], rho, strict=False):
            found = factor @ block
            nearest = (found * image).sum((-2, -1), keepdim=True) / image.shape[-1]
            errors.append(spectral_norm(found - (size if follow else nearest) * image))
        return torch.stack(errors).amax(0)

    error = worst_along(steps, [full], distance, every=10)
    weight = dense(full)
    first = torch.linalg.svd(weight).Vh[:, :RANK]
    return Kept(error, spectral_norm(first @ images[0]), norm(weight - target) / norm(target))


def rho_recursion(depth: int, scale: float, rule: Optimizer, lr: float) -> Iterator[list[float]]:
    """ρ_1, ..., ρ_L from step to step: ρ_l ← ρ_l - η v_l, v_l ← μ v_l + ρ_l (λ + Π_{k≠l} ρ_k²)."""
    decay, momentum = getattr(rule, "weight_decay", 0.0), getattr(rule, "momentum", 0.0)
    rho, velocity = [scale] * depth, [0.0] * depth
    while True:
        yield list(rho)
        slopes = [value * (decay + math.prod(other**2 for k, other in enumerate(rho) if k != at)) for at, value in enumerate(rho)]
        velocity = [momentum * v + slope for v, slope in zip(velocity, slopes, strict=True)]
        rho = [value - lr * v for value, v in zip(rho, velocity, strict=True)]


@dataclass(frozen=True)
class Bases:
    """(seeds,) each: ‖P - P'‖₂ of the projectors onto our right factor's rows and onto the authors' basis, and ‖(I - P) V_1‖₂."""

    apart: Tensor
    missing: Tensor


def bases(depth: int, scale: float, half: int, seeds: Sequence[int] = SEEDS) -> Bases:
    """The subspace that `deep_lora` compresses to by a QR decomposition, beside the authors' and the theorem's."""
    instances = drawn(TARGET, seeds)
    full = begin(instances, Deep(depth, scale), SGD(), 0.1, seeds)
    small = begin(instances, DeepLoRA(2 * half, depth, scale), SGD(), 0.1, seeds)
    full.find_gradients(0)
    factors = factors_of(full, depth)
    theirs = authors_basis(factors[0], full.grads["factor_1"][:, 0], scale, half)
    ours = small.trainable["right"][:, 0].mT
    projector, rest = ours @ ours.mT, theorem_basis(factors, target_of(full))
    one = torch.eye(SIZE, dtype=torch.float64)
    return Bases(spectral_norm(projector - theirs @ theirs.mT), spectral_norm((one - projector) @ (one - rest @ rest.mT)))


def scaled_difference(problem: TruncatedGaussian, depth: int, c: float, steps: int, seeds: Sequence[int] = SEEDS) -> Tensor:
    """(seeds,) the largest difference of the relative error between a completion run and that of c times the target."""
    scale, lr, outer = 0.1, 0.2, 0.5
    plain = drawn(problem, seeds)
    fields = ("hidden", "values", "validation_values", "test_values")
    larger = [replace(each, **{name: c * getattr(each, name) for name in fields}) for each in plain]
    width, root = 2 * problem.rank, c ** (1 / depth)
    runs = (
        begin(plain, DeepLoRA(width, depth, scale, outer), SGD(), lr, seeds),
        begin(larger, DeepLoRA(width, depth, scale * root, outer / root**2), SGD(), lr * root**2 / c**2, seeds),
    )

    def difference(step: int) -> Tensor:
        errors = [each.instance.measure(each.weight())["relative_error"][:, 0] for each in runs]
        return (errors[0] - errors[1]).abs()

    return worst_along(steps, runs, difference)


def trajectory_gap(
    problem: TruncatedGaussian, scale: float, outer: float, lr: float, steps: int, seeds: Sequence[int] = SEEDS
) -> Tensor:
    """(seeds,) the largest ‖f - f_C‖ / ‖Φ‖ along a completion run in which the outer factors move."""
    instances = drawn(problem, seeds)
    full = begin(instances, Deep(3, scale), SGD(), lr, seeds)
    small = begin(instances, DeepLoRA(2 * problem.rank, 3, scale, outer), SGD(), lr, seeds)
    return worst_along(steps, (full, small), lambda step: norm(dense(full) - dense(small)) / norm(target_of(full)))


@dataclass(frozen=True)
class Times:
    """Seconds by the clock: a step of either network; the start of the compressed one, the decompositions of the first gradient
    included."""

    full: float
    small: float
    setup: float


def step_times(problem: TruncatedGaussian, seed: int, repeats: int = 7, steps: int = 3) -> Times:
    """Medians over repeats in which the networks take turns; the compressed one takes ten times as many steps in its turn."""
    instances = drawn(problem, [seed])
    blocks = [begin(instances, Deep(3), SGD(), 0.1, [seed])]
    started = time.perf_counter()
    blocks.append(begin(instances, DeepLoRA(2 * problem.rank, 3), SGD(), 0.1, [seed]))
    setup = time.perf_counter() - started
    taken: list[list[float]] = [[], []]
    for repeat in range(repeats + 1):
        for own, each, count in zip(taken, blocks, (steps, 10 * steps), strict=True):
            started = time.perf_counter()
            for step in range(count):
                advance(step, each)
            if repeat:  # the first warms up
                own.append((time.perf_counter() - started) / count)
    full, small = (float(np.median(own)) for own in taken)
    return Times(full, small, setup)
