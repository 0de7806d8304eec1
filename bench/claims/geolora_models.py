"""GeoLoRA (arXiv 2410.18720) in real models: the ranks that it ends at, its errors, and what a step takes."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from bench.claims._claim import NOT_RUN, SEEDS, Evidence, Finding, by_bound, claim, settled, told, typical
from bench.claims._geolora import PAPER
from bench.claims._scaled import STUDY, beside_lora, compared, of_study
from bench.claims.geolora_cost import one_thread, seconds
from bench.config import rebuilt
from bench.stored import StoredCell

LEDGER = "geolora"

DIGITS = ("scaled_digits", "scaled_digits_geolora")
TEXTS = ("scaled_text_arms", "scaled_text_geolora")
VIT = (
    "CIFAR and ViT-B are replaced by turned digits and a ViT of four layers of width 64, queries and values; rank 8, 198 steps; "
    "GeoLoRA's ten steps on the core by Adam, AdamW in the authors' code"
)
REVISED = (
    "the digits' angle and the ViT's label smoothing were chosen by LoRA's test error; digits have five tuning seeds, not two; the "
    "core's steps were by gradient descent at first, the test error so 0.234, and 0.766 of the singular values"
)
MINILM = "GLUE and DeBERTa by 16 or 64 reviews and MiniLM, rank 8, 60 steps"


def on_digits(evidence: Evidence, parameterization: str) -> StoredCell:
    return of_study(evidence, problem="image_classification", parameterization=parameterization)


@claim(
    "vit_rank",
    "In a vision transformer GeoLoRA ends at fewer singular values than it starts with and has room for, and than AdaLoRA's budget "
    "leaves.",
    source=f"{PAPER}, abstract and figure 2 (ranks that adapt), restated for one start",
    matched=(
        f"{VIT}, τ = 0.1; start and room are LoRA's rank, which LoRA uses up; singular values above 1e-3 of a layer's largest, all "
        f"layers, right after the last truncation; each at its own rate; {STUDY}"
    ),
    experiments=DIGITS,
    revised=REVISED,
)
def gives_up_ranks(evidence: Evidence) -> Finding:
    verdicts, figures = {}, []
    for rival, name in (("lora", "its start, LoRA's rank"), ("adalora", "AdaLoRA's budget")):
        cells = (on_digits(evidence, each) for each in ("svd", rival))
        found, figure = compared(f"singular values, GeoLoRA / {rival}", cells, "final_update_rank")
        verdicts[name] = {"better": "fewer", "worse": "more"}.get(found.verdict, found.verdict)
        figures.append(figure)
    said = "; ".join(f"beside {name}: {verdict}" for name, verdict in verdicts.items())
    return Finding(settled(verdicts, "fewer"), f"Singular values {said}.", tuple(figures))


@claim(
    "vit_adalora",
    "In a vision transformer GeoLoRA of AdaLoRA's rank reaches a lower test error than AdaLoRA.",
    source=f"{PAPER}, experiments on vision transformers",
    matched=f"{VIT}, AdaLoRA from 12; each at its own rate; {STUDY}",
    experiments=DIGITS,
    revised=REVISED,
)
def errs_less_than_adalora(evidence: Evidence) -> Finding:
    found, figure = compared("test error, GeoLoRA / AdaLoRA, digits", (on_digits(evidence, name) for name in ("svd", "adalora")))
    verdicts = {"digits": found.verdict}
    return Finding(settled(verdicts), told(verdicts), (figure,))


@claim(
    "models_lora",
    "In a vision transformer and in a sentence encoder GeoLoRA of LoRA's rank reaches a lower test error than LoRA.",
    source=f"{PAPER}, experiments on vision transformers and on GLUE",
    matched=f"{VIT}; {MINILM}; each at its own rate; {STUDY}",
    experiments=(*DIGITS, *TEXTS),
    revised=REVISED,
)
def errs_less_than_lora(evidence: Evidence) -> Finding:
    return beside_lora(evidence, "svd", dict.fromkeys(("digits", "16 texts", "64 texts"), "test error"))


def stepping(stored: StoredCell, seed: int) -> tuple[Callable[[], object], int]:
    """What takes a step of a cell's run at its chosen rate, and how many there are."""
    from bench.engine import Settings
    from bench.fine_tuning import Lane

    cell = rebuilt(stored.config)
    rate = stored.summary["chosen_lr"] or cell.optimizer.span[0]
    task: Any = cell.problem.draw(seed)
    settings = Settings(cell.steps, cell.schedule, cell.warmup)
    return Lane(task, cell.parameterization, cell.optimizer, seed, rate, settings).advance, cell.steps


def cost_beside(ours: StoredCell, theirs: StoredCell, seed: int) -> float:
    """Seconds of a run's whole periods over those of the other's as many steps, taken in turn."""
    period = ours.settings["optimizer.coefficient_steps"] + 1
    (first, steps), (second, _) = (stepping(cell, seed) for cell in (ours, theirs))

    def several(step: Callable[[], object]) -> None:
        for _ in range(period):
            step()

    times = [[seconds(partial(several, step)) for step in (first, second)] for _ in range(steps // period)]
    a, b = (sum(each) for each in zip(*times, strict=True))
    return a / b


@claim(
    "vit_cost",
    "Training a vision transformer takes less time a step with GeoLoRA than with AdaLoRA.",
    source=f"{PAPER}, abstract: faster than AdaLoRA",
    matched=(
        f"{VIT}; forward and backward passes included, evaluations left out; periods of 11 steps in turn, one thread, this machine"
    ),
    experiments=DIGITS,
)
def steps_are_faster(evidence: Evidence) -> Finding:
    if missing := [name for name in ("transformers", "peft") if find_spec(name) is None]:
        return Finding(NOT_RUN, f"It needs {' and '.join(missing)}: `make scaled` installs what models need.")
    ours, theirs = (on_digits(evidence, name) for name in ("svd", "adalora"))
    with one_thread():
        ratios = [cost_beside(ours, theirs, seed) for seed in SEEDS]
    figure = typical(evidence, "seconds of a run, GeoLoRA / AdaLoRA, digits", ratios)
    return by_bound([figure], 1, "Ten runs of each, seed by seed.")
