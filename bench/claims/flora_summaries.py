"""Flora (arXiv 2402.03293) on whole weights of a T5 that summarizes: what it stores, and how it ends beside others."""

from collections.abc import Callable
from itertools import product

import numpy as np

from bench.claims._claim import FAILS, HOLDS, Evidence, Figure, Finding, claim, settled
from bench.claims._scaled import STUDY, as_good, compared, exact, in_words, of_study
from bench.claims.flora import DOSSIER, PAPER
from bench.stored import StoredCell
from linalg import InputError

LEDGER = "flora"

SWEEPS = ("scaled_summaries", "scaled_summaries_flora", "scaled_summaries_whole")
MATRICES = ((64, 64),) * 12  # queries and values of the tiny T5, two layers that encode and two that decode
INTERVALS = (5, 20, 100)
RANK, WHOLE = 8, 64  # of what is compressed, and where nothing is
# What is compared, of which column: costs, so that ROUGE-L, of which more is better, is inverted.
MEASURES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "1 / ROUGE-L": ("headline", lambda cost: np.divide(1.0, 100 - cost, out=np.full_like(cost, np.inf), where=cost < 100)),
    "perplexity": ("score", np.exp),
}
FLOAT, SEED = 4, 8  # bytes
MODEL = (
    "a T5 of two layers that was pretrained on reviews to write down what it reads, its queries and values whole, twelve of "
    "64 x 64; rank 8"
)
TRAINED = (
    f"{MODEL}; 50 updates, each by four batches' gradients, the same for all; Adafactor as in PyTorch, without momentum; {STUDY}"
)

REVISED = (
    "all see the same batches, four to an update, and there are five tuning seeds: with two, chance picked the rate; at first the "
    "loss and 100 - ROUGE-L were compared, of which 5 % hide a perplexity of 1.3 times and half of ROUGE-L, and the T5's weights "
    "were random"
)


def flora_of(evidence: Evidence, kept_for: int) -> StoredCell:
    """Flora's cell with that κ."""
    return of_study(evidence, optimizer="flora", optimizer__rank=RANK, optimizer__interval=kept_for)


def whole_of(evidence: Evidence) -> StoredCell:
    """Flora's cell of so high a rank that momentum and sum are kept as they are."""
    return of_study(evidence, optimizer="flora", optimizer__rank=WHOLE)


def numbers(cell: StoredCell) -> int:
    """Of all matrices.

    Raises:
        InputError: where the cell trained others.
    """
    found = sum(m * n for m, n in MATRICES)
    if cell.summary["parameters"] != found:
        raise InputError(f"{cell.key}: trains {cell.summary['parameters']} numbers, not the {found} of {len(MATRICES)} matrices")
    return found


def bytes_of_flora(rank: int) -> int:
    """A momentum and a sum of r max(m, n) numbers and a seed each, and Adafactor's m + n."""
    return sum(FLOAT * (2 * rank * max(shape) + sum(shape)) + 2 * SEED for shape in MATRICES)


def bytes_of_galore(rank: int) -> int:
    """A basis of the shorter side, and Adam's two moments along the longer one."""
    return sum(FLOAT * rank * (min(shape) + 2 * max(shape)) for shape in MATRICES)


def by_counts(formulas: list[Figure], savings: list[Figure], said: str) -> Finding:
    """Settle `as many bytes as the formula says, and fewer than whole`."""
    right = all(figure.value.value == 1 for figure in formulas) and all(figure.value.value < 1 for figure in savings)
    return Finding(HOLDS if right else FAILS, said, (*formulas, *savings))


@claim(
    "summaries/memory",
    "In a T5 Flora stores r max(m, n) numbers and a seed for its momentum, as many for its sum of gradients, and m + n more; a "
    "momentum and a sum that are whole take 2 m n with those.",
    source=f"{PAPER}, memory; the count is the dossier's (section 1.4)",
    matched=f"{MODEL}; bytes of the optimizer's state by the formula; one batch's gradient stays whole, and is counted apart",
    experiments=SWEEPS[1:],
)
def stores_what_the_formula_says(evidence: Evidence) -> Finding:
    uncompressed = whole_of(evidence)
    whole, sides, kept = numbers(uncompressed), sum(map(sum, MATRICES)), uncompressed.summary["state_bytes"]
    formulas = [exact("whole state over its formula's", kept / (FLOAT * (2 * whole + sides)), "state_bytes", uncompressed)]
    savings = []
    for interval in INTERVALS:
        cell = flora_of(evidence, interval)
        state, gradients = cell.summary["state_bytes"], cell.summary["gradient_bytes"] / (FLOAT * numbers(cell))
        formulas += [
            exact(f"state over the formula's, κ = {interval}", state / bytes_of_flora(RANK), "state_bytes", cell),
            exact(f"gradient over m n, κ = {interval}", gradients, "gradient_bytes", cell),
        ]
        savings += [
            exact(f"state over whole state, κ = {interval}", state / kept, "state_bytes", cell, uncompressed),
            exact(f"state over Adam's with a sum, κ = {interval}", state / (3 * FLOAT * whole), "state_bytes", cell),
        ]
    said = "Adam is counted by its formula. Gradients that are added up where PyTorch keeps them need no sum beside."
    return by_counts(formulas, savings, said)


