"""Flora (arXiv 2402.03293) in training: against the same rule with nothing compressed, against LoRA, and at several intervals."""

from collections.abc import Mapping, Sequence

from bench.claims._claim import (
    CONDITION,
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    NOT_RUN,
    Evidence,
    Figure,
    Finding,
    against,
    claim,
    one,
    settled,
)
from bench.claims.flora import DOSSIER, PAPER, at_the_same_rate
from bench.study import Study

LEDGER = "flora"


def by_rank(study: Study, problem: str, parameterization: str) -> dict[int, str]:
    """The methods of a parameterization by the rank that the rule compresses to."""
    found = study.where(problem=problem.partition(",")[0], parameterization=parameterization).cells
    return dict(sorted((cell.settings["optimizer.rank"], method) for (where, method), cell in found.items() if where == problem))


def side_by_side(evidence: Evidence, pairs: Mapping[str, tuple[str, str, str]]) -> tuple[dict[str, str], list[Figure]]:
    """What tuned a is against tuned b for pairs (problem, a, b) by name; the ratios, and those at b's rate."""
    verdicts, figures = {}, []
    for name, (problem, a, b) in pairs.items():
        comparison, figure = against(evidence.study, a, b, [problem], "score")
        verdicts[name] = comparison.verdict
        figures += [figure, at_the_same_rate(evidence, evidence.study, a, b, problem, "score")]
    return verdicts, figures


def as_good_as_whole(evidence: Evidence) -> Finding:
    """Adafactor on the whole matrix with its state compressed against the same rule at its largest rank, which keeps all."""
    pairs: dict[str, tuple[str, str, str]] = {}
    for problem in evidence.study.problems:
        methods = by_rank(evidence.study, problem, "full")
        whole = methods.pop(max(methods))
        pairs |= {f"rank {rank} on {problem}": (problem, method, whole) for rank, method in methods.items()}
    verdicts, figures = side_by_side(evidence, pairs)
    found = {name: "as good" if verdict in ("better", "equal") else verdict for name, verdict in verdicts.items()}
    return Finding(settled(found, "as good"), f"Against the whole: {in_words(found)}.", tuple(figures))


def better_than_lora(evidence: Evidence) -> Finding:
    """The same rule on the whole matrix, compressed, against LoRA of that rank with nothing compressed."""
    pairs: dict[str, tuple[str, str, str]] = {}
    for problem in evidence.study.problems:
        methods, lora = (by_rank(evidence.study, problem, name) for name in ("full", "lora"))
        methods.pop(max(methods))
        pairs |= {f"rank {rank} on {problem}": (problem, method, lora[rank]) for rank, method in methods.items()}
    verdicts, figures = side_by_side(evidence, pairs)
    return Finding(settled(verdicts), f"Against LoRA: {in_words(verdicts)}.", tuple(figures))


def in_words(verdicts: Mapping[str, str]) -> str:
    """Each verdict with all that it is of."""
    of = {each: [name for name, verdict in verdicts.items() if verdict == each] for each in verdicts.values()}
    return "; ".join(f"{each} at {', '.join(names)}" for each, names in of.items())


TRAINED = "Adafactor, no scaling by the weight, nine rates or more; ranks 4 and 12 of 32 x 24, 4 and 32 of 64 x 64 (digits)"
MATRICES = ("claims_flora_momentum", "claims_flora_digits")
SMALL = "T5 and GPT-2 are replaced by matrices and a small net"
REVISED = "ranks 12 and 32 were added, since the paper's own runs use rank 256"

momentum = claim(
    "momentum",
    "With its momentum compressed Flora trains as well as with the whole of it.",
    source=f"{PAPER}, momentum experiments (T5-small from scratch, GPT-2); {DOSSIER} (section 2)",
    matched=f"{TRAINED}; κ = 100; {SMALL}",
    experiments=MATRICES,
    revised=REVISED,
)(as_good_as_whole)

momentum_lora = claim(
    "momentum/lora",
    "Training the whole matrix with a compressed momentum ends better than LoRA of that rank.",
    source=f"{PAPER}, momentum experiments (T5-small from scratch, GPT-2); {DOSSIER} (section 2)",
    matched=f"{TRAINED}; κ = 100; {SMALL}",
    experiments=MATRICES,
    revised=REVISED,
)(better_than_lora)

