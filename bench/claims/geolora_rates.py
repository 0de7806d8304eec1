"""The learning rates that GeoLoRA, LoRA, AdaLoRA and ScaledGD converge at."""

from collections.abc import Callable

import numpy as np

from bench.claims._claim import Evidence, Figure, Finding, claim, settled, spread_of
from bench.claims._geolora import PAPER, mean
from bench.stored import StoredCell
from bench.study import Study

LEDGER = "geolora"

GRID = ("claims_geolora_rates", "claims_geolora_rates_factors")
FIXED = (
    "sixteen rates, 1e-4 to 10, three a decade, the same for all, none chosen; ten seeds; rank 4, 506 steps, 32 x 24, four problems"
)
DECADE = 3  # rates a decade


def decades(cell: StoredCell) -> np.ndarray:
    """(k,) by seed, how many decades of rates leave 1 % of the excess loss or less."""
    good = cell.tuned.assign(good=cell.tuned["remaining"] <= 0.01).groupby("seed")["good"].sum()
    return good.to_numpy(dtype=float) / DECADE


def diverging(cell: StoredCell) -> np.ndarray:
    """(k,) by seed, how many decades of rates diverge."""
    lost = cell.tuned.assign(lost=cell.tuned["status"] == "diverged").groupby("seed")["lost"].sum()
    return lost.to_numpy(dtype=float) / DECADE


def difference(study: Study, a: str, b: str, measure: Callable[[StoredCell], np.ndarray], column: str) -> tuple[str, Figure]:
    """Of a less b, in decades: the mean over all problems and seeds; more, fewer, equal, or inconclusive."""
    problems = study.shared([a, b])
    strata = [measure(study.cells[problem, a]) - measure(study.cells[problem, b]) for problem in problems]
    keys = [study.cells[problem, method].key for problem in problems for method in (a, b)]
    figure = spread_of(strata, f"decades, {a} less {b}, {len(problems)} problems", keys, column, statistic=mean)
    _, low, high = np.round(figure.value, 9)
    return "more" if low > 0 else "fewer" if high < 0 else "equal" if low == high else "inconclusive", figure


def wider_than_all(evidence: Evidence, rule: str) -> Finding:
    """Whether GeoLoRA with that rule for S has a wider window than each rival, with one and with ten coefficient steps."""
    study, verdicts, figures, said = evidence.study, {}, [], []
    rivals = [method for method in study.methods if "geolora" not in method]
    for steps in (1, 10):
        (ours,) = study.where(optimizer__core_rule=rule, optimizer__coefficient_steps=steps).methods
        by_word: dict[str, list[str]] = {}
        for rival in rivals:
            word, figure = difference(study, ours, rival, decades, "remaining")
            by_word.setdefault(word, []).append(f"{rival} ({mean_width(study, rival):.2f})")
            verdicts[f"{rival}, c = {steps}"] = word
            figures.append(figure)
        parts = [f"{word}: {', '.join(names)}" for word, names in by_word.items()]
        said.append(f"c = {steps} ({mean_width(study, ours):.2f} decades) beside {'; '.join(parts)}")
    return Finding(settled(verdicts, "more"), ". ".join(said) + ".", tuple(figures))


def mean_width(study: Study, method: str) -> float:
    return float(np.mean([decades(cell) for (_, each), cell in study.cells.items() if each == method]))


@claim(
    "g",
    "GeoLoRA converges at more learning rates than LoRA, AdaLoRA and ScaledGD.",
    source=f"{PAPER}, figure 2 (c, d), restated as the width of the window (dossier, section 6g)",
    matched=FIXED,
    experiments=GRID,
)
def has_the_wider_window(evidence: Evidence) -> Finding:
    return wider_than_all(evidence, "sgd")


@claim(
    "g_adam",
    "GeoLoRA with Adam on S, as in the authors' code, converges at more learning rates than LoRA, AdaLoRA and ScaledGD.",
    source=f"{PAPER}, figure 2 (c, d), restated as the width of the window (dossier, section 6g)",
    matched=FIXED,
    experiments=GRID,
)
def has_the_wider_window_with_adam(evidence: Evidence) -> Finding:
    return wider_than_all(evidence, "adam")


@claim(
    "fig2_divergence",
    "GeoLoRA diverges at fewer learning rates than AdaLoRA.",
    source=f"{PAPER}, figure 2 (c, d): AdaLoRA's runs that came to nan; matrices in place of CIFAR and ViT",
    matched=FIXED,
    experiments=GRID,
    revised="narrowed to Adam",
)
def diverges_less(evidence: Evidence) -> Finding:
    study, found = evidence.study, {}
    for rule in ("adam", "sgd"):
        (ours,) = study.where(optimizer__core_rule=rule, optimizer__coefficient_steps=10).methods
        found[rule] = difference(study, ours, f"adalora + {rule}", diverging, "final_loss")
    said = "As in the authors' code both have Adam, GeoLoRA for S alone: its basis steps are gradient descent. SGD is beside it."
    return Finding(settled({"adam": found["adam"][0]}, "fewer"), said, tuple(figure for _, figure in found.values()))
