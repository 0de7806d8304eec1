"""GeoLoRA (arXiv 2410.18720): what a step is, how far it descends, and that the bases stay orthonormal."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.claims._claim import FAILS, HOLDS, NOT_RUN, SEEDS, Evidence, Finding, claim, typical, worst
from bench.claims._geolora import PAPER, PLAIN, SMALLEST, by_factor_equation, dense, never_above, norm, on_manifold, projected, take
from bench.engine import Block, Settings
from linalg.random import gaussian, generator, with_spectrum
from optimizers import GeoLoRA
from parameterizations import SVD
from problems import MatrixCompletion


@claim(
    "a",
    "A GeoLoRA step with plain gradients takes W to W - λ P(W) G, to rounding, however small W's smallest singular value is.",
    source=f"{PAPER}, algorithm 1; the identity and its bound are the dossier's (section 6a)",
    matched="one step at λ = 0.3 from the same W along the same random G; 32 x 24, rank 4, room for 8, float64",
)
def is_a_tangent_step(evidence: Evidence) -> Finding:
    gradient = torch.stack([gaussian(32, 24, generator=generator(seed, "gradient")) for seed in SEEDS])
    ours, euler = [], []
    for smallest in SMALLEST:
        params = on_manifold((32, 24), torch.tensor([1.0, 0.5, 0.2, smallest]), room=8)
        expected = dense(params) - 0.3 * projected(params, gradient)
        thin = {"left": params["left"][..., :4], "core": params["core"][..., :4, :4], "right": params["right"][..., :4, :]}
        other = norm(dense(by_factor_equation(thin, gradient, 0.3)) - expected) / norm(expected)
        take(PLAIN, params, gradient, 0.3)
        ours.append(
            worst(evidence, f"relative error of GeoLoRA's step, σ4 = {smallest:g}", norm(dense(params) - expected) / norm(expected))
        )
        euler.append(typical(evidence, f"relative error of an Euler step of the factors' equation, σ4 = {smallest:g}", other))
    found = never_above(
        ours, 1e-12, "Bound: 1e-12. An Euler step of the equation that the factors obey, which divides by S, is shown beside it."
    )
    return Finding(found.verdict, found.said, (*found.figures, *euler))


def completion(seed: int) -> tuple[Tensor, Tensor]:
    """The mask (12, 10) and the target of ½ ‖mask · (W - M)‖², whose smoothness is 1."""
    draw = generator(seed, "completion")
    return (gaussian(12, 10, generator=draw) > -0.5).double(), 0.3 * gaussian(12, 10, generator=draw)


def observed_loss(weight: Tensor, mask: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (mask * (weight - target)).square().sum((-2, -1))


def logistic_loss(weight: Tensor, mask: Tensor, target: Tensor) -> Tensor:
    """Σ log(1 + exp(-sign(M) W)) over the mask: smoothness 1/4, not quadratic."""
    return (mask * torch.nn.functional.softplus(-target.sign() * weight)).sum((-2, -1))


LOSSES = {"completion": (observed_loss, 1.0), "logistic": (logistic_loss, 0.25)}


def broken_bounds(loss: Callable[..., Tensor], smoothness: float, shares: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """(k, len(shares)) steps that miss the tangent step's bound, that miss the one with truncation, and that ascend.

    Args:
        shares: λ times the smoothness.
    """
    mask, target = (torch.stack(each)[:, None] for each in zip(*map(completion, SEEDS), strict=True))
    rule, rate = GeoLoRA(tolerance=0.05, coefficient_steps=0), (shares / smoothness).expand(len(SEEDS), -1)
    start = on_manifold((12, 10), torch.tensor([0.3, 0.1]), room=10)
    params = {name: tensor[:, None].repeat(1, len(shares), 1, 1) for name, tensor in start.items()}
    counts = [torch.zeros(rate.shape) for _ in range(3)]
    slack = 1e-13 * loss(dense(params), mask, target)
    for step in range(steps):
        weight = dense(params)
        gradient, before = gradient_of(loss, weight, mask, target), loss(weight, mask, target)
        along = projected(params, gradient)
        stepped = weight - rate[..., None, None] * along
        descent = rate * (1 - rate * smoothness / 2) * along.square().sum((-2, -1))
        dropped = rule.tolerance * norm(stepped)
        allowed = dropped * (norm(gradient_of(loss, stepped, mask, target)) + smoothness * dropped / 2)
        take(rule, params, gradient, rate, step)
        after = loss(dense(params), mask, target)
        counts[0] += loss(stepped, mask, target) > before - descent + slack
        counts[1] += after > before - descent + allowed + slack
        counts[2] += after > before + slack
    return counts[0], counts[1], counts[2]


def gradient_of(loss: Callable[..., Tensor], weight: Tensor, mask: Tensor, target: Tensor) -> Tensor:
    leaf = weight.detach().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf, mask, target).sum(), leaf)
    return found


@claim(
    "b",
    "T1: where L is the loss's smoothness and λ ≤ 1/L, every step lowers the loss by λ (1 - λL/2) ‖P(W) G‖² or more, less "
    "θ (‖G‖ + Lθ/2) for the truncation, θ = τ ‖Ŝ‖.",
    source=f"{PAPER}, descent guarantee of the abstract; the form is the dossier's (sections 2 and 6b)",
    matched="λL = 0.1, 0.5, 1; 500 steps from rank 2, τ = 0.05; a quadratic and a logistic loss on masks of 12 x 10, float64",
)
def descends_as_far_as_theory_says(evidence: Evidence) -> Finding:
    shares, figures, rises = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64), [], []
    for name, (loss, smoothness) in LOSSES.items():
        step, truncated, risen = broken_bounds(loss, smoothness, shares, 500)
        figures += [
            worst(evidence, f"steps below the bound, {name}", step.sum(-1)),
            worst(evidence, f"steps below the bound with truncation, {name}", truncated.sum(-1)),
        ]
        rises.append(typical(evidence, f"steps whose truncation raised the loss above where it was, {name}", risen.sum(-1)))
    found = never_above(figures, 0, "Counted over 500 steps at three rates; any step below the bound breaks it.")
    return Finding(found.verdict, found.said, (*found.figures, *rises))


@claim(
    "c",
    "U and V stay orthonormal to 1e-10 through all augmentations and truncations.",
    source=f"{PAPER}, algorithm 1; the bound is the dossier's (section 6c)",
    matched="rates 0.05 and 0.5, 300 steps, start 2, room 6, with and without coefficient steps; completion of 20 x 16, float64",
)
def stays_orthonormal(evidence: Evidence) -> Finding:
    rules = {
        "c = 0": GeoLoRA(coefficient_steps=0),
        "c = 10": GeoLoRA(),
        "c = 10, Adam": GeoLoRA(core_rule="adam", moments_at_augmentation="rotate"),
    }
    drawn = [MatrixCompletion((20, 16), rank=2).draw(seed, dtype=torch.float64) for seed in SEEDS]
    figures = []
    for name, rule in rules.items():
        block = Block(drawn, SVD(6, start=2), rule, list(SEEDS), [0.05, 0.5], Settings(300, dtype=torch.float64))
        farthest = torch.zeros(len(SEEDS), 2).double()
        for step in range(300):
            block.find_gradients(step)
            block.step()
            left, right = block.params["left"], block.params["right"]
            used = torch.diag_embed(left.any(-2).double())
            for gram in (left.mT @ left, right @ right.mT):
                farthest = torch.maximum(farthest, (gram - used).abs().amax((-2, -1)))
        figures.append(worst(evidence, f"largest entry of UᵀU - I and VᵀV - I, {name}", farthest.amax(-1)))
    return never_above(figures, 1e-10, "Bound: 1e-10, on the columns that are in use; the others are zero.")


def fourth_value(rate: float, coefficient_steps: int) -> Tensor:
    """(k,) σ4 after one period from rank 3 of a target of rank 6."""
    values = torch.linspace(1, 0.5, 6, dtype=torch.float64)
    target = torch.stack([with_spectrum(20, 16, values, generator(seed, "target")) for seed in SEEDS])
    params = on_manifold((20, 16), torch.tensor([0.6, 0.5, 0.4]), room=6)
    rule = GeoLoRA(tolerance=0, coefficient_steps=coefficient_steps)
    for step in range(coefficient_steps + 1):
        take(rule, params, dense(params) - target, rate, step)
    return params["core"].diagonal(dim1=-2, dim2=-1)[:, 3]


@claim(
    "growth",
    "Without coefficient steps new singular values are of second order in the rate; one coefficient step makes them first order.",
    source=f"{PAPER}, algorithm 1; the dossier's derivation (section 1)",
    matched="one augmentation of the same W of rank 3 towards the same target of rank 6 at rates 1e-3 and 1e-4; 20 x 16, float64",
)
def growth_is_of_second_order(evidence: Evidence) -> Finding:
    figures = []
    for steps in (0, 1):
        ratio = fourth_value(1e-3, steps) / fourth_value(1e-4, steps)
        figures.append(typical(evidence, f"σ4 at rate 1e-3 over that at 1e-4, c = {steps}", ratio))
    second, first = (figure.value for figure in figures)
    orders = second.low > 90 and second.high < 110 and first.low > 9 and first.high < 11
    said = "Second order is a ratio of 100, first order one of 10, within a tenth."
    return Finding(HOLDS if orders else FAILS, said, tuple(figures))


@claim(
    "glue",
    "On GLUE with DeBERTa-v3-base GeoLoRA scores higher than LoRA and AdaLoRA with fewer parameters.",
    source=f"{PAPER}, GLUE experiments; the settings are those of the authors' code, the result table was not to be had",
    matched="nothing: rates, epochs and ranks of the authors' runs differ between methods",
)
def glue(evidence: Evidence) -> Finding:
    return Finding(
        NOT_RUN,
        "A language model of 184 million weights, eight data sets; table1_lora and table1_adalora have a stand-in.",
    )


@claim(
    "dreambooth",
    "On Dreambooth with Stable Diffusion 1.4 GeoLoRA reaches a lower validation loss than LoRA with fewer parameters.",
    source=f"{PAPER}, Dreambooth experiments; the settings are those of the authors' code, the result table was not to be had",
    matched="nothing",
)
def dreambooth(evidence: Evidence) -> Finding:
    return Finding(NOT_RUN, "It needs the diffusion model's weights and images of subjects; no matrix problem stands for them.")
