"""OP-LoRA (arXiv 2412.10362): width, trained numbers, sharing, half the rank, what the paper leaves open, and spread over seeds."""

from dataclasses import dataclass

import numpy as np

from bench.claims._claim import (
    CONDITION,
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    Evidence,
    Figure,
    Finding,
    against,
    claim,
    kept,
    settled,
    spread_of,
    told,
)
from bench.claims._op_lora import DIGITS, PAPER, VARIANTS, cell_of, cross_fitted, on_grid, reported, set_beside
from bench.runs import run
from bench.stats import Interval
from bench.study import Study
from optimizers import Adam
from parameterizations import DoRA, OPDoRA, Parameterization
from problems import RotatedDigits

LEDGER = "op_lora"

WIDTHS, WIDTHS_DORA = "claims_op_lora_widths", "claims_op_lora_dora_widths"
PARAMETERS, RANK_ONE, HALF_RANK = "claims_op_lora_parameters", "claims_op_lora_rank_one", "claims_op_lora_half_rank"
COMPLETION = "claims_op_lora_completion"
SHARED, LAYERS = "claims_op_lora_shared", "claims_op_lora_layers"
OPEN, OPEN_DIGITS = "claims_op_lora_variants", "claims_op_lora_variants_digits"
ON_DIGITS = "rotated digits, 500 batches of 128, 11 rates from 1e-5 to 1 on ten seeds, ten others reported"
SPREAD_SEEDS = tuple(range(200, 220))  # of the start and of the batches, on one draw of the data


@claim(
    "C7",
    "A generator of width 1 ends worse than the paper's 32; from 4 to 512 the width makes little difference.",
    source=f"{PAPER}, section 4.4 and figure 4 (flat for commonsense; an inverted U for VL-BART), of OP-DoRA",
    matched=(
        "every width with the same rates on ten seeds, ten others reported: OP-LoRA by the loss on 32 x 24 uniform, rank 4, 1000 "
        "Adam steps; OP-DoRA by the test error on rotated digits, rank 4, 500 batches of 128. Each at its own best rate, and at "
        "that of width 32. Little: within 5 %"
    ),
    experiments=(WIDTHS, WIDTHS_DORA),
    revised="the size and the number of seeds, for the time it takes",
)
def width_matters_little(evidence: Evidence) -> Finding:
    narrow: dict[str, str] = {}
    others: dict[str, str] = {}
    figures = []
    for experiment, measure in ((WIDTHS, "final_loss"), (WIDTHS_DORA, "headline")):
        cells = {cell.settings["parameterization.hidden"]: cell for cell in evidence.sweeps[experiment]}
        usual, seeds = cells.pop(32), next(iter(cells.values())).config["seeds"]["tune"]
        rate = usual.summary["chosen_lr"]
        for width, cell in sorted(cells.items()):
            label = f"{measure}, width {width} / width 32, {usual.summary['problem']}"
            comparison, figure = reported(cell, usual, measure, f"{label}, each tuned")
            (narrow if width == 1 else others)[f"width {width} ({usual.summary['problem']})"] = comparison.verdict
            sides = [on_grid(each, measure, rate) for each in (cell, usual)]
            figures += [figure, set_beside(evidence, f"{label}, both at {rate:g}", sides, seeds)[1]]
    verdict = together(settled(narrow, "worse"), settled(others, "equal"))
    return Finding(verdict, f"Against width 32, each tuned: {told(narrow | others)}", tuple(figures))


def together(*verdicts: str) -> str:
    """The verdict on a sentence that says several things at once."""
    if set(verdicts) == {HOLDS}:
        return HOLDS
    if {HOLDS, CONDITION} & set(verdicts):
        return CONDITION
    return INCONCLUSIVE if INCONCLUSIVE in verdicts else FAILS


