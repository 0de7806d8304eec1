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
from bench.stats import EQUAL
from bench.stored import StoredCell

LEDGER = "geolora"

DIGITS = ("scaled_digits", "scaled_digits_geolora")
TEXTS = ("scaled_text_arms", "scaled_text_geolora")
GEOLORA = "GeoLoRA from rank 8 with room for 16, ten steps on the core by Adam, AdamW in the authors' code"
VIT = (
    "CIFAR and ViT-B are replaced by turned digits and a ViT of four layers of width 64, queries and values; rank 8, 198 steps; "
    f"{GEOLORA}"
)
EQUAL_COUNTS = "its budget of singular values is the other's, 8 a layer"
REVISED = (
    "the digits' angle and the ViT's label smoothing were chosen by LoRA's test error; digits have five tuning seeds, not two; at "
    "first GeoLoRA had no room beyond rank 8, and the core's steps were by gradient descent; AdaLoRA's best rate was the last one "
    "tried"
)
MINILM = "GLUE and DeBERTa by 16 or 64 reviews and MiniLM, rank 8, 60 steps, LoRA's Adam with eps 1e-6"
ADAPTIVE, FIXED = {"optimizer__budget": None}, {"optimizer__budget": 64}  # what ends the rank: the tolerance, or the budget


def on_digits(evidence: Evidence, parameterization: str, **settings: object) -> StoredCell:
    return of_study(evidence, problem="image_classification", parameterization=parameterization, **settings)


@claim(
    "vit_rank",
    "In a vision transformer GeoLoRA ends at fewer singular values than LoRA has and AdaLoRA's budget leaves, though there is room "
    "for twice as many.",
    source=f"{PAPER}, abstract and figure 2 (ranks that adapt), restated for one start",
    matched=(
        f"{VIT}, τ = 0.1; the start is LoRA's rank, which LoRA uses up; singular values above 1e-3 of a layer's largest, all "
        f"layers, right after the last truncation; each at its own rate; {STUDY}"
    ),
    experiments=DIGITS,
    revised=REVISED,
)
def gives_up_ranks(evidence: Evidence) -> Finding:
    ours = on_digits(evidence, "svd", **ADAPTIVE)
    verdicts, errors, figures = {}, {}, []
    for rival, name in (("lora", "its start, LoRA's rank"), ("adalora", "AdaLoRA's budget")):
        other = on_digits(evidence, rival)
        found, figure = compared(f"singular values, GeoLoRA / {rival}", (ours, other), "final_update_rank")
        verdicts[name] = {"better": "fewer", "worse": "more"}.get(found.verdict, found.verdict)
        error, beside = compared(f"test error, GeoLoRA / {rival}", (ours, other))
        errors[rival] = error.verdict
        figures += [figure, beside]
    said = "; ".join(f"beside {name}: {verdict}" for name, verdict in verdicts.items())
    return Finding(settled(verdicts, "fewer"), f"Singular values {said}. Test error {told(errors)}", tuple(figures))


@claim(
    "vit_adalora",
    "In a vision transformer GeoLoRA of AdaLoRA's rank reaches a lower test error than AdaLoRA.",
    source=f"{PAPER}, experiments on vision transformers",
    matched=f"{VIT}; {EQUAL_COUNTS}, where AdaLoRA ends that starts from 12; each at its own rate; {STUDY}",
    experiments=DIGITS,
    revised=REVISED,
)
def errs_less_than_adalora(evidence: Evidence) -> Finding:
    cells = (on_digits(evidence, "svd", **FIXED), on_digits(evidence, "adalora"))
    found, figure = compared("test error, GeoLoRA / AdaLoRA, digits", cells)
    verdicts = {"digits": found.verdict}
    return Finding(settled(verdicts), told(verdicts), (figure,))


@claim(
    "models_lora",
    "In a vision transformer and in a sentence encoder GeoLoRA of LoRA's rank reaches a lower test error than LoRA.",
    source=f"{PAPER}, experiments on vision transformers and on GLUE",
    matched=f"{VIT}; {MINILM}; {EQUAL_COUNTS}; each at its own rate; {STUDY}",
    experiments=(*DIGITS, *TEXTS),
    revised=REVISED,
)
def errs_less_than_lora(evidence: Evidence) -> Finding:
    return beside_lora(evidence, "svd", dict.fromkeys(("digits", "16 texts", "64 texts"), "test error"), {"digits": FIXED})


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
    ours, theirs = on_digits(evidence, "svd", **ADAPTIVE), on_digits(evidence, "adalora")
    with one_thread():
        ratios = [cost_beside(ours, theirs, seed) for seed in SEEDS]
    figure = typical(evidence, "seconds of a run, GeoLoRA / AdaLoRA, digits", ratios)
    return by_bound([figure], 1 / EQUAL, f"Ten runs of each, seed by seed; less: at most {1 / EQUAL:.3g} of AdaLoRA's.")
