"""Flora (arXiv 2402.03293): what a random projection keeps of a gradient, what projections drawn again reach, what is stored."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import bench
from bench.cell import LearningRates
from bench.claims._claim import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    SEEDS,
    Evidence,
    Figure,
    Finding,
    by_bound,
    claim,
    kept,
    spread_of,
    typical,
    worst,
)
from bench.config import rebuilt
from bench.engine import Block, Settings
from bench.stats import EQUAL, compare, log_ratios
from bench.stored import StoredCell
from bench.study import SOLVED, Study
from linalg.random import gaussian, generator
from optimizers import ALS, SGD, Momentum
from optimizers import Flora as FloraRule
from optimizers import LoRAFA as BestLeft
from optimizers._projection import down, up
from parameterizations import Flora, LoRA, Parameterization, Params, Step
from parameterizations._merging import Merging
from problems import LeastSquares, MatrixFactorization

PAPER = "Hao et al., arXiv 2402.03293"
DOSSIER = "the form is the dossier's, the paper could not be read beyond its introduction"
ROWS, SIDE, RANK = 96, 64, 4
GROWTH = 1 + (SIDE + 1) / RANK  # E ‖G AᵀA‖² / ‖G‖² for A (r, m) with entries N(0, 1/r): 17.25
SQUARE = MatrixFactorization(shape=(SIDE, SIDE), kind="gaussian")


def mean(evidence: Evidence, name: str, values: Iterable[float] | Tensor) -> Figure:
    """The mean over seeds: for what theory gives the expectation of."""
    return spread_of([kept(evidence, name, values)], f"{name}, mean", measure=name, statistic=lambda v: np.asarray(v.mean(-1)))


def lies_within(figure: Figure, low: float, high: float) -> bool | None:
    """Whether a figure's whole interval lies in a range; None where it lies there in part."""
    if figure.value.low >= low and figure.value.high <= high:
        return True
    return False if figure.value.high < low or figure.value.low > high else None


def by_all(found: Sequence[bool | None], figures: Sequence[Figure], said: str) -> Finding:
    """Settle `all of these are so`; None is undecided."""
    verdict = HOLDS if all(found) else FAILS if False in found else INCONCLUSIVE
    return Finding(verdict, said, tuple(figures))


def by_ranges(figures: Sequence[Figure], low: float, high: float, said: str) -> Finding:
    """Settle `all of these lie between two numbers`."""
    return by_all([lies_within(figure, low, high) for figure in figures], figures, said)


def at_the_same_rate(evidence: Evidence, study: Study, a: str, b: str, problem: str, measure: str) -> Figure:
    """a / b on the reporting seeds, both at the rate that was chosen for b: a runs again where its own was another."""
    ours, theirs = (study.cells[problem, method] for method in (a, b))
    rate = theirs.summary["chosen_lr"]
    name = f"{measure}, {a} / {b}, on {problem}, both at rate {rate:g}"
    again = study.costs(problem, a, measure) if ours.summary["chosen_lr"] == rate else run_again(ours, rate)[measure]
    logs = log_ratios(again.to_numpy(), study.costs(problem, b, measure).to_numpy(), SOLVED.get(measure, 0))
    kept(evidence, name, 10**logs)
    return Figure(name, compare([logs]).ratio, len(logs), (theirs.key,), name)


def run_again(stored: StoredCell, rate: float) -> pd.DataFrame:
    """The reporting seeds' lanes of a cell at a rate of one's own, in the order of the seeds."""
    cell = replace(rebuilt(stored.config), lr=LearningRates(values=(rate,)))
    axes = {axis: getattr(cell, axis) for axis in ("problem", "parameterization", "optimizer")}
    options = {name: getattr(cell, name) for name in ("steps", "schedule", "warmup", "dtype")}
    return bench.run(**axes, **options, lr=rate, seeds=sorted(cell.report), probes="none").lanes


def initial(
    method: Parameterization, shape: tuple[int, int], source: torch.Generator, dtype: torch.dtype = torch.float64
) -> Params:
    """A method's tensors, of one lane."""
    return method.init(shape, generator=source, dtype=dtype)


def started(method: Parameterization, shape: tuple[int, int], sources: Sequence[torch.Generator]) -> Params:
    """(k, 1, ...) a method's tensors, a lane a generator."""
    lanes = [initial(method, shape, source) for source in sources]
    return {name: torch.stack([lane[name] for lane in lanes])[:, None] for name in lanes[0]}


def squares(matrix: Tensor) -> Tensor:
    return matrix.square().sum((-2, -1))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1)) / (squares(a) * squares(b)).sqrt()