@claim(
    "C8",
    "OP-LoRA generalises better than LoRA of a rank with as many trained numbers.",
    source=f"{PAPER}, section 4.3 and table 3 (77.1 % against 61.6 % at rank 466, at one rate for both)",
    matched=(
        f"Adam; digits: {ON_DIGITS}; completion: 64 x 64 of rank 1, 30 % seen with 10 % noise, 1000 steps, 9 rates; OP-LoRA of "
        "rank 1 (8,480 numbers a layer) beside LoRA of rank 64 (8,192), by the test error; tuned by validation, and both at "
        "OP-LoRA's rate"
    ),
    experiments=(RANK_ONE, PARAMETERS, COMPLETION),
    revised='completion was added to the digits, which alone gave "does not hold"',
)
def beats_its_own_size(evidence: Evidence) -> Finding:
    cells = [cell for each in evidence.sweeps.values() for cell in each]
    verdicts: dict[str, str] = {}
    same: dict[str, str] = {}
    figures = []
    for where, problem in (("digits", "rotated_digits"), ("completion", "matrix_completion")):
        op, small, wide = (
            cell_of(cells, problem=problem, parameterization=name, parameterization__rank=rank)
            for name, rank in (("op_lora", 1), ("lora", 1), ("lora", 64))
        )
        seeds, rate = op.config["seeds"]["tune"], op.summary["chosen_lr"]
        for rank, other in ((64, wide), (1, small)):
            label = f"test error, OP-LoRA of rank 1 / LoRA of rank {rank}, {where}"
            tuned, figure = reported(op, other, "headline", f"{label}, each tuned")
            sides = [on_grid(cell, "headline", rate) for cell in (op, other)]
            matched, at_once = set_beside(evidence, f"{label}, both at {rate:g}", sides, seeds)
            figures += [figure, at_once]
            found = verdicts if other is wide else same
            found |= {f"{where}, each tuned": tuned.verdict, f"{where}, both at OP-LoRA's rate": matched}
    said = f"OP-LoRA of rank 1 against LoRA of rank 64: {told(verdicts)} Against LoRA of rank 1: {told(same)}"
    return Finding(settled(verdicts), said, tuple(figures))


@claim(
    "C9",
    "One MLP for all layers ends much worse than an MLP for each.",
    source=f"{PAPER}, section 4.3 and table 3 (HyperLoader: 41.8 % against 77.1 %)",
    matched=(
        "eight layers of 24 x 24 with targets of rank 2 that have nothing in common, rank 2, 1000 Adam steps, nine rates each on "
        "ten seeds, ten others reported; a layer's own MLP has 8 units (16,192 numbers in all), the shared one 4, 8, or 67 "
        "(16,099), and an input a layer. It predicts changes from a start that each layer keeps"
    ),
    experiments=(SHARED, LAYERS),
    revised="the size and the number of seeds, for the time it takes",
)
def sharing_hurts(evidence: Evidence) -> Finding:
    (own,) = evidence.sweeps[LAYERS]
    verdicts, figures = {}, []
    for cell in sorted(evidence.sweeps[SHARED], key=lambda cell: cell.settings["parameterization.hidden"]):
        width = cell.settings["parameterization.hidden"]
        comparison, figure = reported(cell, own, name=f"remaining, shared with {width} units / a layer's own, each tuned")
        verdicts[f"{width} units"] = comparison.verdict
        figures.append(figure)
        for whose, rate in (("shared", cell.summary["chosen_lr"]), ("own", own.summary["chosen_lr"])):
            sides = [on_grid(each, "remaining", rate) for each in (cell, own)]
            label = f"remaining, shared with {width} units / a layer's own, both at the {whose} one's rate, {rate:g}"
            figures.append(set_beside(evidence, label, sides, cell.config["seeds"]["tune"])[1])
    said = f"The shared MLP, each tuned: {told(verdicts)} With k units all layers' changes lie in k + 1 dimensions."
    return Finding(settled(verdicts, "worse"), said, tuple(figures))


@claim(
    "C13",
    "With Scaled AdamW, OP-LoRA of half the rank does as well as LoRA of the whole, which LoRA of half the rank does not.",
    source=f"{PAPER}, section 4.3 and table 3 (77.7 % for both, 76.7 % for half the rank alone)",
    matched=f"{ON_DIGITS}; Scaled AdamW, rank 2 against rank 4, by the test error, tuned by validation",
    experiments=HALF_RANK,
)
def halves_the_rank(evidence: Evidence) -> Finding:
    study = evidence.study
    whole, half, predicted = (f"{name} + scaled_adamw" for name in ("lora, rank=4", "lora, rank=2", "op_lora, rank=2"))
    parity, figure = against(study, predicted, whole, study.problems, "headline")
    loss, plain = against(study, half, whole, study.problems, "headline")
    beside = [each for method in (predicted, half) for each in by_loss_and_at_once(evidence, study, method, whole)]
    figures = (figure, plain, *beside)
    said = (
        f"Test error of OP-LoRA at rank 2: {parity.verdict}; of LoRA at rank 2: {loss.verdict}. Beside it: training loss, and test "
        "errors at one rate for both."
    )
    if parity.verdict not in ("equal", "better"):
        return Finding(FAILS if parity.verdict == "worse" else INCONCLUSIVE, said, figures)
    return Finding(HOLDS if loss.verdict == "worse" else CONDITION, said, figures)


def by_loss_and_at_once(evidence: Evidence, study: Study, a: str, b: str) -> list[Figure]:
    """Training loss at the rate that is best by it, and test errors at b's best rate."""
    (problem,) = study.problems
    cells = [study.cells[problem, method] for method in (a, b)]
    seeds, rate = cells[0].config["seeds"]["tune"], cells[1].summary["chosen_lr"]
    sides = {
        f"final_loss, {a} / {b}, each at its best rate": [cross_fitted(cell, "final_loss")[0] for cell in cells],
        f"headline, {a} / {b}, both at {rate:g}": [on_grid(cell, "headline", rate) for cell in cells],
    }
    return [set_beside(evidence, name, each, seeds)[1] for name, each in sides.items()]


