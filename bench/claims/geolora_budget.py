"""GeoLoRA with one budget of singular values for all layers."""

from collections.abc import Iterable

import torch

from bench.claims._claim import SEEDS, Evidence, Finding, against, claim, kept, one, settled, told
from bench.claims._geolora import PAPER, REPLACED, advanced, at_least, in_all, paired, ranks_of, share, those
from bench.study import Study
from optimizers import GeoLoRA
from parameterizations import SVD
from problems import Stack

LEDGER = "geolora"

NEEDED = {16: (1, 2, 4, 9), 8: (1, 1, 2, 4)}  # ranks of the largest 16, 8 singular values of all targets


@claim(
    "j_allocation",
    "With one budget for all layers each layer gets as many of its singular values as are among the largest of all.",
    source=f"{PAPER}, authors' code (budget), restated for targets of known rank (dossier, section 6j)",
    matched="layers of ranks 1, 2, 4 and 9, σ from 1 to 1/rank; rates 0.5 and 1; 60 truncations from rank 5; 32 x 28, float64",
)
def a_budget_goes_to_the_largest(evidence: Evidence) -> Finding:
    drawn = [Stack((32, 28), ranks=(1, 2, 4, 9)).draw(seed) for seed in SEEDS]
    figures, found = [], {}
    for budget, needed in NEEDED.items():
        for steps in (0, 10):
            rule = GeoLoRA(budget=budget, coefficient_steps=steps)
            ranks = ranks_of(advanced(drawn, SVD(16, start=5), rule, [0.5, 1.0], 60 * (steps + 1)))
            name = f"share of runs at ranks {needed}, budget {budget}, c = {steps}"
            figures.append(share(evidence, name, (ranks == torch.tensor(needed)).all(-1).double().mean(-1)))
            found[f"budget {budget}, c = {steps}"] = at_least(figures[-1], 0.95)
    return Finding(in_all(found), f"In 95 % of runs or more: {those(found)}.", tuple(figures))


@claim(
    "j_threshold",
    "A budget of singular values leaves less of the loss than a threshold that keeps as many.",
    source=f"asked by the dossier (section 6j) of {PAPER}",
    matched="each seed's budget is what τ = 0.3 keeps on it; rate 0.5, c = 10, 40 truncations from rank 5; 32 x 28, float64",
    revised="the layers' sizes became 1 to 1/30, because 1 to 1/8 gave both rules the same ranks",
)
def a_budget_beside_a_threshold(evidence: Evidence) -> Finding:
    verdicts, figures = {}, []
    for where, sizes in (("layers of one size", (1, 1, 1, 1)), ("layers of sizes 1 to 1/30", (1, 1 / 3, 0.1, 1 / 30))):
        losses: dict[str, list[float]] = {"threshold": [], "budget": []}
        for seed in SEEDS:
            drawn = Stack((32, 28), ranks=(1, 2, 4, 9)).draw(seed, dtype=torch.float64)
            drawn.target *= torch.tensor(sizes).double()[:, None, None]  # type: ignore[attr-defined]  # a stack has targets
            first = advanced([drawn], SVD(16, start=5), GeoLoRA(tolerance=0.3), [0.5], 440, [seed])
            rule = GeoLoRA(budget=int(ranks_of(first).sum()))
            second = advanced([drawn], SVD(16, start=5), rule, [0.5], 440, [seed])
            for name, block in (("threshold", first), ("budget", second)):
                losses[name].append(float(block.instance.measure(block.weight())["loss"]))
        a, b = (kept(evidence, f"loss by a {name}, {where}", losses[name]) for name in ("budget", "threshold"))
        verdicts[where], figure = paired(evidence, f"loss, budget / threshold, {where}", a, b, 1e-20)
        figures.append(figure)
    return Finding(settled(verdicts), told(verdicts), tuple(figures))


BUDGETS = "nine rates each on three tuning seeds, more at an edge; ten reporting seeds; as many singular values in all; 330 steps"
SHARED = ("claims_geolora_budget", "claims_geolora_even", "claims_geolora_factors")


def against_equal_budgets(
    study: Study, problem: str, layers: int, budgets: Iterable[int], rivals: dict[str, dict[str, str]]
) -> Finding:
    """GeoLoRA, its rule for S chosen by the tuning seeds, against others with as many singular values."""
    own, verdicts, figures = study.where(problem=problem), {}, []
    (where,) = own.problems
    for budget in budgets:
        ours = own.preferred(where, own.where(optimizer__budget=budget).methods)
        for rival, settings in rivals.items():
            theirs = one(own.where(**settings, parameterization__rank=budget // layers))
            comparison, figure = against(own, ours, theirs, [where], "headline")
            verdicts[f"budget {budget} ({rival})"] = comparison.verdict
            figures.append(figure)
    return Finding(settled(verdicts), told(verdicts), tuple(figures))


@claim(
    "j_budget",
    "On layers of different true ranks, GeoLoRA with one budget ends lower than the same budget spread evenly, and than AdaLoRA's.",
    source=f"{PAPER}, authors' code (budget), restated for targets of known rank (dossier, section 6j)",
    matched=BUDGETS,
    experiments=SHARED,
)
def a_budget_beats_even_ranks(evidence: Evidence) -> Finding:
    rivals = {
        "evenly, fixed rank": {"optimizer": "riemannian_gd"},
        "evenly, LoRA": {"parameterization": "lora"},
        "AdaLoRA": {"parameterization": "adalora"},
    }
    return against_equal_budgets(evidence.study, "stack", 4, (8, 16), rivals)


@claim(
    "table1_lora",
    "With as many parameters GeoLoRA reaches a lower test error than LoRA.",
    source=f"{PAPER}, experiments on vision transformers; {REPLACED}",
    matched=BUDGETS,
    experiments=SHARED,
)
def is_more_accurate_than_lora(evidence: Evidence) -> Finding:
    return against_equal_budgets(evidence.study, "rotated_digits", 2, (8, 16), {"LoRA": {"parameterization": "lora"}})


@claim(
    "table1_adalora",
    "With as many parameters GeoLoRA reaches a lower test error than AdaLoRA.",
    source=f"{PAPER}, experiments on vision transformers; {REPLACED}",
    matched=BUDGETS,
    experiments=SHARED,
)
def is_more_accurate_than_adalora(evidence: Evidence) -> Finding:
    return against_equal_budgets(evidence.study, "rotated_digits", 2, (8, 16), {"AdaLoRA": {"parameterization": "adalora"}})