def estimates(matrix: Tensor, seed: int, draws: int = 1000) -> Tensor:
    """(draws, ...) what comes back of a matrix under as many projections, as Flora's optimizer draws them."""
    own = torch.arange(draws) + draws * seed
    wide = matrix.expand(draws, *matrix.shape[-2:])
    return up(down(wide, own, RANK), own, wide)


def bias(found: Tensor, truth: Tensor) -> float:
    """‖mean of N estimates - truth‖² over E ‖estimate - truth‖² / N: 1 without a bias, about N with one."""
    return float(len(found) * squares(found.mean(0) - truth) / squares(found - truth).mean())


@claim(
    "C1",
    "A gradient compressed by A with entries N(0, 1/r) and decompressed by it is unbiased, E[G AᵀA] = G; its energy is 1 + (m+1)/r "
    "times G's and its cosine with G is √(r/(r+m+1)).",
    source=f"{PAPER} for E[AᵀA] = I, {DOSSIER}; the second moment and the cosine are the dossier's (sections 1.0, 1.1 and C1)",
    matched="one G of 96 x 64, r = 4, 1000 draws a seed, as the optimizer draws them; float64",
)
def is_unbiased(evidence: Evidence) -> Finding:
    rows = []
    for seed in SEEDS:
        gradient = gaussian(ROWS, SIDE, generator=generator(seed, "gradient"))
        found = estimates(gradient, seed)
        angle = cosine(found, gradient.expand_as(found)).mean() / math.sqrt(RANK / (RANK + SIDE + 1))
        rows.append((bias(found, gradient), squares(found).mean() / squares(gradient) / GROWTH, angle))
    names = ("squared distance of the mean over that without bias", "energy over theory's 17.25", "cosine over theory's 0.241")
    figures = [mean(evidence, name, values) for name, values in zip(names, zip(*rows, strict=True), strict=True)]
    return by_ranges(figures, 1 / EQUAL, EQUAL, "Each is 1 where theory is right; 5 % are allowed.")


def target_of(seed: int) -> Tensor:
    """(64, 64) Gaussian, σ1 = 1."""
    instance = SQUARE.draw(seed, dtype=torch.float64)
    assert isinstance(instance, LeastSquares)
    return instance.target


def share_left(method: Parameterization, steps: int, rate: float, rule: SGD | ALS | None = None) -> np.ndarray:
    """(k,) the final over the initial loss on the Gaussian target."""
    drawn = [SQUARE.draw(seed, dtype=torch.float64) for seed in SEEDS]
    block = Block(drawn, method, rule or SGD(), list(SEEDS), [rate], Settings(steps, dtype=torch.float64, probes="none"))
    losses = block.run().curves["loss"][..., 0]
    return (losses[-1] / losses[0]).numpy()


@claim(
    "C3",
    "A fixed projection leaves 1 - r/m of a Gaussian target's energy and LoRA the tail of its spectrum; projections drawn again go "
    "to zero.",
    source=f"{PAPER}, resampling; {DOSSIER} (C3)",
    matched="64 x 64, rank 4, 2000 SGD steps at 1/(1+√(m/r))², the largest that is safe for nearly every A; LoRA by least squares",
)
def floors(evidence: Evidence) -> Finding:
    rate = 1 / (1 + math.sqrt(SIDE / RANK)) ** 2
    energies = [torch.linalg.svdvals(target_of(seed)).square() for seed in SEEDS]
    tails = np.array([float(each[RANK:].sum() / each.sum()) for each in energies])
    fixed, lora = share_left(Flora(RANK, interval=0), 2000, rate), share_left(LoRA(RANK), 400, 1.0, ALS())
    at_floor = [
        mean(evidence, "left by a fixed projection over 1 - r/m", fixed / (1 - RANK / SIDE)),
        mean(evidence, "left by LoRA over the spectrum's tail", lora / tails),
    ]
    again = [typical(evidence, f"left with κ = {each}", share_left(Flora(RANK, each), 2000, rate)) for each in (1, 10, 100)]
    right = [lies_within(figure, 1 / EQUAL, EQUAL) for figure in at_floor] + [lies_within(each, 0, 1e-3) for each in again[:2]]
    said = (
        "Floors within 5 % of theory's; κ = 1 and 10 must leave less than 1e-3. With κ = 100 there were 20 draws in all (see C5)."
    )
    return by_all(right, [*at_floor, *again], said)


def rank_after(method: Parameterization, steps: int) -> np.ndarray:
    """(k,) numerical rank of the weight that SGD has learned."""
    lanes = bench.run(SQUARE, method, SGD(), lr=0.02, seeds=SEEDS, steps=steps, dtype=torch.float64).lanes
    return lanes["final_rank"].to_numpy()


