"""Relatives of Flora that share factors: FedSA-LoRA among clients, LoRTA among layers; and CoLoR, with a LoRA for every task."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bench.claims._claim import (
    CONDITION,
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    NOT_RUN,
    SEEDS,
    Evidence,
    Figure,
    Finding,
    against,
    at_most,
    by_bound,
    claim,
    median_of,
    one,
    settled,
    typical,
    worst,
)
from bench.claims.flora import at_the_same_rate, by_all, lies_within
from bench.study import Study
from linalg.random import gaussian, generator, orthogonal
from parameterizations import FedLoRA
from parameterizations.fed_lora import AVERAGED

LEDGER = "relatives"
FED_SA = "Guo et al., arXiv 2410.01463 (FedSA-LoRA)"
LORTA = "Hounie et al., arXiv 2410.04060 (LoRTA)"
COLOR = "Wistuba et al., arXiv 2311.17601 (CoLoR)"


@claim(
    "C12",
    "Where clients' targets D_i = U_i Q have one row space, sharing A and keeping B_i fits them all; averaging both does not.",
    source=f"{FED_SA}; the test is the dossier's (sections 3 and C12)",
    matched="each at its own of nine rates, and both at FedSA's; 8 clients, 32 x 24, rank 4, SGD or Adam, 400 rounds of 10 steps",
    experiments="claims_relatives_federated",
    revised="Adam was added beside SGD, which alone was inconclusive",
)
def sharing_a_fits(evidence: Evidence) -> Finding:
    found: dict[str, bool | None] = {}
    figures = []
    for rule in ("adam", "sgd"):
        rows, nothing = (evidence.study.where(problem__share=share, optimizer=rule) for share in ("rows", "nothing"))
        left = {share: left_by(rows, share) for share in SHARES}
        found |= {f"{share}, {rule}": fits_or_not(left[share], share == "right") for share in ("right", "both")}
        both, right = (one(rows.where(parameterization__share=share)) for share in ("both", "right"))
        matched = at_the_same_rate(evidence, evidence.study, both, right, rows.problems[0], "remaining")
        figures += [*left.values(), matched, left_by(nothing, "right")]
    return of_sharing(found, figures)


SHARES = {"right": "FedSA-LoRA", "both": "FedAvg", "left": "FFA-LoRA"}


def left_by(study: Study, share: str) -> Figure:
    """What remains of the clients' losses."""
    method, (problem,) = one(study.where(parameterization__share=share)), study.problems
    return median_of(study, problem, method, "remaining", f"left by {SHARES[share]}, {method.rpartition(' ')[2]}, {problem}")


def fits_or_not(figure: Figure, should: bool) -> bool | None:
    """Fitted: at most 1 % is left; not fitted: 10 % or more."""
    return lies_within(figure, 0, 0.01) if should else lies_within(figure, 0.1, float("inf"))


def of_sharing(found: Mapping[str, bool | None], figures: Sequence[Figure]) -> Finding:
    """Averaging both must fail with either rule; where sharing A fits with one of the two only, that is the condition."""
    right, both = ([each for name, each in found.items() if name.startswith(share)] for share in ("right", "both"))
    verdict = HOLDS if all(right) and all(both) else CONDITION if True in right and all(both) else INCONCLUSIVE
    verdict = FAILS if False in both or right.count(False) == len(right) else verdict
    where = ", ".join(name.partition(", ")[2] for name, each in found.items() if name.startswith("right") and each)
    said = f"Sharing A fits, with 1 % of the loss left or less, by {where or 'neither rule'}; without common rows it does not."
    return Finding(verdict, said, tuple(figures))