@claim(
    "C14",
    "What the paper leaves open makes no difference: z's size, Kaiming's variant, how B starts at 0, whether z trains, the ReLU.",
    source=f"asked of {PAPER}, appendix C.1, and its early code, by the dossier (C14)",
    matched=(
        "one thing changed at a time, each half of ten seeds at the other half's best rate: training loss on 32 x 24 uniform, "
        "rank 4, 1000 Adam steps, and on rotated digits, rank 4, 500 batches of 128. No difference: within 5 %"
    ),
    experiments=(OPEN, OPEN_DIGITS),
)
def is_robust_to_what_is_open(evidence: Evidence) -> Finding:
    verdicts: dict[str, str] = {}
    figures = []
    for experiment, where in ((OPEN, "uniform"), (OPEN_DIGITS, "digits")):
        cells = {each: cell_of(evidence.sweeps[experiment], parameterization__variant=each) for each in VARIANTS}
        usual = cells.pop("paper")
        seeds = usual.config["seeds"]["tune"]
        theirs, (rate, _) = cross_fitted(usual, "final_loss")
        for variant, cell in cells.items():
            name = f"final_loss, {variant} / the paper's, {where}"
            sides = cross_fitted(cell, "final_loss")[0], theirs
            verdicts[f"{variant} ({where})"], tuned = set_beside(evidence, f"{name}, each tuned", sides, seeds)
            sides = on_grid(cell, "final_loss", rate), on_grid(usual, "final_loss", rate)
            figures += [tuned, set_beside(evidence, f"{name}, both at {rate:g}", sides, seeds)[1]]
    return Finding(settled(verdicts, "equal"), f"Against the paper's, each tuned: {told(verdicts)}", tuple(figures))


@dataclass(frozen=True)
class SameDigits(RotatedDigits):
    """One draw of the data whatever the seed, which is then that of the start and of the batches alone."""

    def instance(self, seed):
        return super().instance(100)


@claim(
    "C15",
    "OP-DoRA's result varies less from seed to seed than DoRA's.",
    source=f"{PAPER}, section B.4 (1.6 against 6.7 points, three runs)",
    matched=(
        "the standard deviation of the test error over 20 seeds of the start and of the batches, on one draw of the rotated "
        "digits; rank 4, 500 batches of 128, Adam; each at its tuned rate, and both at either's"
    ),
    experiments=DIGITS,
)
def varies_less(evidence: Evidence) -> Finding:
    rates = {name: cell_of(evidence.sweeps[DIGITS], parameterization=name).summary["chosen_lr"] for name in ("op_dora", "dora")}
    errors = {
        (name, rate): errors_by_seed(evidence, name, method, rate)
        for name, method in (("op_dora", OPDoRA(4)), ("dora", DoRA(4)))
        for rate in sorted(set(rates.values()))
    }
    settings = {"each tuned": (rates["op_dora"], rates["dora"])}
    settings |= {f"both at {rate:g}": (rate, rate) for rate in sorted(set(rates.values()))}
    verdicts: dict[str, str] = {}
    figures = []
    for name, rate in errors:
        seen = f"test error of {name} at {rate:g}"
        figures.append(spread_of([errors[name, rate]], f"standard deviation, {seen}", measure=seen, statistic=deviation))
    for setting, (op_rate, rate) in settings.items():
        value = ratio_of_spreads(errors["op_dora", op_rate], errors["dora", rate])
        verdicts[setting] = "better" if value.high < 1 else "worse" if value.low > 1 else "inconclusive"
        figures.append(Figure(f"standard deviation of the test error, OP-DoRA / DoRA, {setting}", value, len(SPREAD_SEEDS)))
    return Finding(settled(verdicts), told(verdicts), tuple(figures))


def deviation(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.std(-1))


def errors_by_seed(evidence: Evidence, name: str, method: Parameterization, rate: float) -> np.ndarray:
    """(k,) test errors, written down."""
    lanes = run(SameDigits(batch_size=128), method, Adam(), lr=rate, seeds=SPREAD_SEEDS, steps=500, probes="none").lanes
    return kept(evidence, f"test error of {name} at {rate:g}", lanes["headline"].to_numpy(), SPREAD_SEEDS)


def ratio_of_spreads(a: np.ndarray, b: np.ndarray, resamples: int = 2000) -> Interval:
    """Of the standard deviations of a and b (k,), seeds drawn again in pairs."""
    random = np.random.default_rng(0)
    again = random.integers(len(a), size=(resamples, len(a)))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.nan_to_num(a[again].std(1) / b[again].std(1), nan=1.0, posinf=np.inf)
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Interval(float(a.std() / b.std()), float(low), float(high))
