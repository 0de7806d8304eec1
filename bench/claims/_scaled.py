"""What the claims from the study in real models share."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from bench.claims._claim import Evidence, Figure, Finding, settled, told
from bench.claims._op_lora import cell_of
from bench.stats import EQUAL, Comparison, Interval, compare, log_ratios
from bench.stored import StoredCell
from bench.study import SOLVED, reported_costs
from linalg import InputError

STUDY = (
    "five rates, more where the best is at the edge, on two tuning seeds, five of digits and summaries; ten reporting seeds, five "
    "of texts and language"
)
SETTINGS: dict[str, dict[str, object]] = {
    "16 texts": {"problem": "few_shot_text", "problem__examples": 16},
    "64 texts": {"problem": "few_shot_text", "problem__examples": 64},
    "digits": {"problem": "image_classification"},
    "language": {"problem": "causal_lm"},
}


def of_study(evidence: Evidence, **settings: object) -> StoredCell:
    """The only cell of a claim's experiments with these names and settings, see `cell_of`."""
    return cell_of([cell for sweep in evidence.sweeps.values() for cell in sweep], **settings)


def compared(
    name: str,
    cells: Iterable[StoredCell],
    measure: str = "headline",
    cost: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> tuple[Comparison, Figure]:
    """The first cell against the second on the reporting seeds, each at the rate that was chosen for it.

    Args:
        measure: a column of the lanes.
        cost: what is compared of it, lower for the better.

    Raises:
        InputError: where their reporting seeds differ.
    """
    a, b = cells
    ours, theirs = (reported_costs(cell, measure) for cell in (a, b))
    if list(ours.index) != list(theirs.index):
        raise InputError(f"seeds.report: {a.key} and {b.key} differ; pairs need the same")
    found = compare([log_ratios(cost(ours.to_numpy()), cost(theirs.to_numpy()), SOLVED.get(measure, 0.0))])
    return found, Figure(name, found.ratio, len(ours), (a.key, b.key), measure)


def beside_lora(
    evidence: Evidence, parameterization: str, measures: Mapping[str, str], own: Mapping[str, Mapping[str, object]] | None = None
) -> Finding:
    """A method against LoRA of its rank: whether it ends better in every one of the settings that have a measure's name.

    Args:
        own: by setting, what tells the method's cell from others of its name.
    """
    verdicts, figures = {}, []
    for where, measure in measures.items():
        ours = of_study(evidence, parameterization=parameterization, **SETTINGS[where], **(own or {}).get(where, {}))
        lora = of_study(evidence, parameterization="lora", **SETTINGS[where])
        found, figure = compared(f"{measure}, {parameterization} / lora, {where}", (ours, lora))
        verdicts[where] = found.verdict
        figures.append(figure)
    return Finding(settled(verdicts), told(verdicts), tuple(figures))


def as_good(found: Comparison) -> str:
    """as good, where a costs at most 5 % more than b with the whole interval; else worse, or inconclusive."""
    if found.ratio.high <= EQUAL:
        return "as good"
    return "worse" if found.verdict == "worse" else "inconclusive"


def in_words(verdicts: dict[str, str]) -> str:
    """Each verdict with all that it is of."""
    of = {each: [name for name, verdict in verdicts.items() if verdict == each] for each in verdicts.values()}
    return "; ".join(f"{each} {', '.join(names)}" for each, names in of.items()) + "."


def exact(name: str, value: float, measure: str, *cells: StoredCell) -> Figure:
    """A count, the same on every seed."""
    return Figure(name, Interval(value, value, value), 1, tuple(cell.key for cell in cells), measure)
