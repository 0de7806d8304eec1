"""Claims of nobody in particular, over the whole catalogue."""

import numpy as np
from matplotlib.figure import Figure as Drawing
from scipy.stats import spearmanr

from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, Evidence, Figure, Finding, against, claim
from bench.stats import Interval, interquartile_mean
from bench.study import Study

MOST = 12  # problems that a method must have run on to be one for the whole catalogue
RATES = "nine rates each, more where the best was at the edge; three tuning seeds, ten reporting seeds; rank 4, 1000 steps, 32 x 24"
REFERENCES = ("als", "svd_oracle")  # solve for a factor, or know the target
CATALOGUE = ("claims_parameterizations", "claims_optimizers", "claims_manifold")


@claim(
    "adam",
    "Some method beats tuned LoRA with Adam over the whole catalogue when it is tuned with as many trials.",
    source="asked by the suite",
    matched=RATES,
    experiments=CATALOGUE,
)
def beats_lora_with_adam(evidence: Evidence) -> Finding:
    study, baseline = evidence.study, "lora + adam"
    rivals = [method for method in study.methods if method != baseline and not method.endswith(REFERENCES)]
    found = {}
    for method in rivals:
        problems = study.shared([baseline, method])
        if len(problems) >= MOST:
            confidence = 1 - 0.05 / len(rivals)  # as many questions are asked at once (Bonferroni)
            found[method] = against(
                study, method, baseline, problems, statistic=interquartile_mean, over_problems=True, confidence=confidence
            )
    better = [method for method, (comparison, _) in found.items() if comparison.verdict == "better"]
    worse = [method for method, (comparison, _) in found.items() if comparison.verdict == "worse"]
    best = sorted(found, key=lambda method: found[method][1].value.value)[:8]
    said = (
        f"Of {len(found)} methods that ran on {MOST} problems or more, {len(better)} are better over all "
        f"({', '.join(better) or 'none'}) and {len(worse)} worse, at an interval widened for as many questions. "
        "The figures are the eight lowest ratios."
    )
    verdict = HOLDS if better else INCONCLUSIVE if len(worse) < len(found) else FAILS
    return Finding(verdict, said, tuple(found[method][1] for method in best))


@claim(
    "overparameterization",
    "Over-parameterization helps beyond a shift of the best learning rate: tuned, it ends lower than LoRA.",
    source="asked by the suite, of arXiv 2412.10362 and 2406.04112",
    matched=RATES,
    experiments="claims_overparameterization",
)
def helps_beyond_a_shift(evidence: Evidence) -> Finding:
    study, figures, verdicts, notes = evidence.study, [], {}, []
    for optimizer in ("sgd", "momentum", "adam"):
        baseline = f"lora + {optimizer}"
        for wide in ("op_lora", "deep", "deep_lora"):
            method = f"{wide} + {optimizer}"
            problems = study.shared([baseline, method])
            comparison, figure = against(study, method, baseline, problems, statistic=interquartile_mean, over_problems=True)
            verdicts[method] = comparison.verdict
            shift = [log_rate(study, problem, method) - log_rate(study, problem, baseline) for problem in problems]
            shift = [each for each in shift if np.isfinite(each)]
            wins = [against(study, method, baseline, [problem])[0].verdict for problem in problems]
            notes.append(
                f"{method}: better on {wins.count('better')}, worse on {wins.count('worse')} of {len(problems)} problems, "
                f"its best rate {10 ** np.median(shift):.2g} times LoRA's"
            )
            figures.append(figure)
    better = [method for method, verdict in verdicts.items() if verdict == "better"]
    verdict = HOLDS if len(better) == len(verdicts) else CONDITION if better else INCONCLUSIVE
    verdict = FAILS if not better and "inconclusive" not in verdicts.values() else verdict
    return Finding(verdict, "; ".join(notes) + ".", tuple(figures))


def log_rate(study: Study, problem: str, method: str) -> float:
    rate = study.cells[problem, method].summary["chosen_lr"]
    return float(np.log10(rate)) if rate else np.nan