accumulation = claim(
    "accumulation",
    "Adding up gradients in compressed form trains as well as adding them up whole.",
    source=f"{PAPER}, accumulation experiments (T5-3B); {DOSSIER} (section 2)",
    matched="as `momentum`, on rotated digits; 100 updates of 16 batches of 16, no momentum",
    experiments="claims_flora_accumulation",
    revised=REVISED,
)(as_good_as_whole)

accumulation_lora = claim(
    "accumulation/lora",
    "Training the whole matrix with gradients added up in compressed form ends better than LoRA of that rank.",
    source=f"{PAPER}, accumulation experiments (T5-3B); {DOSSIER} (section 2)",
    matched="as `momentum`, on rotated digits; 100 updates of 16 batches of 16, no momentum",
    experiments="claims_flora_accumulation",
    revised=REVISED,
)(better_than_lora)


@claim(
    "momentum/scratch",
    "Flora's lead over LoRA is larger in training from scratch than in fine-tuning.",
    source=f"{PAPER}, T5-small from scratch against fine-tuning; {DOSSIER} (section 2)",
    matched=f"Adafactor, nine rates each; rank 4; from scratch: matrix_factorization, of full rank; else fine-tuning; {SMALL}",
    experiments=MATRICES,
    revised=REVISED,
)
def lead_from_scratch(evidence: Evidence) -> Finding:
    study = evidence.study
    flora, lora = (one(study.where(parameterization=name, optimizer__rank=4)) for name in ("full", "lora"))
    ratios = {problem: against(study, flora, lora, [problem], "score")[1] for problem in study.shared([flora, lora])}
    (scratch,) = (problem for problem in ratios if problem.startswith("matrix_factorization"))
    return of_leads(ratios.pop(scratch), list(ratios.values()))


def of_leads(scratch: Figure, fine_tuning: Sequence[Figure]) -> Finding:
    """A lead is a ratio below 1, the larger the smaller it is; intervals must not overlap."""
    verdicts = [scratch.value.high < each.value.low and scratch.value.high < 1 for each in fine_tuning]
    reverse = [scratch.value.low > each.value.high for each in fine_tuning]
    verdict = HOLDS if all(verdicts) else CONDITION if any(verdicts) else FAILS if all(reverse) else INCONCLUSIVE
    said = "A target of full rank is what LoRA cannot reach; a change of rank 4 or a few turned digits it can."
    return Finding(verdict, said if verdict == HOLDS else "", (scratch, *fine_tuning))


@claim(
    "interval",
    "A projection kept for a while is better than one drawn at every step, and than one kept for ever.",
    source=f"{PAPER}, effect of the resampling interval; {DOSSIER} (section 2, RQ3)",
    matched="κ = 100 against 1, and 0 (for ever); 10 beside it; Adafactor, nine rates each; rank 4, 32 x 24, 1000 steps",
    experiments="claims_flora_interval",
)
def some_interval_is_best(evidence: Evidence) -> Finding:
    study = evidence.study
    methods = {interval: one(study.where(optimizer__interval=interval)) for interval in (1, 0, 10, 100)}
    verdicts, figures = {}, []
    for problem in study.problems:
        for other in (1, 0, 10):
            comparison, figure = against(study, methods[100], methods[other], [problem], "score")
            verdicts[f"κ = {other} on {problem}"] = comparison.verdict
            figures += [figure, at_the_same_rate(evidence, study, methods[other], methods[100], problem, "score")]
    decisive = {name: verdict for name, verdict in verdicts.items() if not name.startswith("κ = 10 ")}
    return Finding(settled(decisive), f"κ = 100 against others: {in_words(verdicts)}.", tuple(figures))


@claim(
    "memory-llm",
    "A language model of 3 billion weights trains in 12 GB, one of 7 billion in 24 GB.",
    source="the authors' blog at borealisai.com, and the paper's memory tables; from the dossier (section 2), which has no table",
    matched="nothing",
)
def memory_of_language_models(evidence: Evidence) -> Finding:
    return Finding(NOT_RUN, "It needs those models and cards; flora.C7 counts the bytes of a state.")
