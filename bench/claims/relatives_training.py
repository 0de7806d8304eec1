"""Relatives of Flora in fine-tuning, against LoRA: LoRA-Pro, starts that are parts of the weight, boosters, gates that close."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from bench.claims._claim import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    NOT_RUN,
    SEEDS,
    Claim,
    Evidence,
    Figure,
    Finding,
    against,
    at_most,
    claim,
    kept,
    one,
    settled,
    told,
    typical,
    worst,
)
from bench.claims.flora import at_the_same_rate, by_all, lies_within, mean, run_again
from bench.claims.relatives_walk import block_of
from bench.engine import Block, Settings
from bench.stats import compare, log_ratios
from bench.stored import StoredCell
from bench.study import Study
from linalg.random import generator, uniform
from optimizers import ALS, Adam
from parameterizations import LoRA, SoRA
from parameterizations.sora import sequential, soft
from problems import LinearRegression, MatrixFactorization

LEDGER = "relatives"
LORA_PRO = "Wang et al., arXiv 2407.18242 (LoRA-Pro)"
XGB = "Zhang et al., arXiv 2410.19694 (XGBLoRA)"
SORA = "Ding et al., arXiv 2311.11696 (SoRA)"
TUNED = "Adam, each at its best of nine rates and all at LoRA's; batches of 64, 500 steps"
STARTS = "claims_relatives_starts"


def lora_of(study: Study, rank: int, init: str = "kaiming", optimizer: str = "adam") -> str:
    cells = study.where(parameterization="lora", parameterization__init=init, parameterization__rank=rank, optimizer=optimizer)
    return one(cells)


def tuned_and_matched(
    evidence: Evidence, a: str, b: str, measures: Sequence[str], name: str = ""
) -> tuple[dict[str, str], list[Figure]]:
    """By problem the verdict on the first measure, at each side's own rate; ratios of all of them, and of the first at b's rate."""
    study, verdicts, figures = evidence.study, {}, []
    for problem in study.shared([a, b]):
        for measure in measures:
            comparison, figure = against(study, a, b, [problem], measure)
            figures.append(figure)
            if measure == measures[0]:
                verdicts[f"{problem}{name}"] = comparison.verdict
        figures.append(at_the_same_rate(evidence, study, a, b, problem, measures[0]))
    return verdicts, figures


@claim(
    "lora_pro",
    "LoRA-Pro ends better than LoRA.",
    source=f"{LORA_PRO}, its headline over GLUE, Llama-2-7B and CLIP",
    matched=f"{TUNED} (of Adam: a rate is of LoRA-Pro's own size); rank 4; 32 x 24, and 64 x 64 on rotated digits",
    experiments=(STARTS, "claims_relatives_lora_pro"),
)
def lora_pro_ends_better(evidence: Evidence) -> Finding:
    pro = lora_of(evidence.study, 4, optimizer="lora_pro")
    verdicts, figures = tuned_and_matched(evidence, pro, lora_of(evidence.study, 4), ["remaining", "headline"])
    return Finding(settled(verdicts), f"{told(verdicts)}", tuple(figures))


TENTH = "steps_to_1e-01"


def fastest_rate(cell: StoredCell) -> float:
    """The rate at which the tuning seeds take the fewest steps to a tenth of the excess loss; the chosen one where none does."""
    steps = cell.tuned.groupby("lr")[TENTH].median()
    return float(steps.idxmin()) if np.isfinite(steps.min()) else float(cell.summary["chosen_lr"])


def steps_ratio(
    evidence: Evidence, cells: tuple[StoredCell, StoredCell], rates: tuple[float, float], name: str
) -> tuple[str, Figure]:
    """Steps to a tenth of one cell over those of another on the reporting seeds, each at a rate of its own: verdict and ratio."""
    ours, theirs = (run_again(cell, rate)[TENTH].to_numpy() for cell, rate in zip(cells, rates, strict=True))
    logs, name = log_ratios(ours, theirs), f"{name}, at rates {rates[0]:g} and {rates[1]:g}"
    kept(evidence, name, 10**logs)
    found = compare([logs])
    return found.verdict, Figure(name, found.ratio, len(logs), tuple(cell.key for cell in cells), name)


def converges_faster(name: str, init: str, source: str) -> Claim:
    """The claim that LoRA from that start takes fewer steps to a tenth of the excess loss; what is left stands beside it."""

    def settle(evidence: Evidence) -> Finding:
        study, figures = evidence.study, []
        verdicts: dict[str, str] = {}
        for rank in (4, 8):
            start, random = lora_of(study, rank, init), lora_of(study, rank)
            for problem in study.shared([start, random]):
                cells = study.cells[problem, start], study.cells[problem, random]
                own, theirs = map(fastest_rate, cells)
                said = f"steps to a tenth, {name} / LoRA, rank {rank}, {problem}"
                verdicts[f"{problem} (rank {rank})"], ratio = steps_ratio(evidence, cells, (own, theirs), said)
                matched = [] if own == theirs else [steps_ratio(evidence, cells, (theirs, theirs), said)[1]]
                figures += [ratio, *matched, against(study, start, random, [problem])[1]]
        return Finding(settled(verdicts), f"Steps to a tenth: {told(verdicts)}", tuple(figures))

    return claim(
        f"starts/{name}",
        f"From {name}'s start LoRA converges faster than from A random and B = 0.",
        source=source,
        matched="Adam, each at its fastest of nine rates on the tuning seeds, and at LoRA's; ranks 4, 8; batches of 64, 500 steps",
        experiments=STARTS,
        revised="each side runs at its fastest rate on the tuning seeds, not at the one that ends lowest",
    )(settle)


pissa = converges_faster("PiSSA", "pissa", "Meng et al., arXiv 2404.02948, its headline")
milora = converges_faster("MiLoRA", "milora", "Wang et al., arXiv 2406.09044, its headline")
lora_ga = converges_faster("LoRA-GA", "lora_ga", "Wang et al., arXiv 2407.05000, its headline")


def floor_of(init: str, rank: int) -> np.ndarray:
    """(k,) the share of the loss that LoRA of that rank keeps, by alternating least squares from that start."""
    drawn = [LinearRegression((32, 24)).draw(seed, dtype=torch.float64) for seed in SEEDS]
    settings = Settings(60, dtype=torch.float64, probes="none")
    losses = Block(drawn, LoRA(rank, init=init), ALS(), list(SEEDS), [1.0], settings).run().curves["loss"][..., 0]
    return np.asarray(losses[-1] / losses[0])


@claim(
    "starts/floor",
    "A start that was taken off the base keeps LoRA from reaching a change of its own rank: from PiSSA's, MiLoRA's and LoRA-GA's "
    "a part of the loss stays, and does at twice the rank, too.",
    source="the suite's",
    matched="linear_regression, 32 x 24, change of rank 4, alternating least squares from each start, 60 half steps; float64",
    revised="the sentence said at first that twice the rank removes the floor, which is wrong",
)
def starts_leave_a_floor(evidence: Evidence) -> Finding:
    left = {}
    for init, name in (("kaiming", "LoRA"), ("pissa", "PiSSA"), ("milora", "MiLoRA"), ("lora_ga", "LoRA-GA")):
        for rank in (4, 8):
            left[init, rank] = typical(evidence, f"left from {name}'s start, rank {rank}", floor_of(init, rank))
    return of_floors(left)


def of_floors(left: Mapping[tuple[str, int], Figure]) -> Finding:
    """A floor is what least squares leave above 1e-4; slow directions and rounding stay below 1e-6."""
    floors = [figure.value.low > 1e-4 for (init, _), figure in left.items() if init != "kaiming"]
    reached = [at_most(figure, 1e-6) for (init, _), figure in left.items() if init == "kaiming"]
    return by_all(
        [*floors, *reached],
        list(left.values()),
        "A floor: more than 1e-4 of the loss at W0. It is reached where change and start have rank r together.",
    )


@claim(
    "xgblora",
    "Boosters of rank 1 end as low as LoRA of rank 4 with a quarter of the parameters in training.",
    source=f"{XGB}, its headline over GLUE and Llama-3-8B: better than LoRA with far fewer; ranks and problems are the suite's",
    matched=f"{TUNED}; κ = 50; 32 x 24, and 64 x 64 on rotated digits",
    experiments=(STARTS, "claims_relatives_boosting"),
)
def boosters_end_as_low(evidence: Evidence) -> Finding:
    boosted = one(evidence.study.where(parameterization="xgblora"))
    verdicts, figures = tuned_and_matched(evidence, boosted, lora_of(evidence.study, 4), ["remaining", "headline"])
    found = {problem: "as low" if verdict in ("better", "equal") else verdict for problem, verdict in verdicts.items()}
    return Finding(settled(found, "as low"), told(verdicts), tuple(figures))


@claim(
    "C10",
    "SoRA's gates close, and its rank falls, as the weight ξ of the L1 norm grows.",
    source=f"{SORA}; the test is the dossier's (C10)",
    matched="ξ from 0 to 3 at the same rate, 0.01, of Adam; rank 12 of a Gaussian 32 x 24, 1000 steps",
    revised="a finer grid of ξ",
)
def gates_close(evidence: Evidence) -> Finding:
    strengths = (0.0, 0.3, 1.0, 1.5, 2.0, 3.0)
    counts = [open_gates(xi) for xi in strengths]
    figures = [typical(evidence, f"open gates of 12, ξ = {xi:g}", gates) for xi, gates in zip(strengths, counts, strict=True)]
    changes = [
        mean(evidence, f"change of the count, ξ = {low:g} to {high:g}", after - before)
        for (low, before), (high, after) in pairwise(zip(strengths, counts, strict=True))
    ]
    found = [figures[0].value.low > figures[-1].value.high, *(at_most(change, 0) for change in changes)]
    return by_all(
        found, [*figures, *changes], "At one rate; the norm falls on the gates alone, and B and A can grow in their stead."
    )


def open_gates(xi: float) -> np.ndarray:
    """(k,) how many gates are not zero at the end."""
    drawn = [MatrixFactorization((32, 24), kind="gaussian").draw(seed) for seed in SEEDS]
    block = Block(drawn, SoRA(rank=12, xi=xi), Adam(), list(SEEDS), [0.01], Settings(1000, probes="none"))
    block.run()
    return (block.params["gate"] != 0).sum(-1)[:, 0].double().numpy()


@claim(
    "C10/prox",
    "The authors' three assignments differ from soft thresholding, the proximal step, exactly for gates of size between ξ and 2ξ.",
    source="the authors' code, as read for the dossier (sections 3 and C10)",
    matched="10000 gates uniform in ±4ξ, ξ from 0.001 to 1; float64",
)
def authors_step_differs(evidence: Evidence) -> Finding:
    rows = []
    for seed in SEEDS:
        draw = generator(seed, "gates")
        xi = 10 ** -(3 * float(torch.rand((), generator=draw)))
        gates = uniform(10000, bound=4 * xi, generator=draw)
        differ, between = soft(gates, xi) != sequential(gates, xi), (gates.abs() > xi) & (gates.abs() < 2 * xi)
        zero = sequential(gates, xi)[between] == 0
        rows.append((float((differ != between).sum()), float((~zero).sum()), float(between.double().mean())))
    names = ("gates that differ elsewhere, or not there", "gates there that the authors leave open", "share of gates there")
    figures = [worst(evidence, name, values) for name, values in zip(names[:2], list(zip(*rows, strict=True))[:2], strict=True)]
    beside = typical(evidence, names[2], [row[2] for row in rows])
    return by_all([lies_within(each, 0, 0) for each in figures], [*figures, beside], "The authors close them all.")


@claim(
    "sora",
    "SoRA ends better than LoRA with at most 70 % of its parameters left.",
    source=f"{SORA}, abstract (GLUE); from the dossier (section 3)",
    matched=f"{TUNED}; rank 8, rotated digits; ξ of four by the tuning seeds among those that leave 70 % of the gates or fewer",
    experiments=(STARTS, "claims_relatives_sora"),
    revised="ξ is picked among those that close enough gates",
)
def sora_is_better_and_smaller(evidence: Evidence) -> Finding:
    study, lora = evidence.study, lora_of(evidence.study, 8)
    sora = study.where(parameterization="sora")
    (problem,) = sora.problems
    shares = {method: share_of_gates(evidence, sora.cells[problem, method], method) for method in sora.methods}
    small = [method for method, share in shares.items() if share.value.value <= 0.7]
    if not small:
        return Finding(INCONCLUSIVE, "No ξ of the grid closed three gates of ten.", tuple(shares.values()))
    chosen = study.preferred(problem, small)
    verdicts, figures = tuned_and_matched(evidence, chosen, lora, ["headline", "remaining"])
    return of_sora(verdicts[problem], [*shares.values(), *figures])


def share_of_gates(evidence: Evidence, cell: StoredCell, method: str) -> Figure:
    """How many of a cell's gates are open at the end, both layers' together."""
    block = block_of(cell, cell.summary["chosen_lr"])
    block.run()
    return typical(evidence, f"share of gates open at the end, {method}", (block.params["gate"] != 0).double().flatten(1).mean(-1))


def of_sora(verdict: str, figures: Sequence[Figure]) -> Finding:
    settled_as = {"better": HOLDS, "inconclusive": INCONCLUSIVE}.get(verdict, FAILS)
    return Finding(
        settled_as, f"Test error, with 70 % of the gates open or fewer: {told({'rotated_digits': verdict})}", tuple(figures)
    )


@claim(
    "glue",
    "SoRA, XGBLoRA and FedSA-LoRA beat LoRA on GLUE; Flat-LoRA on GSM8K, HumanEval and MT-Bench with Llama-2-7B.",
    source="their tables, of which the dossier found single numbers (section 3)",
    matched="nothing",
)
def on_language_models(evidence: Evidence) -> Finding:
    return Finding(NOT_RUN, "It needs language models of up to 7 billion weights; small stand-ins have their own claims here.")