@claim(
    "gauss_newton",
    "The condition number of the Gauss-Newton map predicts the steps to target.",
    source="asked by the suite",
    matched="six conditions of the target, 1 to 300; nine rates each, three tuning and ten reporting seeds; 16 x 12, 4000 steps",
    experiments="claims_gauss_newton",
)
def predicts_steps(evidence: Evidence) -> Finding:
    study, figures, verdicts = evidence.study, [], {}
    points: dict[str, tuple[np.ndarray, np.ndarray, list[str]]] = {}
    for optimizer in ("sgd", "momentum", "adam", "scaled_gd"):
        measured = study.where(optimizer=optimizer).cells.items()
        cells = [(place, cell) for place, cell in measured if "final_condition_gauss_newton" in cell.lanes]
        pairs = [(study.costs(*place, "final_condition_gauss_newton"), study.costs(*place, "steps_to_1e-06")) for place, _ in cells]
        kept = [i for i, (condition, _) in enumerate(pairs) if condition.notna().all()]
        conditions = np.array([np.median(pairs[i][0]) for i in kept])
        steps = np.array([[*pairs[i][1]] for i in kept])
        points[optimizer] = conditions, np.median(steps, axis=1), [cells[i][1].summary["parameterization"] for i in kept]
        value = correlation(conditions, steps)
        verdicts[optimizer] = value.low > 0.5
        keys = tuple(cells[i][1].key for i in kept)
        name = f"rank correlation with {optimizer}, {len(kept)} cells"
        figures.append(Figure(name, value, steps.shape[1], keys, "steps_to_1e-06"))
    evidence.drawings["gauss-newton"] = scatter(points)
    yes = [name for name, good in verdicts.items() if good]
    none = all(figure.value.high < 0.5 for figure in figures)
    verdict = HOLDS if len(yes) == len(verdicts) else CONDITION if yes else FAILS if none else INCONCLUSIVE
    said = f"Spearman's correlation of the medians lies above 0.5 with its whole interval for {', '.join(yes) or 'none'}."
    return Finding(verdict, said, tuple(figures))


def correlation(conditions: np.ndarray, steps: np.ndarray, resamples: int = 500) -> Interval:
    """Spearman's correlation of conditions (c,) with the medians of steps (c, k), seeds drawn again; failures rank last."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        again = np.take_along_axis(steps, random.integers(steps.shape[1], size=steps.shape), axis=1)
        drawn.append(rank_correlation(conditions, np.median(again, axis=1)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(rank_correlation(conditions, np.median(steps, axis=1)), float(low), float(high))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    largest = np.finfo(float).max
    found = spearmanr(np.minimum(x, largest), np.minimum(y, largest)).statistic
    return float(found) if np.isfinite(found) else 0.0


def scatter(points: dict[str, tuple[np.ndarray, np.ndarray, list[str]]]) -> Drawing:
    """Steps to 1e-6 of the excess loss against the final condition number, a panel an optimizer; failures on the upper edge."""
    from bench.plots.style import Look, slots

    figure = Drawing(figsize=(3.2 * len(points), 3.4), layout="constrained")
    grid = figure.subplots(1, len(points), sharex=True, sharey=True, squeeze=False)[0]
    places = slots({name for _, _, names in points.values() for name in names})
    for axes, (optimizer, (conditions, steps, names)) in zip(grid, points.items(), strict=True):
        top = 2 * max((steps[np.isfinite(steps)].max() for _, steps, _ in points.values() if np.isfinite(steps).any()), default=1.0)
        for name in dict.fromkeys(names):
            own = np.array([each == name for each in names])
            look = Look(places[name])
            axes.plot(
                conditions[own], np.minimum(steps[own], top), ls="none", marker=look.marker, color=look.colour, label=name, ms=6
            )
        axes.set(xscale="log", yscale="log", title=optimizer)
        axes.axhline(top, color="#8A8A8A", lw=0.8, ls=":")
    grid[0].set_ylabel("steps to 1e-6 (edge: never)")
    figure.supxlabel("condition number of the Gauss-Newton map at the end of training")
    handles = {line.get_label(): line for axes in grid for line in axes.lines if line.get_label() in places}
    figure.legend([handles[name] for name in places], list(places), loc="outside right upper", fontsize=9)
    figure.suptitle("Does the condition number predict the steps to target?", fontsize=12, weight="bold", x=0.01, ha="left")
    return figure
