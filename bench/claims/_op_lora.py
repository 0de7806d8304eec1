"""What the claims about OP-LoRA share: grids read lane by lane, rates chosen across halves of the seeds, and variants of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from bench.claims._claim import Evidence, Figure, against, kept
from bench.stats import Comparison, Interval, compare, log_ratios, median
from bench.stored import StoredCell, spread
from bench.study import Study
from linalg import InputError
from linalg.checks import check_choice
from parameterizations import OPLoRA, Parameterization
from parameterizations._generator import affine

PAPER = "Teterwak et al., OP-LoRA, arXiv 2412.10362 (the ICLR 2026 submission)"
FACTORIZATION, GENERATORS, DIGITS = "claims_op_lora_factorization", "claims_op_lora_generators", "claims_op_lora_digits"
VARIANTS = ("paper", "small_z", "kaiming", "rezero", "frozen_z", "linear")


@dataclass(frozen=True)
class OPLoRAVariant(OPLoRA):
    """OP-LoRA with one thing done otherwise.

    Args:
        variant: `paper`; `small_z`, z ~ N(0, 0.01²); `kaiming`, U[-√(6/fan_in), √(6/fan_in)] for both weights; `rezero`, see
            `OPLoRA`; `frozen_z`, z does not train; `linear`, no ReLU.
    """

    variant: str = "paper"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, VARIANTS)
        if self.variant == "small_z":
            object.__setattr__(self, "embedding_scale", 0.01)
        if self.variant == "rezero":
            object.__setattr__(self, "head", "rezero")
        super().__post_init__()

    def initial(self, shape, generator, base, gradient):
        params = super().initial(shape, generator, base, gradient)
        wider = sqrt(6) if self.variant == "kaiming" else 1.0
        return {name: wider * tensor if name.endswith("weight") else tensor for name, tensor in params.items()}

    def factors(self, params):
        if self.variant != "linear":
            return super().factors(params)
        hidden = affine(params["hidden_weight"], params["embedding"], params["hidden_bias"])
        sides = (affine(params[f"{side}_head_weight"], hidden, params[f"{side}_head_bias"]) for side in ("left", "right"))
        left, right = map(self._matrix, sides)
        return left.mT, right

    @property
    def frozen(self):
        return (*super().frozen, "embedding") if self.variant == "frozen_z" else super().frozen

    def record(self, program, params, grads, at):
        if self.variant in ("frozen_z", "linear"):
            return Parameterization.record(self, program, params, grads, at)
        return super().record(program, params, grads, at)


@dataclass(frozen=True)
class Pair:
    """OP-LoRA's cell beside LoRA's, in one setting."""

    label: str
    op: StoredCell
    lora: StoredCell

    @property
    def rates(self) -> list[float]:
        """That both were run at."""
        return sorted(set(self.op.tuned["lr"]) & set(self.lora.tuned["lr"]))

    @property
    def validated(self) -> bool:
        """Whether the rates are picked by something else than the training loss."""
        return bool(self.op.summary["problem"] == "rotated_digits")

    @property
    def seeds(self) -> list[int]:
        """Of the grid."""
        return sorted(self.op.config["seeds"]["tune"])


def cell_of(cells: Sequence[StoredCell], **settings: object) -> StoredCell:
    """The only one with these names and settings, paths with two underscores for a dot.

    Raises:
        InputError: where there is none, or several.
    """
    wanted = {path.replace("__", "."): value for path, value in settings.items()}
    fitting = [
        each for each in cells if all(each.summary.get(path, each.settings.get(path)) == value for path, value in wanted.items())
    ]
    if len(fitting) != 1:
        raise InputError(f"one cell of {wanted} was meant, but there are {len(fitting)}")
    return fitting[0]


def pairs(evidence: Evidence) -> list[Pair]:
    """The paper's factorization with three optimizers and its digits with Adam, those of them that the claim has."""
    found = []
    if GENERATORS in evidence.sweeps:
        for optimizer in ("sgd", "momentum", "adam"):
            sides = (cell_of(evidence.sweeps[name], optimizer=optimizer) for name in (GENERATORS, FACTORIZATION))
            found.append(Pair(f"factorization, {optimizer}", *sides))
    if DIGITS in evidence.sweeps:
        sides = (cell_of(evidence.sweeps[DIGITS], parameterization=name) for name in ("op_lora", "lora"))
        found.append(Pair("digits, adam", *sides))
    return found


def reported(a: StoredCell, b: StoredCell, measure: str = "remaining", name: str = "") -> tuple[Comparison, Figure]:
    """a against b on the reporting seeds, each at the rate that was chosen for it."""
    study = Study.of([a, b])
    names = {cell.key: method for (_, method), cell in study.cells.items()}
    found, figure = against(study, names[a.key], names[b.key], study.problems, measure)
    return found, replace(figure, name=name or figure.name)


def on_grid(cell: StoredCell, measure: str, rate: float) -> np.ndarray:
    """(k,) a column of the grid's lanes at one rate, by seed; nothing is chosen there, so that they may be reported."""
    lanes = cell.tuned
    own = lanes.loc[lanes["lr"] == rate].sort_values("seed")
    return np.asarray(own[measure], dtype=float)


def whole_grid(cell: StoredCell, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """(r,) rates and (k, r) a column of the grid's lanes, seeds by number."""
    return spread(cell.tuned, "seed", "lr", measure)


def cross_fitted(cell: StoredCell, measure: str) -> tuple[np.ndarray, tuple[float, ...]]:
    """(k,) a column of the grid's lanes by seed, each half of the seeds at the rate that is best in the median of the other
    half; and these two rates. For a rate by another measure than that which the problem selects by."""
    rates, values = whole_grid(cell, measure)
    half = len(values) // 2
    halves = slice(None, half), slice(half, None)
    chosen = [int(np.argmin(median(values[other], axis=0))) for other in reversed(halves)]
    return np.concatenate([values[own, i] for own, i in zip(halves, chosen, strict=True)]), tuple(float(rates[i]) for i in chosen)


def set_beside(evidence: Evidence, name: str, sides: Sequence[np.ndarray], seeds: Sequence[int]) -> tuple[str, Figure]:
    """Costs of one side against those of the other, seed by seed: the verdict, and their ratio, written down under the name."""
    logs = log_ratios(*sides)
    found = compare([logs])
    kept(evidence, name, 10.0**logs, seeds)
    return found.verdict, Figure(name, found.ratio, len(logs), measure=name)


def pooled(
    evidence: Evidence, name: str, sides: Mapping[float, Sequence[np.ndarray]], seeds: Sequence[int]
) -> tuple[Comparison, Figure]:
    """Costs of a against those of b at several rates, a rate a stratum; written down are the medians over rates, by seed."""
    logs = [log_ratios(*both) for both in sides.values()]
    found = compare(logs)
    kept(evidence, name, 10.0 ** median(np.stack(logs), axis=0), seeds)
    return found, Figure(name, found.ratio, len(seeds), measure=name)


def sign_of(value: Interval, nothing: float) -> str:
    """Where a difference lies for which more is better: better, worse, equal (within `nothing`), or inconclusive."""
    if value.low > 0:
        return "better"
    if value.high < 0:
        return "worse"
    return "equal" if -nothing <= value.low and value.high <= nothing else "inconclusive"


def as_said(verdict: bool | None) -> str:
    """`at_most`'s answers as words that `settled` knows."""
    return "inconclusive" if verdict is None else "better" if verdict else "worse"
