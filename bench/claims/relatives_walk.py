"""Relatives of Flora, what weights do on their way: whether Flat-LoRA's are flatter, and how DoRA's rows turn and grow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bench.cell import LearningRates
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
    claim,
    kept,
    one,
    settled,
    spread_of,
    told,
    worst,
)
from bench.claims.flora import at_the_same_rate, by_all, lies_within
from bench.config import rebuilt
from bench.engine import Block, Settings
from bench.probes import geometric_grid
from bench.runs import DTYPES
from bench.stats import compare
from bench.stored import StoredCell
from bench.study import Study
from linalg import FactoredMatrix
from linalg.random import gaussian, generator

LEDGER = "relatives"
FLAT = "Li et al., arXiv 2409.14396 (Flat-LoRA)"
DORA = "Liu et al., arXiv 2402.09353 (DoRA)"
FINE_TUNING = ("claims_relatives_starts", "claims_relatives_finetuning")
RHO, DRAWS = 0.05, 8


def block_of(stored: StoredCell, rate: float) -> Block:
    """The reporting seeds' lanes of a cell at a rate, ready to run again."""
    cell = replace(rebuilt(stored.config), lr=LearningRates(values=(rate,)))
    dtype = DTYPES[cell.dtype] if cell.dtype else cell.problem.dtype
    drawn = [cell.problem.draw(seed, dtype=dtype) for seed in sorted(cell.report)]
    settings = Settings(cell.steps, cell.schedule, cell.warmup, dtype, probes="none")
    return Block(drawn, cell.parameterization, cell.optimizer, sorted(cell.report), [rate], settings)


def walked(block: Block, steps: Sequence[int], look: Callable[[Block], Tensor]) -> Tensor:
    """(len(steps), ...) what is seen after so many updates."""
    seen = []
    for step in range(block.settings.steps + 1):
        if step in steps:
            seen.append(look(block))
        if step < block.settings.steps:
            block.find_gradients(step)
            block.step()
    return torch.stack(seen)


def loss_and_rise(block: Block) -> Tensor:
    """(k, 2) the loss on all training data, and its mean rise under ε_ij ~ N(0, (ρ ‖W_i‖ / √n)²), over pairs of ±ε."""
    weight, instance = block.weight(), block.instance
    dense = weight.dense()
    clean, rises = instance.loss(weight), []
    size = RHO / dense.shape[-1] ** 0.5 * dense.norm(dim=-1, keepdim=True)
    for i in range(DRAWS):
        draw = torch.stack([gaussian(*dense.shape[2:], generator=generator(seed, f"rise {i}")) for seed in block.seeds])[:, None]
        for sign in (1, -1):
            rises.append(instance.loss(FactoredMatrix((dense + sign * size * draw.to(dense),))) - clean)
    return torch.stack([clean[:, 0], torch.stack(rises).mean(0)[:, 0]], -1).double()


def rise_at(path: np.ndarray, level: float) -> float:
    """The rise where a path (steps, 2) of loss and rise first comes down to a loss, log-linear between steps."""
    i = int(np.flatnonzero(path[:, 0] <= level)[0])
    if i == 0:
        return float(path[0, 1])
    (high, before), (low, after) = path[i - 1], path[i]
    share = (np.log(high) - np.log(level)) / (np.log(high) - np.log(low))
    return float(np.exp((1 - share) * np.log(before) + share * np.log(after)))


def rise_ratios(flat: Tensor, lora: Tensor) -> np.ndarray:
    """(k,) Flat-LoRA's rise over LoRA's at the lowest loss that both paths (steps, k, 2) reach."""
    ratios = []
    for ours, theirs in zip(flat.unbind(1), lora.unbind(1), strict=True):
        level = max(float(path[:, 0].min()) for path in (ours, theirs))
        ratios.append(rise_at(ours.numpy(), level) / rise_at(theirs.numpy(), level))
    return np.array(ratios)


