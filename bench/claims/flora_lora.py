"""Flora (arXiv 2402.03293), its theorem: LoRA as a random projection of gradients, and projections drawn again beside it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.claims._claim import (
    CONDITION,
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    SEEDS,
    Evidence,
    Figure,
    Finding,
    against,
    by_bound,
    claim,
    one,
    typical,
)
from bench.claims.flora import DOSSIER, PAPER, RANK, SIDE, SQUARE, at_the_same_rate, by_ranges, initial, squares, target_of
from bench.engine import Block, Settings
from bench.study import Study
from linalg.random import gaussian, generator
from optimizers import SGD
from parameterizations import LoRA, LoRAFA, Parameterization

LEDGER = "flora"


def update_of(method: Parameterization, rates: Sequence[float], steps: int) -> Tensor:
    """(k, K, 64, 64) what SGD makes of a method on a Gaussian target with σ1 = 1."""
    drawn = [SQUARE.draw(seed, dtype=torch.float64) for seed in SEEDS]
    block = Block(drawn, method, SGD(), list(SEEDS), rates, Settings(steps, dtype=torch.float64, probes="none"))
    block.run()
    return block.weight().update()


def difference(rates: Sequence[float], steps: int, size: float = 1.0) -> Tensor:
    """(k, K) ‖LoRA's update - that with A frozen‖ over the latter, both from the same A with entries N(0, size²/r).

    That A at a rate of η/size² trains as one of N(0, 1/r) with a scale of size² at a rate of η/size⁴, which is how it is run.
    """
    slow, alpha = [rate / size**4 for rate in rates], RANK * size**2
    moving, frozen = (update_of(kind(RANK, alpha=alpha, init="gaussian"), slow, steps) for kind in (LoRA, LoRAFA))
    return (squares(moving - frozen) / squares(frozen)).sqrt()


def slopes(evidence: Evidence, values: Sequence[Tensor], at: Sequence[float], name: str) -> list[Figure]:
    """Between neighbours the exponent with which values (k,) change."""
    pairs = zip(values, values[1:], at, at[1:], strict=False)
    return [typical(evidence, f"{name}, {x:g} to {y:g}", (first / second).log() / math.log(x / y)) for first, second, x, y in pairs]


@claim(
    "C2",
    "At small learning rates LoRA trains as gradient descent does on gradients compressed and decompressed by its initial A.",
    source=f"{PAPER}, theorem 2.1 as the survey of He et al. gives it; the two protocols are the dossier's (sections 1.5 and C2)",
    matched="the same A ~ N(0, 1/r) and SGD; Gaussian 64 x 64 target, rank 4; 100 steps, or a rate times steps of 2; float64",
)
def lora_is_a_projection(evidence: Evidence) -> Finding:
    rates, slow = (1e-3, 1e-4, 1e-5), (1e-2, 3.16e-3, 1e-3)
    at_step = list(difference(rates, 100).unbind(-1))
    at_progress = [difference([rate], round(2 / rate))[:, 0] for rate in slow]
    steps = slopes(evidence, at_step, rates, "exponent of the difference in the rate, 100 steps")
    progress = slopes(evidence, at_progress, slow, "exponent of the difference in the rate, rate x steps = 2")
    return of_two_protocols(steps, progress, typical(evidence, "difference at rate 1e-3, rate x steps = 2", at_progress[-1]))


def of_two_protocols(steps: Sequence[Figure], progress: Sequence[Figure], left: Figure) -> Finding:
    """The difference vanishes with the rate where its exponent is at least a half, half way between theory's 2 and none in logs."""
    vanishes = [all(figure.value.low >= 0.5 for figure in each) for each in (steps, progress)]
    stays = all(figure.value.high < 0.5 for figure in steps)
    verdict = HOLDS if all(vanishes) else CONDITION if vanishes[0] else FAILS if stays else INCONCLUSIVE
    said = (
        "After a fixed number of steps the difference falls as the square of the rate, because ever less is learned; at the same "
        "progress, rate times steps, it does not depend on the rate."
    )
    return Finding(verdict, said if verdict == CONDITION else "", (*steps, *progress, left))


