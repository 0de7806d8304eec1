"""What the claims on GeoLoRA share: points on the manifold, steps from them, and figures that are measured on all seeds at once."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, SEEDS, Evidence, Figure, Finding, kept, spread_of
from bench.engine import Block, Settings
from bench.stats import compare, log_ratios
from linalg.random import generator
from optimizers import GeoLoRA
from parameterizations import SVD, Params
from problems import Instance

PAPER = "Schotthöfer et al., arXiv 2410.18720"
REPLACED = "rotated digits and a net of two 64 x 64 layers in place of CIFAR and ViT"
PLAIN = GeoLoRA(tolerance=0, coefficient_steps=0)
Values = Sequence[float] | Tensor | np.ndarray
SMALLEST = (1e-1, 1e-4, 1e-8, 1e-12)  # the last singular value of a point on the manifold, the first being 1


def mean(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.mean(-1))


def never_above(figures: Sequence[Figure], bound: float, said: str) -> Finding:
    """Settle `none is ever above`, of figures of the `worst` seed: one counterexample is enough."""
    return Finding(HOLDS if all(figure.value.high <= bound for figure in figures) else FAILS, said, tuple(figures))


def share(evidence: Evidence, name: str, values: Values) -> Figure:
    """The mean over seeds of shares."""
    return spread_of([kept(evidence, name, values)], name, measure=name, statistic=mean)


def on_manifold(shape: tuple[int, int], values: Tensor, room: int) -> Params:
    """U S Vᵀ (k, m, n), one for each of `SEEDS`, with these singular values, random bases, and zeros up to `room` columns."""
    lanes = []
    for seed in SEEDS:
        method, draw = SVD(room, start=len(values), scale=1.0), generator(seed, "manifold")
        lanes.append(method.init(shape, generator=draw, dtype=torch.float64, device="cpu"))
    params = {name: torch.stack([lane[name] for lane in lanes]) for name in lanes[0]}
    params["core"] = params["core"] * torch.cat([values, values.new_zeros(room - len(values))]).double()
    return params


def dense(params: Params) -> Tensor:
    return params["left"] @ params["core"] @ params["right"]


def projected(params: Params, gradient: Tensor) -> Tensor:
    """P(W) G = U Uᵀ G + G V Vᵀ - U Uᵀ G V Vᵀ, from its definition."""
    left, right = params["left"], params["right"]
    along = left @ (left.mT @ gradient)
    return along + (gradient - along) @ right.mT @ right


def take(rule: GeoLoRA, params: Params, gradient: Tensor, lr: Tensor | float, step: int = 0) -> None:
    """One step of the rule along what the engine hands over: G V, Uᵀ G V and Uᵀ G."""
    tall, wide = gradient @ params["right"].mT, params["left"].mT @ gradient
    rule.update(params, {"left": tall, "core": params["left"].mT @ tall, "right": wide}, rule.init(params), lr, step)


def norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix)


def by_factor_equation(params: Params, gradient: Tensor, lr: float) -> Params:
    """An Euler step of U' = -(I - U Uᵀ) G V S⁻¹, S' = -Uᵀ G V, V' = -(I - V Vᵀ) Gᵀ U S⁻ᵀ."""
    left, core, right = (params[name] for name in ("left", "core", "right"))
    tall, wide = gradient @ right.mT, left.mT @ gradient
    both, inverse = left.mT @ tall, torch.linalg.inv(core)
    return {
        "left": left - lr * (tall - left @ both) @ inverse,
        "core": core - lr * both,
        "right": right - lr * inverse @ (wide - both @ right),
    }


def at_least(figure: Figure, bound: float) -> bool | None:
    """Whether a figure's whole interval lies at or above a bound; None where the bound lies within."""
    return True if figure.value.low >= bound else False if figure.value.high < bound else None


def paired(evidence: Evidence, name: str, a: np.ndarray, b: np.ndarray, resolution: float = 0.0) -> tuple[str, Figure]:
    """The verdict and the figure of a / b, written down seed by seed."""
    logs = log_ratios(a, b, resolution)
    found = compare([logs])
    kept(evidence, name, 10.0**logs)
    return found.verdict, Figure(name, found.ratio, len(a), measure=name)


def in_all(found: Mapping[str, bool | None]) -> str:
    """The verdict of what is so (True), not so, or undecided (None) in each of several settings."""
    values = list(found.values())
    if all(values):
        return HOLDS
    return CONDITION if True in values else FAILS if False in values else INCONCLUSIVE


def those(found: Mapping[str, bool | None]) -> str:
    """Where it is so, in words."""
    return "; ".join(where for where, good in found.items() if good) or "none"


def ranks_of(block: Block) -> Tensor:
    """(k, rates, ...) how many columns are in use."""
    return block.params["left"].any(-2).sum(-1)


def advanced(drawn: list[Instance], method: SVD, rule: GeoLoRA, rates: list[float], steps: int, seeds: Sequence[int] = ()) -> Block:
    """A block after so many steps in float64, on `SEEDS` if no seeds are named."""
    block = Block(drawn, method, rule, list(seeds or SEEDS), rates, Settings(steps, dtype=torch.float64))
    for step in range(steps):
        block.find_gradients(step)
        block.step()
    return block