@claim(
    "C11",
    "At the same loss Flat-LoRA's weights are flatter than LoRA's: random perturbations of the weight raise the loss less.",
    source=f"{FLAT}; the test is the dossier's (C11)",
    matched="the lowest training loss that both reach; own rates, and LoRA's, 0.3 and 0.1 of it for both; ρ = 0.05",
    experiments=FINE_TUNING,
    revised="rates at 0.3 and 0.1 of LoRA's were added after the tuned one came out undecided; the condition rests on them",
)
def is_flatter(evidence: Evidence) -> Finding:
    study, verdicts, figures = evidence.study, {}, []
    flat, lora = one(study.where(parameterization="flat_lora")), lora_of_rank_4(study)
    for problem in study.shared([flat, lora]):
        cells = study.cells[problem, flat], study.cells[problem, lora]
        own, theirs = (cell.summary["chosen_lr"] for cell in cells)
        for rates in dict.fromkeys([(own, theirs), *((theirs * share, theirs * share) for share in (1.0, 0.3, 0.1))]):
            name = f"rise, Flat-LoRA at rate {rates[0]:.2g} / LoRA at {rates[1]:.2g}, at the same loss, {problem}"
            paths = [path(cell, rate) for cell, rate in zip(cells, rates, strict=True)]
            ratios = kept(evidence, name, rise_ratios(*paths))
            comparison = compare([np.log10(ratios)])
            figures.append(Figure(name, comparison.ratio, len(ratios), tuple(cell.key for cell in cells), name))
            verdicts[f"{problem} ({rates[0]:.2g}, {rates[1]:.2g})"] = comparison.verdict
    said = f"{told(verdicts)} Under a squared loss the mean gradient over perturbations is LoRA's own."
    return Finding(settled(verdicts), said, tuple(figures))


def path(cell: StoredCell, rate: float) -> Tensor:
    """(steps, k, 2) what `loss_and_rise` sees on about forty steps."""
    return walked(block_of(cell, rate), geometric_grid(cell.config["steps"]), loss_and_rise)


def lora_of_rank_4(study: Study) -> str:
    return one(study.where(parameterization="lora", parameterization__init="kaiming", parameterization__rank=4, optimizer="adam"))


@claim(
    "C11/test",
    "Flat-LoRA generalises better than LoRA.",
    source=f"{FLAT}, its headline",
    matched="test error of rotated digits, each at the rate that validation chose of nine, and both at LoRA's; rank 4, ρ = 0.05",
    experiments=FINE_TUNING,
)
def generalises_better(evidence: Evidence) -> Finding:
    study = evidence.study
    flat, lora = one(study.where(parameterization="flat_lora")), lora_of_rank_4(study)
    (problem,) = (each for each in study.shared([flat, lora]) if each.startswith("rotated_digits"))
    comparison, figure = against(study, flat, lora, [problem], "headline")
    figures = [figure, against(study, flat, lora, [problem], "score")[1]]
    figures.append(at_the_same_rate(evidence, study, flat, lora, problem, "headline"))
    return Finding(settled({problem: comparison.verdict}), f"Test error: {told({problem: comparison.verdict})}", tuple(figures))


def drift(seed: int, dtype: torch.dtype, steps: int) -> float:
    """‖W after ε was added and taken off again, so many times over - W‖ over ‖W‖."""
    draw = generator(seed, "drift")
    start = gaussian(64, 64, generator=draw).to(dtype)
    weight, size = start.clone(), RHO / 8 * start.float().norm(dim=-1, keepdim=True)
    for _ in range(steps):
        noise = (size * gaussian(64, 64, generator=draw).float()).to(dtype)
        weight += noise
        weight -= noise
    return float((weight.double() - start.double()).norm() / start.double().norm())


