"""OP-LoRA (arXiv 2412.10362): its training loss beside LoRA's at shared and at tuned rates, and what a constant factor explains."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing

from bench.claims._claim import SEEDS, Evidence, Figure, Finding, at_most, claim, kept, settled, told, typical
from bench.claims._op_lora import (
    DIGITS,
    FACTORIZATION,
    GENERATORS,
    PAPER,
    Pair,
    cross_fitted,
    on_grid,
    pairs,
    pooled,
    reported,
    set_beside,
    sign_of,
    whole_grid,
)
from bench.engine import Block, Settings
from bench.stats import interval, median
from bench.stored import StoredCell
from bench.study import reported_costs
from linalg import FactoredMatrix
from optimizers import SGD, schedule_factor
from parameterizations import OPLoRA
from parameterizations._generator import hidden_units
from problems import MatrixFactorization

GRID = (
    "rank, steps, schedule, rates and seeds; factorization: 100 x 100 uniform, rank 8, 1000 steps with warm-up and linear decay, "
    "17 rates from 1e-5 to 1e3; digits: 8 x 8, two layers of 64, rank 4, 500 batches of 128, 11 rates from 1e-5 to 1; ten seeds"
)
SWEPT = (FACTORIZATION, GENERATORS, DIGITS)
NEAR = 1.05  # times the best loss, or the lowest possible one: as good as reached
MULTIPLES = (3, 10, 30, 100)  # of LoRA's rate, half decades: neighbours on the grid
AS_TOLD = {True: "reaches it", False: "does not", None: "may reach it"}
REPLAYED = (0.1, 1.0, 10.0)  # below, at and above where OP-LoRA gets most of the way with SGD


@claim(
    "C3",
    "At the same learning rate OP-LoRA ends at a lower training loss than LoRA, whichever rate it is.",
    source=f"{PAPER}, figure 2 a; section B.2 for the factorization",
    matched=f"{GRID}; each rate is compared as it is, and rates at which neither gets half way to the lowest loss are left out",
    experiments=SWEPT,
)
def lower_at_every_rate(evidence: Evidence) -> Finding:
    verdicts: dict[str, str] = {}
    figures, where = [], []
    for pair in pairs(evidence):
        found = at_each_rate(evidence, pair)
        verdicts |= {f"{pair.label} at {rate:g}": verdict for rate, (verdict, _) in found.items()}
        figures += [figure for _, figure in found.values()]
        where.append(f"{pair.label}: {by_rate({rate: verdict for rate, (verdict, _) in found.items()})}")
    evidence.drawings["op-lora-rates"] = drawn(pairs(evidence))
    return Finding(settled(verdicts), f"{'; '.join(where)}.", tuple(figures))


def at_each_rate(evidence: Evidence, pair: Pair) -> dict[float, tuple[str, Figure]]:
    """OP-LoRA's loss against LoRA's at every rate that trains one of them."""
    found = {}
    for rate in pair.rates:
        a, b = on_grid(pair.op, "final_loss", rate), on_grid(pair.lora, "final_loss", rate)
        if min(median(a), median(b)) <= half_way(pair):
            name = f"final_loss, OP-LoRA / LoRA, {pair.label} at {rate:g}"
            found[rate] = set_beside(evidence, name, (a, b), pair.seeds)
    return found


def half_way(pair: Pair) -> float:
    """From the loss at the start to the lowest median of either method."""
    best = min(median(whole_grid(cell, "final_loss")[1], axis=0).min() for cell in (pair.op, pair.lora))
    return float(median(pair.lora.tuned["initial_loss"]) + best) / 2


def by_rate(verdicts: dict[float, str]) -> str:
    """Which rates have which verdict."""
    parts = {
        each: [f"{rate:g}" for rate, verdict in verdicts.items() if verdict == each] for each in dict.fromkeys(verdicts.values())
    }
    return ", ".join(f"{each} at {' '.join(rates)}" for each, rates in parts.items()) or "no rate trains either"


def drawn(settings: Sequence[Pair]) -> Drawing:
    """Median loss at the end by rate, a panel a setting; the band is the seeds' range."""
    from bench.plots.style import Look, slots

    figure = Drawing(figsize=(3.2 * len(settings), 3.4), layout="constrained")
    places = slots({"lora", "op_lora"})
    for axes, pair in zip(figure.subplots(1, len(settings), squeeze=False)[0], settings, strict=True):
        top = float(median(pair.lora.tuned["initial_loss"]))
        for name, cell in (("lora", pair.lora), ("op_lora", pair.op)):
            rates, losses = whole_grid(cell, "final_loss")
            shown = np.minimum(losses, 1.5 * top)
            axes.plot(rates, median(shown, axis=0), label=name, **Look(places[name]).line)
            axes.fill_between(rates, shown.min(0), shown.max(0), color=Look(places[name]).colour, alpha=0.15, lw=0)
        axes.set(xscale="log", yscale="log", title=pair.label, xlabel="learning rate")
    figure.axes[0].set_ylabel("training loss at the end")
    figure.axes[0].legend()
    figure.suptitle("Loss by learning rate: where OP-LoRA is lower than LoRA", fontsize=12, weight="bold", x=0.01, ha="left")
    return figure


