"""What a training step costs in real models, beside LoRA's."""

from importlib.util import find_spec

import numpy as np

from bench.claims._claim import NOT_RUN, SEEDS, Evidence, Finding, at_most, by_bound, claim, typical
from bench.claims._op_lora import PAPER
from bench.claims.geolora_cost import one_thread

LEDGER = "general"

PLAIN = "lora + adam"
METHODS = {"OP-LoRA": "op_lora + adam", "Deep LoRA": "deep_lora + adam", "AdaLoRA": "adalora + adam", "Flora": "flora + adam"}
PACKAGES = ("transformers", "peft", "diffusers")


def ratios(task: str) -> dict[str, np.ndarray]:
    """(10,) by method, seconds of a step over those of LoRA's in the same round."""
    from bench.engine import Settings
    from bench.fine_tuning import Lane
    from bench.perf import tasks

    settings, drawn = Settings(1000), tasks.TASKS[task].draw(0)
    lanes = {name: Lane(drawn, *tasks.METHODS[name], 0, 1e-4, settings) for name in (PLAIN, *METHODS.values())}
    tasks.in_turn(lanes, 1, settings.device)  # buffers and caches
    times = {name: np.array(found) for name, found in tasks.in_turn(lanes, len(SEEDS), settings.device).items()}
    return {said: times[name] / times[PLAIN] for said, name in METHODS.items()}


@claim(
    "models_cost",
    "In real models a training step of OP-LoRA, Deep LoRA, AdaLoRA or Flora takes at most 20 % longer than LoRA's.",
    source=f"{PAPER}, section 4.4, tables 3 and 4 (14 % for OP-LoRA in LLaMA-7B); asked here of the others, too",
    matched=(
        "MiniLM with batches of 16 reviews, SmolLM2, a U-Net, a ViT of width 64, a T5 of width 64; rank 8, Adam; a step of each in "
        "turn, ten rounds, float32, one thread, this machine"
    ),
)
def steps_cost_as_much(evidence: Evidence) -> Finding:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        return Finding(NOT_RUN, f"It needs {' and '.join(missing)}: `make scaled` installs what models need.")
    figures = []
    with one_thread():
        for task in ("few_shot_text", "causal_lm", "image_style", "image_classification", "summarization"):
            for name, found in ratios(task).items():
                figures.append(typical(evidence, f"seconds of a step, {name} / LoRA, {task}", found))
    slower = [figure.name.partition(", ")[2] for figure in figures if at_most(figure, 1.2) is False]
    return by_bound(figures, 1.2, f"Slower by more: {'; '.join(slower) or 'none'}.")