@claim(
    "summaries/memory-galore",
    "In a T5 GaLore stores r (k + 2 l) numbers a matrix, k its shorter and l its longer side, and less than Adam's 2 m n.",
    source="Zhao et al. 2024, arXiv 2403.03507, memory, as read from the authors' code",
    matched=f"{MODEL}; bytes of the optimizer's state by the formula; the gradient stays whole, and is counted apart",
    experiments="scaled_summaries",
)
def galore_stores_what_its_formula_says(evidence: Evidence) -> Finding:
    cell = of_study(evidence, optimizer="galore")
    whole, state = numbers(cell), cell.summary["state_bytes"]
    expected = bytes_of_galore(cell.settings["optimizer.rank"])
    formulas = [
        exact("state over the formula's", state / expected, "state_bytes", cell),
        exact("gradient over m n", cell.summary["gradient_bytes"] / (FLOAT * whole), "gradient_bytes", cell),
    ]
    savings = [exact("state, GaLore / Adam", state / (2 * FLOAT * whole), "state_bytes", cell)]
    return by_counts(formulas, savings, "Adam is counted by its formula.")


@claim(
    "summaries",
    "With gradients added up and momentum kept in compressed form Flora summarizes as well as with both whole, and as Adafactor.",
    source=f"{PAPER}, T5 on XSum; {DOSSIER} (section 2)",
    matched=f"κ = 5, 20 and 100; as well: ROUGE-L of the test and perplexity of the validation at most 5 % worse; {TRAINED}",
    experiments=SWEEPS,
    revised=REVISED,
)
def summarizes_as_well(evidence: Evidence) -> Finding:
    rivals = {"whole": whole_of(evidence), "Adafactor": of_study(evidence, optimizer="adafactor")}
    verdicts, figures = {}, []
    for (rival, cell), interval, (said, measure) in product(rivals.items(), INTERVALS, MEASURES.items()):
        found, figure = compared(f"{said}, Flora / {rival}, κ = {interval}", (flora_of(evidence, interval), cell), *measure)
        verdicts[f"beside {rival} by {said} at κ = {interval}"] = as_good(found)
        figures.append(figure)
    return Finding(settled(verdicts, "as good"), f"Flora is {in_words(verdicts)}", tuple(figures))


@claim(
    "summaries/interval",
    "A momentum whose projection is drawn again now and then ends better than one that keeps its first.",
    source=f"{PAPER}, effect of the resampling interval; {DOSSIER} (section 2, RQ3)",
    matched=(
        "κ = 5 and 20 against 100, counted in updates, of which there are 50; a momentum of 0.9 that is carried over stays bounded "
        f"from κ = 11 on here (see flora.C6/threshold); the sum has a new projection for each; {TRAINED}"
    ),
    experiments="scaled_summaries_flora",
    revised=REVISED,
)
def drawing_again_helps(evidence: Evidence) -> Finding:
    verdicts, figures = {}, []
    *often, never = INTERVALS
    for interval, (said, measure) in product(often, MEASURES.items()):
        cells = (flora_of(evidence, each) for each in (interval, never))
        found, figure = compared(f"{said}, κ = {interval} / κ = {never}", cells, *measure)
        verdicts[f"by {said} at κ = {interval}"] = found.verdict
        figures.append(figure)
    return Finding(settled(verdicts), f"Drawn again, it is {in_words(verdicts)}", tuple(figures))


@claim(
    "summaries/galore",
    "Flora summarizes better than GaLore of its rank.",
    source="asked by the suite",
    matched=f"κ = 5, 20 and 100; GaLore's basis is found once, its interval being longer than the run; {TRAINED}",
    experiments=SWEEPS,
    revised=REVISED,
)
def summarizes_better_than_galore(evidence: Evidence) -> Finding:
    galore, verdicts, figures = of_study(evidence, optimizer="galore"), {}, []
    for interval, (said, measure) in product(INTERVALS, MEASURES.items()):
        found, figure = compared(f"{said}, Flora / GaLore, κ = {interval}", (flora_of(evidence, interval), galore), *measure)
        verdicts[f"by {said} at κ = {interval}"] = found.verdict
        figures.append(figure)
    return Finding(settled(verdicts), f"Beside GaLore Flora is {in_words(verdicts)}", tuple(figures))
