"""Flora (arXiv 2402.03293) as an adapter: a projection drawn again and again beside LoRA in real models."""

from bench.claims._claim import Evidence, Finding, claim
from bench.claims._scaled import STUDY, beside_lora
from bench.claims.flora import PAPER

LEDGER = "flora"


@claim(
    "models",
    "In a sentence encoder and in a language model Flora of LoRA's rank ends better than LoRA.",
    source=f"{PAPER}, experiments on T5 and GPT-2 at equal rank, with Flora as an optimizer; asked here of its adapter",
    matched=(
        "MiniLM on 16 or 64 reviews, 60 steps, test error; SmolLM2 on reviews, 40 steps, test perplexity; rank 8, κ = 20, B under "
        "Adam, its moments carried over (LoRA's eps on texts: 1e-6), once in 40 steps in SmolLM2, for whose 576 columns that stays "
        f"bounded from κ = 21 on; {STUDY}"
    ),
    experiments=("scaled_text_arms", "scaled_text_methods", "scaled_language"),
)
def ends_better_than_lora(evidence: Evidence) -> Finding:
    measures = {"16 texts": "test error", "64 texts": "test error", "language": "test perplexity"}
    return beside_lora(evidence, "flora", measures)