@claim(
    "C11/restore",
    "Adding ε to a float32 weight and taking it off again, as the authors' code does, leaves it as it was but for the last bits.",
    source="the authors' code, as read for the dossier (sections 3 and C11)",
    matched="64 x 64, ρ = 0.05, once and 1000 times; bfloat16 beside it. The suite adds nothing to a weight that it keeps",
)
def restores_the_weight(evidence: Evidence) -> Finding:
    figures = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        for times in (1, 1000):
            drifts = [drift(seed, dtype, times) for seed in SEEDS]
            figures[name, times] = worst(evidence, f"drift, {name}, {times} times", drifts)
    found = [lies_within(figures["float32", times], 0, 1e-5) for times in (1, 1000)]
    return by_all(found, list(figures.values()), "Bound for float32: 1e-5 of the weight's norm.")


def turned_and_grown(block: Block) -> Tensor:
    """(k, 2, rows) of the first layer 1 - cos of each row with the pretrained one, and the absolute change of its length."""
    dense, base = block.weight().dense(), block.instance.base
    assert base is not None
    if dense.ndim > 4:  # a stack: the second layer's rows have too few classes
        dense, base = dense[:, :, 0], base[:, :, 0]
    cosine = torch.nn.functional.cosine_similarity(dense, base.expand_as(dense), dim=-1)
    return torch.stack([1 - cosine, (dense.norm(dim=-1) - base.norm(dim=-1)).abs()], -2)[:, 0].double()


def correlation(points: Tensor) -> np.ndarray:
    """(k,) Pearson's correlation of points (k, 2, N)."""
    centred = points - points.mean(-1, keepdim=True)
    products = (centred[:, 0] * centred[:, 1]).sum(-1)
    return np.asarray(products / centred.square().sum(-1).prod(-1).sqrt())


@claim(
    "dora",
    "The lengths and directions of rows change together under LoRA, and one against the other under DoRA and full training.",
    source=f"{DORA}, figure 2: correlations of 0.83, -0.31 and -0.62 over layers and checkpoints of a vision-language model",
    matched="each at its own of nine rates of Adam, rank 4; rows of the first weight, after each quarter of the steps",
    experiments=FINE_TUNING,
)
def rows_turn_and_grow(evidence: Evidence) -> Finding:
    study = evidence.study
    methods = {"LoRA": lora_of_rank_4(study)} | {
        name: one(study.where(parameterization=entry)) for name, entry in (("DoRA", "dora"), ("full", "full"))
    }
    figures = {}
    for problem in study.shared(list(methods.values())):
        for name, method in methods.items():
            cell = study.cells[problem, method]
            steps = cell.config["steps"]
            seen = walked(block_of(cell, cell.summary["chosen_lr"]), [steps * i // 4 for i in range(1, 5)], turned_and_grown)
            for said, points in (
                ("rows at the end", seen[-1]),
                ("means over rows, four checkpoints", seen.mean(-1).permute(1, 2, 0)),
            ):
                figures[problem, said, name] = correlated(evidence, cell, f"{name}, {said}, {problem}", correlation(points))
    return of_correlations(figures)


def correlated(evidence: Evidence, cell: StoredCell, name: str, values: np.ndarray) -> Figure:
    label = f"correlation of turn and growth, {name}"
    return spread_of([kept(evidence, label, values)], label, (cell.key,), label)


def of_correlations(figures: Mapping[tuple[str, str, str], Figure]) -> Finding:
    """As the paper has it where LoRA's whole interval lies above zero and the other two's lie below."""
    as_said = {}
    for problem, said, _ in figures:
        signs = {name: figures[problem, said, name].value for name in ("LoRA", "DoRA", "full")}
        right = signs["LoRA"].low > 0 and max(signs["DoRA"].high, signs["full"].high) < 0
        wrong = signs["LoRA"].high < 0 or signs["DoRA"].low > 0 or signs["full"].low > 0
        as_said[f"{said}, {problem}"] = "so" if right else "not so" if wrong else "undecided"
    found = list(as_said.values())
    verdict = HOLDS if set(found) == {"so"} else CONDITION if "so" in found else INCONCLUSIVE if "undecided" in found else FAILS
    said = "; ".join(f"{each} for {where}" for where, each in as_said.items())
    return Finding(verdict, f"{said}. What reaches one weight by any way has one correlation.", tuple(figures.values()))