@claim(
    "C4",
    "OP-LoRA depends less on the learning rate than LoRA: more of the rates end near its best loss.",
    source=f"{PAPER}, section 3.3 and figure 2 a; the thresholds are the dossier's (C4) and this suite's",
    matched=f"{GRID}; each method is held against its own best, seed by seed",
    experiments=SWEPT,
)
def wider_window(evidence: Evidence) -> Finding:
    verdicts, figures = {}, []
    for pair in pairs(evidence):
        sides = [readings(*whole_grid(cell, "final_loss"), cell.tuned) for cell in (pair.op, pair.lora)]
        for reading in sides[0]:
            name = f"{reading}, OP-LoRA less LoRA, {pair.label}"
            value = kept(evidence, name, sides[0][reading] - sides[1][reading], pair.seeds)
            figure = Figure(name, interval([value]), len(value), measure=name)
            figures.append(figure)
            verdicts[f"{reading} ({pair.label})"] = sign_of(figure.value, 0.25 if "decades" in reading else np.log10(NEAR))
    return Finding(settled(verdicts), told(verdicts), tuple(figures))


def readings(rates: np.ndarray, losses: np.ndarray, lanes: pd.DataFrame) -> dict[str, np.ndarray]:
    """(k,) how insensitive a method is to the rate, by seed: more is better.

    Args:
        losses: (k, r) at the end, infinite where a run diverged.
    """
    start = lanes.groupby("seed")["initial_loss"].first().sort_index().to_numpy()
    best = losses.min(1)
    spacing = np.log10(rates[1] / rates[0])
    within = {"decades within 5 % of its best": NEAR * best, "decades within half way to its best": (start + best) / 2}
    found = {name: spacing * (losses <= limit[:, None]).sum(1) for name, limit in within.items()}
    area = np.log10(np.minimum(losses, start[:, None]) / start[:, None]).mean(1)
    return found | {"mean of -log10 of the loss left, over the grid": -area}


@claim(
    "C5",
    "At its best rate OP-LoRA ends at a lower training loss than LoRA at its own.",
    source=f"{PAPER}, section 3.3 (0.54 against 0.59 on rotated MNIST) and finding 2 of section B.2",
    matched=(
        f"{GRID}. Factorization: the rate from ten seeds, ten others reported. Digits, where validation picks the rates: by "
        "training loss, each half of the grid's seeds at the other half's best rate"
    ),
    experiments=SWEPT,
)
def lower_when_tuned(evidence: Evidence) -> Finding:
    verdicts, figures, notes = {}, [], []
    for pair in pairs(evidence):
        if pair.validated:
            (a, ours), (b, theirs) = (cross_fitted(cell, "final_loss") for cell in (pair.op, pair.lora))
            name = f"final_loss, OP-LoRA / LoRA, {pair.label}, each tuned"
            verdicts[pair.label], figure = set_beside(evidence, name, (a, b), pair.seeds)
        else:
            comparison, figure = reported(pair.op, pair.lora, "final_loss")
            verdicts[pair.label], (ours, theirs) = (
                comparison.verdict,
                ((cell.summary["chosen_lr"],) for cell in (pair.op, pair.lora)),
            )
        figures += [figure, reported(pair.op, pair.lora, "headline" if pair.validated else "remaining")[1]]
        for whose, rate in (("LoRA's", theirs[0]), ("OP-LoRA's", ours[0])):
            sides = on_grid(pair.op, "final_loss", rate), on_grid(pair.lora, "final_loss", rate)
            name = f"final_loss, OP-LoRA / LoRA, {pair.label}, both at {whose} best rate"
            figures.append(set_beside(evidence, name, sides, pair.seeds)[1])
        notes.append(f"{pair.label}: OP-LoRA at {ours[0]:g}, LoRA at {theirs[0]:g}")
    said = f"{told(verdicts)} Rates: {'; '.join(notes)}. Beside the verdict's figures: remaining excess, test error, matched rates."
    return Finding(settled(verdicts), said, tuple(figures))


