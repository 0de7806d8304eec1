"""Deep LoRA (arXiv 2406.04112): fine-tuning on few samples, and how much the rank matters there."""

from collections.abc import Callable, Sequence

import numpy as np

from bench.claims._claim import Evidence, Figure, Finding, at_most, claim, kept, one, settled
from bench.claims._deep_lora import PAPER, all_of, as_said, opposite
from bench.stats import Interval, compare, log_ratios, median
from bench.stored import StoredCell
from bench.study import Study, reported_costs

LEDGER = "deep_lora"

RANKS = (8, 16, 32, 64)
LORA, WIDE, NARROW, COMPRESSED = "lora", "WideStartLoRA", "Narrow", "Compressed"
ARMS = {"full": (NARROW, 64), "compressed": (COMPRESSED, 8), "narrow": (NARROW, 8)}
BASELINES = {"LoRA": (LORA, 8), "LoRA from N(0, 1)": (WIDE, 8)}
RATE = {LORA: 1e-3, WIDE: 1e-3, NARROW: 1e-3, COMPRESSED: 1e-2}
# The authors' 1e-4, times 768 / 64: a step of Adam moves a factor by its rate times its width. The compressed width is theirs,
# and so is its rate.
EXPERIMENTS = ("claims_deep_lora_digits", "claims_deep_lora_regression")
REPLACED = (
    "BERT on STS-B is replaced by a two-layer net on digits turned by 30 degrees (16 or 64 samples; half are wrong at the start) "
    "and by a linear layer with 16 samples for 64 inputs; all weights are 64 x 64"
)
SETTINGS = (
    "depth 3, ε = 1e-3, γ = 0.01, Adam with eps 1e-6 as the authors have it, full batches, 400 steps; seven rates from 1e-4 to "
    "0.1 and more where the best is at the edge"
)


def cell_of(study: Study, problem: str, parameterization: str, rank: int) -> StoredCell:
    found = study.where(parameterization=parameterization, parameterization__rank=rank)
    return study.cells[problem, one(found)]


def last(cell: StoredCell) -> str:
    """The column of the error after the last step, which the authors report."""
    return "final_test_error" if "final_test_error" in cell.lanes else "final_relative_error"


def on_grid(cell: StoredCell) -> np.ndarray:
    """(k,) the last error on the grid's own seeds at the authors' rate, where nothing is chosen, by seed."""
    lanes = cell.tuned
    own = lanes.loc[np.isclose(lanes["lr"], RATE[cell.summary["parameterization"]])].sort_values("seed")
    return np.asarray(own[last(cell)], dtype=float)


def tuned(cell: StoredCell) -> np.ndarray:
    """(k,) the error on the reporting seeds at the rate that the tuning seeds prefer, by seed."""
    return reported_costs(cell, "headline").to_numpy()


@claim(
    "C10a",
    "Fine-tuned on few samples, Deep LoRA has a lower error than LoRA, whether it is full, compressed or narrow.",
    source=f"{PAPER}, the authors' results on STS-B and GLUE with 16 to 1024 samples",
    matched=f"{REPLACED}; rank 8, the full network of width 64; {SETTINGS}. Tuned: the test error where the validation loss is "
    "lowest (digits), the error to the hidden weight at the rate of the lowest training loss (regression). At the authors' rates, "
    "scaled to this width: the last step's error, on the grid's own ten seeds",
    experiments=EXPERIMENTS,
)
def generalizes_better(evidence: Evidence) -> Finding:
    study, figures, said = evidence.study, [], []
    verdicts: dict[str, str] = {}
    for baseline, plain in BASELINES.items():
        for way, costs in (("tuned", tuned), ("at the authors' rates", on_grid)):
            found: dict[str, str] = {}
            for problem in study.problems:
                for arm, deep in ARMS.items():
                    cells = [cell_of(study, problem, *each) for each in (deep, plain)]
                    label = f"{arm} against {baseline}, {way}, on {problem}"
                    found[label], figure = compared(evidence, f"error, {label}", cells, costs)
                    figures.append(figure)
            said.append(f"against {baseline}, {way}: {counted(found)}")
            verdicts |= found
    return Finding(settled(verdicts), "Deep LoRA " + "; ".join(said) + ".", tuple(figures))


