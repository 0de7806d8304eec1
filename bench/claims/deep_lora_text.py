"""Deep LoRA (arXiv 2406.04112): fine-tuning a sentence encoder on few texts."""

from bench.claims._claim import Evidence, Figure, Finding, at_most, claim, settled
from bench.claims._deep_lora import PAPER, all_of, as_said, opposite
from bench.claims._scaled import of_study
from bench.claims.deep_lora_few_shot import COMPRESSED, LORA, NARROW, WIDE, cell_of, compared, counted, range_of, tuned

LEDGER = "deep_lora"

ARMS = {"full": (NARROW, 384), "compressed": (COMPRESSED, 8), "narrow": (NARROW, 8)}
BASELINES = {"LoRA": (LORA, 8), "LoRA from N(0, 1)": (WIDE, 8)}
RANKS = (2, 8, 64)
REPLACED = (
    "BERT on STS-B and GLUE is replaced by MiniLM-L6 on reviews of food in two classes, its query and value layers adapted; the "
    "head is drawn at random and left alone, as the authors have it"
)
SETTINGS = (
    "depth 3, ε = 1e-3, γ = 0.01, Adam with eps 1e-6, batches of 16, 60 steps; five rates from 1e-4 to 1e-2 and more at the edge"
)


@claim(
    "text",
    "A sentence encoder fine-tuned on 16 or 64 texts by Deep LoRA has a lower test error than by LoRA, whether Deep LoRA is full, "
    "compressed or narrow.",
    source=f"{PAPER}, the authors' results on STS-B and GLUE with 16 to 1024 samples",
    matched=f"{REPLACED}; rank 8, the full network of width 384; {SETTINGS}; the test error where the validation loss is lowest",
    experiments=("scaled_text_arms", "scaled_text_full_width"),
)
def generalizes_better_on_text(evidence: Evidence) -> Finding:
    study, figures, said = evidence.study, [], []
    verdicts: dict[str, str] = {}
    for baseline, plain in BASELINES.items():
        found: dict[str, str] = {}
        for problem in study.problems:
            for arm, deep in ARMS.items():
                cells = [cell_of(study, problem, *each) for each in (deep, plain)]
                label = f"{arm} against {baseline} on {problem}"
                found[label], figure = compared(evidence, f"error, {label}", cells, tuned)
                figures.append(figure)
        said.append(f"against {baseline}: {counted(found)}")
        verdicts |= found
    return Finding(settled(verdicts), "Deep LoRA " + "; ".join(said) + ".", tuple(figures))


@claim(
    "text/ranks",
    "On few texts the error of Deep LoRA changes by at most 0.05 from rank 2 to 64, that of LoRA by 0.3 or more.",
    source=f"{PAPER}, the authors' figure of Pearson's correlation by rank on 16 samples of STS-B; thresholds are the dossier's",
    matched=f"{REPLACED}; Deep LoRA is the narrow network, LoRA starts from N(0, 1), as in the authors' figure, and, beside it, as "
    f"usual; 64 texts; ranks 2, 8 and 64; {SETTINGS}, a rate of its own for each rank",
    experiments=("scaled_text_arms", "scaled_text_ranks"),
    revised="The authors have 16 texts. With 16 reviews all three were at chance at rank 8, so other ranks were tried on 64.",
)
def rank_matters_less_on_text(evidence: Evidence) -> Finding:
    ranges: dict[str, Figure] = {}
    for method in (NARROW, WIDE, LORA):
        own = {"parameterization": method, "problem__examples": 64}
        cells = [of_study(evidence, **own, parameterization__rank=rank) for rank in RANKS]
        ranges[method] = range_of(evidence, f"range of the error over ranks, {method}", cells, tuned)
    deep, lora = at_most(ranges[NARROW], 0.05), opposite(at_most(ranges[WIDE], 0.3))
    words = {True: "as said", False: "not as said", None: "undecided"}
    said = f"Deep LoRA's range {words[deep]}, LoRA's {words[lora]} ({ranges[LORA].value.value:.2g} from the usual start)."
    return Finding(settled({"64 texts": as_said(all_of([deep, lora]))}), said, tuple(ranges.values()))