@claim(
    "C6",
    "What OP-LoRA gains at a shared rate is no constant factor on it: LoRA at 3, 10, 30 and 100 times the rate stays behind.",
    source=f"{PAPER}, section 3.2 (a step size that adapts); the control is the dossier's (C6)",
    matched=(
        f"{GRID}; rates at which OP-LoRA is better at the same rate (C3), one factor for all of them. Beside it, SGD on the "
        "factors from OP-LoRA's start with rates times 1 + ‖h‖² of OP-LoRA's run, step by step, ten other seeds"
    ),
    experiments=SWEPT,
)
def more_than_a_factor(evidence: Evidence) -> Finding:
    verdicts, figures, notes = {}, [], []
    for pair in pairs(evidence):
        gaps = [rate for rate, (verdict, _) in at_each_rate(evidence, pair).items() if verdict == "better"]
        found = {}
        for shift, multiple in enumerate(MULTIPLES, start=1):
            sides = beside_multiples(pair, gaps, shift)
            if sides:
                name = f"final_loss, OP-LoRA / LoRA at {multiple} times the rate, {pair.label}, {len(sides)} rates"
                comparison, figure = pooled(evidence, name, sides, pair.seeds)
                found[multiple] = comparison.verdict
                figures.append(figure)
        if found:
            verdicts[pair.label] = ahead_of_all(list(found.values()))
            closing = [f"{multiple}" for multiple, verdict in found.items() if verdict in ("equal", "worse")]
            notes.append(f"{pair.label}: {'closed by a factor of ' + ' or '.join(closing) if closing else 'closed by none'}")
    said = f"The gap at shared rates is, by setting, {'; '.join(notes) or 'absent'}."
    return Finding(settled(verdicts), said, (*figures, *replayed(evidence)))


def beside_multiples(pair: Pair, rates: Sequence[float], shift: int) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """OP-LoRA's losses at some rates, and LoRA's so many places up the grid."""
    places = {rate: i + shift for i, rate in enumerate(pair.rates) if rate in rates and i + shift < len(pair.rates)}
    return {
        rate: (on_grid(pair.op, "final_loss", rate), on_grid(pair.lora, "final_loss", pair.rates[place]))
        for rate, place in places.items()
    }


def ahead_of_all(verdicts: Sequence[str]) -> str:
    """Better than LoRA at every factor; worse where some factor makes up for the gap."""
    if all(verdict == "better" for verdict in verdicts):
        return "better"
    return "worse" if {"equal", "worse"} & set(verdicts) else "inconclusive"