def compared(
    evidence: Evidence, name: str, cells: Sequence[StoredCell], costs: Callable[[StoredCell], np.ndarray]
) -> tuple[str, Figure]:
    """The verdict on the first cell's costs against the second's, seed by seed, and their ratio."""
    logs = log_ratios(*map(costs, cells))
    found, keys = compare([logs]), tuple(cell.key for cell in cells)
    measure = "headline" if costs is tuned else name
    if costs is on_grid:
        kept(evidence, name, 10.0**logs, cells[0].config["seeds"]["tune"])
    return found.verdict, Figure(name, found.ratio, len(logs), keys, measure)


def counted(verdicts: dict[str, str]) -> str:
    """How often what came out, and on which problems it was better."""
    found = list(verdicts.values())
    where = dict.fromkeys(label.rpartition(" on ")[2] for label, verdict in verdicts.items() if verdict == "better")
    numbers = ", ".join(f"{found.count(each)} {each}" for each in dict.fromkeys(sorted(found)))
    return numbers + (f" (better on {' and '.join(where)})" if where else "")


@claim(
    "C10b",
    "At one learning rate for all ranks the error of Deep LoRA changes by at most 0.05 from rank 8 to 64, that of LoRA by 0.3 or "
    "more.",
    source=f"{PAPER}, the authors' figure of Pearson's correlation by rank on 16 samples of STS-B; thresholds are the dossier's",
    matched=f"{REPLACED}; Deep LoRA is the narrow network, LoRA starts from N(0, 1), as in the authors' figure; {SETTINGS}. The "
    "verdict is on the authors' rates, scaled to this width (last step, the grid's own ten seeds); beside it LoRA that starts at "
    "the usual scale, the compressed network, and every rank at a rate of its own",
    experiments=EXPERIMENTS,
    revised="both halves must hold on one problem, which is stricter",
)
def rank_matters_less(evidence: Evidence) -> Finding:
    study, figures, said = evidence.study, [], []
    verdicts: dict[str, str] = {}
    words = {True: "as said", False: "not as said", None: "undecided"}
    for problem in study.problems:
        at_one_rate = {}
        for method in (NARROW, WIDE, LORA, COMPRESSED):
            cells = [cell_of(study, problem, method, rank) for rank in RANKS]
            at_one_rate[method] = range_of(
                evidence, f"range of the error over ranks, {method}, one rate, on {problem}", cells, on_grid
            )
            own = range_of(evidence, f"range of the error over ranks, {method}, tuned, on {problem}", cells, tuned)
            figures += [at_one_rate[method], own]
        deep, lora = at_most(at_one_rate[NARROW], 0.05), opposite(at_most(at_one_rate[WIDE], 0.3))
        verdicts[problem] = as_said(all_of([deep, lora]))
        said.append(
            f"{problem}: Deep LoRA's range {words[deep]}, LoRA's {words[lora]} "
            f"({at_one_rate[LORA].value.value:.2g} from the usual scale)"
        )
    return Finding(settled(verdicts), f"At one rate, on {'; on '.join(said)}.", tuple(figures))


def range_of(evidence: Evidence, name: str, cells: Sequence[StoredCell], costs: Callable[[StoredCell], np.ndarray]) -> Figure:
    """The range of the median error over ranks; written down are the seeds' own ranges."""
    values = np.stack([costs(cell) for cell in cells])
    seeds = cells[0].config["seeds"]["report" if costs is tuned else "tune"]
    kept(evidence, name, np.ptp(values, axis=0), sorted(seeds))
    return Figure(name, spread(values), values.shape[1], tuple(cell.key for cell in cells), name)


def spread(values: np.ndarray, resamples: int = 2000) -> Interval:
    """The range over ranks of the medians of values (ranks, seeds); seeds are drawn again, the same ones for every rank."""
    random = np.random.default_rng(0)
    again = random.integers(values.shape[1], size=(resamples, values.shape[1]))
    drawn = np.ptp(median(values[:, again], axis=-1), axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Interval(float(np.ptp(median(values, axis=-1))), float(low), float(high))