@claim(
    "C2/scale",
    "At the same progress the difference between LoRA and the random projection falls as c⁻⁴ with A c times as large.",
    source="the dossier's (sections 1.5 and C2)",
    matched="as C2; 200 steps, the rate on the factors 0.01/c²",
)
def falls_with_the_scale(evidence: Evidence) -> Finding:
    large, small = (1.0, 2.0, 4.0, 8.0), (0.25, 0.5)
    found = [difference([1e-2], 200, size)[:, 0] for size in large]
    figures = slopes(evidence, found, large, "exponent of the difference in c")
    beside = [typical(evidence, f"difference, c = {size:g}", difference([1e-2], 200, size)[:, 0]) for size in small]
    settled = by_ranges(figures, -4.5, -3.5, "For c of 1 and more; Kaiming's A, LoRA's own, has c = √(r/(3m)), 0.14 here.")
    return Finding(settled.verdict, settled.said, (*figures, *beside))


def outgrows(gradients: Tensor, rate: float) -> Tensor:
    """(T,) ‖f_A(t)‖₂ over the theorem's bound after t = 1 .. T gradients (T, m, n), L the largest norm of their sums.

    f_A ← f_A - η f_Bᵀ g and f_B ← f_B - g (I + η f_Aᵀ); the bound is η L² (1 - (ηL)^2t) / (1 - (ηL)²).
    """
    size = squares(gradients.cumsum(0)).sqrt().max()
    share = (rate * size) ** 2
    by_right = torch.zeros(gradients.shape[-1], gradients.shape[-1]).double()
    by_left = torch.zeros(gradients.shape[1:]).double()
    ratios = []
    for t, gradient in enumerate(gradients, start=1):
        by_right, by_left = by_right - rate * by_left.mT @ gradient, by_left - gradient - rate * gradient @ by_right.mT
        ratios.append(torch.linalg.matrix_norm(by_right, 2) / (rate * size**2 * (1 - share**t) / (1 - share)))
    return torch.stack(ratios)


def turning_gradients(seed: int) -> tuple[Tensor, Tensor, float]:
    """(50, 1, 1) L, -2L, 2L, ... with L = 1; (50, 8, 6) random ones whose sums have norm 1; and a rate from 0.001 to 0.1."""
    draw = generator(seed, "sums")
    swing = 2 * (-1.0) ** torch.arange(50).double()[:, None, None]
    swing[0] = 1.0
    sums = torch.nn.functional.normalize(gaussian(50, 48, generator=draw)).unflatten(-1, (8, 6))
    return swing, torch.cat([sums[:1], sums.diff(dim=0)]), 10 ** -(1 + 2 * float(torch.rand((), generator=draw)))


def met_gradients(seed: int, rate: float, steps: int) -> Tensor:
    """(steps, 64, 64) the W - M that LoRA meets under SGD."""
    target = target_of(seed)
    start = initial(LoRA(RANK, init="gaussian"), (SIDE, SIDE), generator(seed, "init"))
    left, right, met = start["left"], start["right"], []
    for _ in range(steps):
        met.append(left @ right - target)
        left, right = left - rate * met[-1] @ right.mT, right - rate * left.mT @ met[-1]
    return torch.stack(met)


@claim(
    "C2/bound",
    "Where no sum of gradients is longer than L, ‖f_A(t)‖₂ ≤ η L² (1 - (ηL)^2t) / (1 - (ηL)²), with A_t = A_0 + η A_0 f_A(t).",
    source=f"{PAPER}, theorem 2.1 as the survey of He et al. gives it (the dossier's section 1.5)",
    matched="gradients L, -2L, 2L, ... (1 x 1), sums ±L; random ones (8 x 6), sums of norm L; those of a LoRA run; float64",
)
def bounds_the_motion_of_a(evidence: Evidence) -> Finding:
    rows = []
    for seed in SEEDS:
        swing, random, rate = turning_gradients(seed)
        alternating = outgrows(swing, rate)
        rows.append(
            (alternating[1], alternating[-1], outgrows(random, rate)[-1], outgrows(met_gradients(seed, 1e-4, 100), 1e-4)[-1])
        )
    names = (
        "alternating gradients, t = 2",
        "alternating gradients, t = 50",
        "random sums, t = 50",
        "LoRA's own gradients, t = 100",
    )
    figures = [
        typical(evidence, f"‖f_A‖ over the bound, {name}", values)
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    ]
    return by_bound(figures, 1, "Gradients that hardly turn keep it; alternating ones are at twice the bound after two steps.")