def replayed(evidence: Evidence, steps: int = 1000) -> list[Figure]:
    """OP-LoRA's loss with SGD against that of its factors trained by themselves at its own 1 + ‖h‖² times the rate."""
    problem, method = MatrixFactorization((100, 100), normalize="none", reduction="mean"), OPLoRA(8, generators="separate")
    instances = [problem.draw(seed, dtype=torch.float32, device="cpu") for seed in SEEDS]
    block = Block(instances, method, SGD(), SEEDS, REPLAYED, Settings(steps, "linear", 50, probes="none"))
    left, right = (factor.clone() for factor in method.factors(block.params))
    target, weight = block.instance.target, block.instance.weight[..., None, None]  # type: ignore[attr-defined]  # least squares
    for step in range(steps):
        rate = block.lr * schedule_factor("linear", step, steps, 50)
        by_left, by_right = (
            (weight.squeeze((-2, -1)) * rate * (1 + hidden_units(block.params, side).square().sum(-1)))[..., None, None]
            for side in ("left_", "right_")
        )
        toward_left = left @ (right @ right.mT) - target @ right.mT
        toward_right = (left.mT @ left) @ right - left.mT @ target
        left, right = left - by_left * toward_left, right - by_right * toward_right
        block.find_gradients(step)
        block.step()
    losses = (
        block.instance.loss(each).nan_to_num(torch.inf, torch.inf) for each in (block.weight(), FactoredMatrix((left, right)))
    )
    ours, theirs = (each.double().numpy() for each in losses)
    names = [f"final_loss, OP-LoRA / LoRA at rates times its 1 + ‖h‖², factorization, sgd at {rate:g}" for rate in REPLAYED]
    return [set_beside(evidence, name, (ours[:, i], theirs[:, i]), SEEDS)[1] for i, name in enumerate(names)]


@claim(
    "C12",
    "Momentum and Adam alone do not reach the SVD's error; with them OP-LoRA does, and in fewer steps.",
    source=f"{PAPER}, section B.2, finding 3 and figure 6",
    matched=(
        "100 x 100 uniform, rank 8, 1000 steps with warm-up and linear decay; the same 17 rates for both, the best on ten seeds, "
        "ten others reported. Reached: within 5 % of the SVD's error; steps: to 1 % of the excess over it, which is about as much"
    ),
    experiments=(FACTORIZATION, GENERATORS),
    revised="the rule asks for an advantage by optimizer, and a seed's divergence no longer hides that LoRA is there sooner",
)
def composes(evidence: Evidence) -> Finding:
    verdicts, figures, notes = {}, [], []
    for pair in pairs(evidence):
        rule = pair.label.split(", ")[1]
        ours, theirs = (above_svd(evidence, f"{name} + {rule}", cell) for name, cell in (("OP-LoRA", pair.op), ("LoRA", pair.lora)))
        sooner, steps = reported(pair.op, pair.lora, "steps_to_1e-02")
        figures += [ours, theirs, steps]
        for share in (1, 0.1):
            rate = pair.rates[pair.rates.index(pair.op.summary["chosen_lr"]) + (0 if share == 1 else -2)]
            name = f"steps_to_1e-02, OP-LoRA / LoRA, {pair.label}, both at {share:g} of OP-LoRA's best rate, {rate:g}"
            sides = [on_grid(cell, "steps_to_1e-02", rate) for cell in (pair.op, pair.lora)]
            figures.append(set_beside(evidence, name, sides, pair.seeds)[1])
        if rule != "sgd":  # shown for comparison: the sentence is about the other two
            reaches, also = at_most(ours, NEAR), at_most(theirs, NEAR)
            verdicts[rule] = with_an_advantage(reaches, also, sooner.verdict)
            notes.append(f"with {rule} OP-LoRA {AS_TOLD[reaches]}, LoRA {AS_TOLD[also]}, and OP-LoRA's steps are {sooner.verdict}")
    return Finding(settled(verdicts), f"Each tuned, {'; '.join(notes)}.", tuple(figures))


def with_an_advantage(reaches: bool | None, lora_reaches: bool | None, steps: str) -> str:
    """Better where OP-LoRA reaches the SVD's error, and LoRA does not or needs more steps."""
    if reaches is False or (lora_reaches and steps in ("worse", "equal")):
        return "worse"
    return "better" if reaches and (lora_reaches is False or steps == "better") else "inconclusive"


def above_svd(evidence: Evidence, method: str, cell: StoredCell) -> Figure:
    """The loss over the lowest of that rank, on the reporting seeds."""
    loss, floor = (reported_costs(cell, measure) for measure in ("final_loss", "floor"))
    return typical(evidence, f"final_loss / the SVD's, {method}", (loss / floor).to_numpy(), [int(seed) for seed in loss.index])