def off_by(evidence: Evidence, method: type[Merging], rounds: int, interval: int = 5) -> Figure:
    """How far the rank is from min(K r, m) after K pairs of rank r."""
    found = rank_after(method(rank=RANK, interval=interval), interval * rounds)
    name = f"rank after {rounds} pairs less min({RANK} x {rounds}, {SIDE}), absolute"
    return worst(evidence, name, abs(found - min(RANK * rounds, SIDE)))


@claim(
    "C4",
    "After K draws of the projection the accumulated update has rank min(K r, m); with one projection it keeps rank r.",
    source=f"{PAPER}, resampling; {DOSSIER} (C4)",
    matched="64 x 64, rank 4, five SGD steps a draw at 0.02; numerical rank in float64",
)
def rank_grows(evidence: Evidence) -> Finding:
    figures = [off_by(evidence, Flora, rounds) for rounds in (1, 2, 4, 8, 16, 32)]
    figures.append(worst(evidence, "rank with one projection less 4, absolute", abs(rank_after(Flora(RANK, 0), 80) - RANK)))
    return by_bound(figures, 0, "Counted on every seed.")


def exact_rounds(seed: int, rounds: int, repeats: int = 20) -> np.ndarray:
    """(rounds,) the share of the energy left after each round of a fresh A and the best B beside it, mean over targets."""
    target = torch.stack([target_of(1000 * seed + i) for i in range(repeats)])[:, None]
    method, rule, sources = Flora(RANK, interval=1), BestLeft(ridge=0), [generator(seed, f"round {i}") for i in range(repeats)]
    params = started(method, (SIDE, SIDE), sources)
    left, right, state = params["left"], params["right"], SGD().init({"left": params["left"]})
    shares = []
    for step in range(rounds):
        gradient = params["base"] - target
        right = params["right"]
        left.sub_(rule.precondition(left, right, gradient @ right.mT, right, 1.0)[0])
        shares.append(float((squares(params["base"] + left @ right - target) / squares(target)).mean()))
        method.after_step(params, {}, state, Step(step, rounds + 1, sources))
    return np.array(shares)


@claim(
    "C5",
    "With the best B in every round, K rounds of fresh projections leave (1 - r/m)^K of the energy.",
    source="the dossier's (C5)",
    matched="64 x 64 Gaussian targets, 20 a seed, rank 4; B by least squares; float64",
)
def falls_by_the_same_share(evidence: Evidence) -> Finding:
    found = np.array([exact_rounds(seed, 32) for seed in SEEDS])
    shares = {k: found[:, k - 1] / (1 - RANK / SIDE) ** k for k in (1, 8, 16, 32)}
    figures = [mean(evidence, f"energy left after {k} rounds over (1 - r/m)^{k}", share) for k, share in shares.items()]
    return by_ranges(figures, 1 / EQUAL, EQUAL, "5 % are allowed.")


def state_bytes(rule: FloraRule | Momentum, params: Params) -> int:
    return rule.state_bytes(rule.init(params))


def bytes_beyond(seed: int) -> tuple[int, int, int]:
    """For a shape and a rank that the seed draws: momentum and sum, each off 4 r max(n, m) + 8; momentum less all of LoRA's."""
    draw = generator(seed, "shape")
    n, m = (int(each) for each in torch.randint(20, 300, (2,), generator=draw))
    rank = int(torch.randint(1, 17, (), generator=draw))
    weight, pair = {"weight": torch.zeros(n, m)}, initial(LoRA(rank), (n, m), draw, torch.float32)
    bare, expected = state_bytes(FloraRule(rank, beta1=0), weight), 4 * rank * max(n, m) + 8
    momentum = state_bytes(FloraRule(rank), weight) - bare
    total = state_bytes(FloraRule(rank, beta1=0, accumulation=16), weight) - bare
    lora = 4 * sum(tensor.numel() for tensor in pair.values()) + state_bytes(Momentum(), pair)
    return abs(momentum - expected), abs(total - expected), momentum - lora


@claim(
    "C7",
    "Flora's momentum, or sum of gradients, takes r max(n, m) numbers and a seed, less than LoRA's weights with their momentum.",
    source=f"{PAPER}, memory; the count is from the authors' code by the dossier (sections 1.4 and C7)",
    matched="sides from 20 to 300 and ranks from 1 to 16 at random, float32; bytes of the optimizers' states",
)
def memory(evidence: Evidence) -> Finding:
    columns = zip(*(bytes_beyond(seed) for seed in SEEDS), strict=True)
    names = (
        "bytes of the momentum less 4 r max(n, m) + 8, absolute",
        "bytes of the sum less 4 r max(n, m) + 8, absolute",
        "bytes of Flora's momentum less those of LoRA's weights and momentum",
    )
    figures = [worst(evidence, name, column) for name, column in zip(names, columns, strict=True)]
    return by_bound(figures, 0, "The weight itself stays whole, and so does its gradient while it is at hand.")