def of_a_projection(evidence: Evidence) -> Figure:
    """LoRA with A frozen against W ← W - η G AᵀA, after 100 steps of SGD."""
    moved, rows = update_of(LoRAFA(RANK, init="gaussian"), [1e-2], 100)[:, 0], []
    for seed, found in zip(SEEDS, moved, strict=True):
        target, right = target_of(seed), initial(LoRAFA(RANK, init="gaussian"), (SIDE, SIDE), generator(seed, "init"))["right"]
        weight = torch.zeros_like(target)
        for _ in range(100):
            weight = weight - 1e-2 * (weight - target) @ right.mT @ right
        rows.append(float((squares(found - weight) / squares(weight)).sqrt()))
    return typical(evidence, "relative difference of LoRA(B) and a fixed projection, the same A and rate", rows)


@claim(
    "figure1/lora",
    "LoRA, LoRA with A frozen and a fixed random projection train alike.",
    source=f"{PAPER}, figure 1; {DOSSIER} (section 2, from its caption on alphaxiv)",
    matched="the same A and the same rate; and each at its own of nine rates. Rotated digits in place of Fashion-MNIST, fine-tuned",
    experiments="claims_flora_figure1",
)
def lora_trains_as_a_projection(evidence: Evidence) -> Finding:
    study = evidence.study
    lora, frozen = (one(study.where(parameterization=name)) for name in ("lora", "lora_fa"))
    (problem,) = study.shared([lora, frozen])
    tuned, ratio = against(study, frozen, lora, [problem], "score")
    matched = at_the_same_rate(evidence, study, frozen, lora, problem, "score")
    return alike(tuned.verdict, [ratio, matched, of_a_projection(evidence)])


def alike(tuned: str, figures: Sequence[Figure]) -> Finding:
    """Figures are the tuned ratio, that at one rate, and the identity's error: alike where all say so."""
    _, matched, identity = figures
    low, high = matched.value.low, matched.value.high
    same = low >= 1 / 1.05 and high <= 1.05
    verdict = FAILS if tuned in ("better", "worse") else INCONCLUSIVE
    if tuned == "equal":
        verdict = HOLDS if same and identity.value.high < 1e-10 else CONDITION
    said = f"LoRA with A frozen is a fixed projection, to rounding. Tuned, it is {tuned} against LoRA in validation loss"
    return Finding(verdict, f"{said}{'; at the same rate it is not the same' if not same else ''}.", tuple(figures))


@claim(
    "figure1/resampled",
    "Projections drawn again recover what full-matrix SGD reaches, where LoRA does not.",
    source=f"{PAPER}, figure 1; {DOSSIER} (section 2, from its caption on alphaxiv)",
    matched="each at its own of nine rates, and at full SGD's; rank 4, κ = 20. Rotated digits for Fashion-MNIST, fine-tuned",
    experiments="claims_flora_figure1",
)
def resampling_recovers(evidence: Evidence) -> Finding:
    study: Study = evidence.study
    flora, full, lora = (one(study.where(parameterization=name)) for name in ("flora", "full", "lora"))
    (problem,) = study.shared([flora, full, lora])
    (to_full, first), (to_lora, second), (lora_to_full, third) = (
        against(study, *pair, [problem], "score") for pair in ((flora, full), (flora, lora), (lora, full))
    )
    figures = [first, second, third, at_the_same_rate(evidence, study, flora, full, problem, "score")]
    return recovered(to_full.verdict, to_lora.verdict, lora_to_full.verdict, figures)


def recovered(to_full: str, to_lora: str, lora_to_full: str, figures: Sequence[Figure]) -> Finding:
    """It holds where Flora is no worse than full training and LoRA is worse; with a condition where it only beats LoRA."""
    near, ahead = to_full in ("better", "equal"), to_lora == "better"
    verdict = HOLDS if near and ahead and lora_to_full == "worse" else CONDITION if ahead else FAILS
    if not ahead and "inconclusive" in (to_lora, to_full):
        verdict = INCONCLUSIVE
    said = (
        f"Validation loss of Flora: {to_lora} against LoRA, {to_full} against full SGD; of LoRA: {lora_to_full} against full SGD."
    )
    return Finding(verdict, said, tuple(figures))