def fitted(target: Tensor, covariance: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """argmin E ‖(B A - D) x‖² over A beside a fixed B, or over B beside a fixed A, by least squares on a root of E x xᵀ."""
    root = torch.linalg.cholesky(covariance)
    if left is not None:
        return torch.linalg.lstsq(left, target @ root, driver="gelsd").solution @ torch.linalg.inv(root)
    assert right is not None
    return torch.linalg.lstsq((right @ root).mT, (target @ root).mT, driver="gelsd").solution.mT


def change_with_inputs(seed: int) -> tuple[float, float]:
    """How much the best A, and the best B, of one target change between two covariances of the inputs, relatively."""
    draw = generator(seed, "inputs")
    target = gaussian(16, 12, generator=draw)
    left, right = orthogonal(16, 3, draw), orthogonal(3, 12, draw)
    roots = [gaussian(12, 24, generator=draw) for _ in range(2)]
    covariances = [root @ root.mT / 24 for root in roots]
    changes = []
    for fixed in ({"left": left, "right": None}, {"left": None, "right": right}):
        first, second = (fitted(target, covariance, **fixed) for covariance in covariances)
        changes.append(float(torch.linalg.matrix_norm(first - second) / torch.linalg.matrix_norm(first)))
    return changes[0], changes[1]


@claim(
    "C12/lemma",
    "In linear regression the best A beside a fixed B is the same whatever the inputs' covariance, and the best B beside a fixed A "
    "depends on it.",
    source=f"{FED_SA}, taken to be its lemma 1, whose text was not seen; derived in the dossier (section 3)",
    matched="one 16 x 12 D, rank 3, two random covariances; least squares on a root of each; float64",
)
def a_is_common(evidence: Evidence) -> Finding:
    of_a, of_b = zip(*map(change_with_inputs, SEEDS), strict=True)
    figures = [worst(evidence, "relative change of the best A", of_a), typical(evidence, "relative change of the best B", of_b)]
    return by_all([lies_within(figures[0], 0, 1e-10), figures[1].value.low > 0.1], figures, "Changed: by a tenth or more.")


def shared_numbers(share: str, m: int, n: int) -> int:
    """What a client sends in a round."""
    params = FedLoRA(rank=4, share=share).initial((m, n), generator(0, "count"), None, None)
    return sum(params[name].numel() for name in AVERAGED[share])


@claim(
    "C12/communication",
    "FedSA-LoRA sends half of what averaging both factors does.",
    source=f"{FED_SA}; by its code (the dossier's section 3)",
    matched="numbers a round, m x n drawn by the seed with m from n/2 to 2n; square ones apart",
)
def sends_half(evidence: Evidence) -> Finding:
    ratios = []
    for seed in SEEDS:
        m, n = (int(each) for each in torch.randint(32, 64, (2,), generator=generator(seed, "shape")))
        ratios.append(shared_numbers("right", m, n) / shared_numbers("both", m, n) - n / (m + n))
    square = [shared_numbers("right", 48, 48) / shared_numbers("both", 48, 48) - 0.5] * len(SEEDS)
    figures = [
        worst(evidence, "share sent less a half, square weights, absolute", map(abs, square)),
        worst(evidence, "share sent less n / (m + n), any weights, absolute", map(abs, ratios)),
    ]
    return by_bound(figures, 1e-12, "Of an m x n weight it sends n / (m + n), half where it is square.")


@claim(
    "lorta",
    "LoRTA ends as low as LoRA of the same rank with an order of magnitude fewer parameters.",
    source=f"{LORTA}, from a third party's summary: one to two orders fewer at comparable quality (the dossier's section 3)",
    matched="sixteen layers of 32 x 24 with ranks 1 to 4; rank 4, Adam, each at its best of nine rates, and at LoRA's; 1000 steps",
    experiments="claims_relatives_stack",
    revised='"as low" now also means that at most 1 % is left',
)
def as_low_with_fewer(evidence: Evidence) -> Finding:
    study = evidence.study
    ours, theirs = (one(study.where(parameterization=name)) for name in ("lorta", "lora"))
    verdicts, figures = {}, []
    for problem in study.shared([ours, theirs]):
        comparison, figure = against(study, ours, theirs, [problem])
        left = median_of(study, problem, ours, "remaining", f"left by LoRTA on {problem}")
        fits = at_most(left, 0.01) or comparison.verdict in ("better", "equal")
        verdicts[problem] = "as low" if fits else comparison.verdict
        figures += [left, figure, at_the_same_rate(evidence, study, ours, theirs, problem, "remaining")]
    counts = [study.cells[study.problems[0], method].summary["parameters"] for method in (ours, theirs)]
    told = "; ".join(f"{verdict} on {problem}" for problem, verdict in verdicts.items())
    said = f"{counts[0]} parameters against {counts[1]}. LoRTA is {told}; as low also means that it fits, to 1 % of the loss."
    return Finding(settled(verdicts, "as low"), said, tuple(figures))


@claim(
    "color",
    "Kept one a task, LoRA forgets less than one LoRA that is trained on through all tasks.",
    source=f"{COLOR}, its setting; the sentence is the suite's",
    matched="the same rank, and the same parameters in all (rank 16 for one, four of rank 4); Adam, nine rates each, and at LoRA's",
    experiments=("claims_relatives_continual", "claims_relatives_continual_digits"),
)
def forgets_less(evidence: Evidence) -> Finding:
    study, verdicts, figures = evidence.study, {}, []
    color = one(study.where(parameterization="color", parameterization__rank=4))
    for rank in (4, 16):
        lora = one(study.where(parameterization="lora", parameterization__rank=rank))
        for problem in study.shared([color, lora]):
            comparison, figure = against(study, color, lora, [problem], "final_forgetting")
            verdicts[f"{problem} (LoRA of rank {rank})"] = comparison.verdict
            figures += [figure, at_the_same_rate(evidence, study, color, lora, problem, "final_forgetting")]
            figures.append(against(study, color, lora, [problem])[1])
    told = "; ".join(f"{verdict} on {where}" for where, verdict in verdicts.items())
    said = f"Forgetting is {told}. Its domain is told from the inputs alone, whose means are far apart here."
    return Finding(settled(verdicts), said, tuple(figures))


@claim(
    "fedsa-llm",
    "FedSA-LoRA is more accurate than FedAvg and FFA-LoRA with RoBERTa-large on GLUE.",
    source=f"{FED_SA}, its tables, which the dossier did not find (section 3)",
    matched="nothing",
)
def fedsa_on_language_models(evidence: Evidence) -> Finding:
    return Finding(NOT_RUN, "It needs RoBERTa-large and GLUE; relatives.C12 is its linear case.")
