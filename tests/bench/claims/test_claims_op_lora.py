"""Claims about OP-LoRA: every verdict on lanes made by hand, and identities measured on few seeds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bench.claims import Evidence, _op_lora, op_lora, op_lora_mechanism, op_lora_structure
from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, SEEDS
from bench.claims._op_lora import DIGITS, FACTORIZATION, GENERATORS, VARIANTS, OPLoRAVariant, cell_of, cross_fitted, sign_of
from bench.runs import run
from bench.stats import Interval
from bench.store import Store
from bench.stored import StoredCell
from linalg import InputError
from optimizers import Adam
from parameterizations import OPLoRA
from problems import MatrixFactorization

RATES = 10.0 ** np.arange(-3, 2)
TUNE = tuple(range(10))
JITTER = 1 + 1e-3 * np.arange(10)


def made(name, at_rates, reported=1.0, problem="matrix_factorization", optimizer="adam", chosen=0.1, **settings):
    """A stored cell that ends at some loss at each rate; a pair stands for seeds that disagree."""
    losses = [np.resize(loss, 10) * JITTER for loss in at_rates]
    grid = [
        {"role": "tune", "lr": rate, "seed": seed, **dict.fromkeys(("final_loss", "remaining", "headline", "steps_to_1e-02"), loss)}
        for rate, by_seed in zip(RATES, losses, strict=True)
        for seed, loss in zip(TUNE, by_seed, strict=True)
    ]
    values = reported if isinstance(reported, dict) else {}
    ends = {measure: values.get(measure, reported if not values else 1.0) for measure in ("final_loss", "remaining", "headline")}
    ends |= {"steps_to_1e-02": values.get("steps_to_1e-02", 1.0)}
    report = [
        {"role": "report", "lr": chosen, "seed": seed, **{name: np.resize(each, 10)[i] * JITTER[i] for name, each in ends.items()}}
        for i, seed in enumerate(SEEDS)
    ]
    cell = StoredCell(Store(Path("nowhere")), "-".join([problem, name, optimizer, str(settings)]))
    seeds = {"tune": list(TUNE), "report": list(SEEDS)}
    flat = {f"parameterization.{key}": value for key, value in settings.items()} | {"steps": 1000}
    cell.__dict__ |= {
        "lanes": pd.DataFrame([*grid, *report]).assign(initial_loss=4.0, floor=1.0, status="ok"),
        "summary": {"problem": problem, "parameterization": name, "optimizer": optimizer, "chosen_lr": chosen},
        "config": {"seeds": seeds},
        "settings": flat,
    }
    return cell


def one_setting(op, lora, **options):
    """Evidence on rotated digits alone."""
    return Evidence(
        {DIGITS: [made("op_lora", op, problem="rotated_digits", **options), made("lora", lora, problem="rotated_digits")]}
    )


U = (4.0, 2.0, 1.0, 2.0, 4.0)
NOISY = [(0.5, 2.0)] * 5


def scaled(factor):
    return [factor * loss for loss in U]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (scaled(0.5), HOLDS),
        ((1.0, 1.0, 1.0, 2.0, 8.0), CONDITION),
        (U, FAILS),
        (scaled(1.5), FAILS),
        (tuple((0.8 * loss, 1.2 * loss) for loss in U), INCONCLUSIVE),
    ],
)
def test_lower_at_every_rate(op, expected):
    evidence = one_setting(op, U)
    finding = op_lora.lower_at_every_rate.settle(evidence)
    assert finding.verdict == expected
    assert set(evidence.drawings) == {"op-lora-rates"}
    kept = {name for name, _ in evidence.measured}
    assert all(figure.measure in kept for figure in finding.figures), "so that the ledger can print them"


def test_rates_that_train_neither_are_left_out():
    finding = op_lora.lower_at_every_rate.settle(one_setting([4.0, 0.5, 0.5, 0.5, 4.0], U))
    assert finding.verdict == HOLDS
    assert len(finding.figures) == 3


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ([1.0] * 5, HOLDS),
        (U, FAILS),
        ((4.0, 4.0, 1.0, 4.0, 4.0), FAILS),
        ((4.0, 1.0, 1.0, 4.0, 4.0), CONDITION),
        (((4.0, 1.0), 2.0, 1.0, 2.0, 4.0), INCONCLUSIVE),
    ],
)
def test_a_wider_window(op, expected):
    assert op_lora.wider_window.settle(one_setting(op, U)).verdict == expected


def test_windows_are_counted_in_decades():
    cell = made("lora", (4.0, 1.04, 1.0, 2.0, np.inf))
    found = op_lora.readings(RATES, np.array([[4.0, 1.04, 1.0, 2.0, np.inf]]), cell.tuned.query("seed == 0"))
    near, half, area = found.values()
    assert near == pytest.approx(2)
    assert half == pytest.approx(3)
    assert area == pytest.approx(-np.log10([1, 0.26, 0.25, 0.5, 1]).mean())


@pytest.mark.parametrize(("op", "expected"), [(scaled(0.5), HOLDS), (U, FAILS), (scaled(2), FAILS), (NOISY, INCONCLUSIVE)])
def test_lower_when_tuned_on_digits(op, expected):
    assert op_lora.lower_when_tuned.settle(one_setting(op, U)).verdict == expected


def factorizations(op, lora, ours, theirs):
    rules = ("sgd", "momentum", "adam")
    return Evidence(
        {
            GENERATORS: [made("op_lora", op, ours[rule], optimizer=rule) for rule in rules],
            FACTORIZATION: [made("lora", lora, theirs[rule], optimizer=rule) for rule in rules],
        }
    )


def test_lower_when_tuned_on_factorizations():
    evidence = factorizations(U, U, dict.fromkeys(("sgd", "momentum", "adam"), 0.5), {"sgd": 1.0, "momentum": 1.0, "adam": 0.5})
    finding = op_lora.lower_when_tuned.settle(evidence)
    assert finding.verdict == CONDITION
    assert "better on factorization, sgd, factorization, momentum" in finding.said


def test_each_half_of_the_seeds_is_reported_at_the_other_halfs_best_rate():
    cell = made("lora", (4.0, np.repeat([1.0, 3.0], 5), np.repeat([3.0, 1.0], 5), 4.0, 4.0))
    found, rates = cross_fitted(cell, "final_loss")
    assert rates == (0.1, 0.01)
    np.testing.assert_allclose(found / JITTER, 3.0)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ([0.5] * 5, HOLDS),
        ((2.0, 1.0, 2.0, 4.0, 4.0), FAILS),  # LoRA's at ten times the rate, half a decade being two places here
        (U, INCONCLUSIVE),
    ],
)
def test_a_factor_on_the_rate(op, expected, monkeypatch):
    monkeypatch.setattr(op_lora, "replayed", lambda evidence: [])
    monkeypatch.setattr(op_lora, "MULTIPLES", (10, 100))
    evidence = one_setting(op, U)
    if expected == INCONCLUSIVE:
        with pytest.raises(ValueError, match="needs a figure"):  # no gap, nothing to explain; replays are the figures elsewhere
            op_lora.more_than_a_factor.settle(evidence)
    else:
        assert op_lora.more_than_a_factor.settle(evidence).verdict == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [(["better", "better"], "better"), (["better", "equal"], "worse"), (["better", "inconclusive"], "inconclusive")],
)
def test_a_gap_stays_open_only_if_no_factor_closes_it(verdicts, expected):
    assert op_lora.ahead_of_all(verdicts) == expected


def test_replays_are_measured(monkeypatch):
    monkeypatch.setattr(op_lora, "SEEDS", SEEDS[:2])
    evidence = Evidence({})
    figures = op_lora.replayed(evidence, steps=60)
    assert len(figures) == len(op_lora.REPLAYED)
    assert len(evidence.measured) == 2 * len(figures)


REACHED = {"final_loss": 1.0, "steps_to_1e-02": 10.0}
SLOWER, MISSED = REACHED | {"steps_to_1e-02": 20.0}, {"final_loss": 2.0, "steps_to_1e-02": np.inf}
DOUBTFUL = {"final_loss": (1.0, 2.0), "steps_to_1e-02": (5.0, 20.0)}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((REACHED, REACHED), (SLOWER, MISSED), HOLDS),
        ((REACHED, REACHED), (SLOWER, REACHED), CONDITION),
        ((SLOWER, MISSED), (REACHED, REACHED), FAILS),
        ((DOUBTFUL, SLOWER), (REACHED, REACHED), INCONCLUSIVE),
        ((MISSED | {"steps_to_1e-02": 20.0}, DOUBTFUL | {"steps_to_1e-02": 20.0}), (REACHED, REACHED), FAILS),
    ],
)
def test_composition(ours, theirs, expected):
    sides = [dict(zip(("momentum", "adam"), side, strict=True)) | {"sgd": REACHED} for side in (ours, theirs)]
    assert op_lora.composes.settle(factorizations(U, U, *sides)).verdict == expected


def test_export_and_step_hold_to_rounding(monkeypatch):
    monkeypatch.setattr(op_lora_mechanism, "SEEDS", SEEDS[:2])
    for claim in (op_lora_mechanism.exports, op_lora_mechanism.moves_by_preconditioner):
        assert claim.settle(Evidence({})).verdict == HOLDS


def test_the_gradient_along_the_largest_curvature_of_a_quadratic():
    curvature, x = torch.tensor([1.0, -5.0, 3.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    found = op_lora_mechanism.gradient_on_top(lambda point: 0.5 * (curvature * point.square()).sum(), [x])
    assert found == pytest.approx(10)


@pytest.mark.parametrize(
    ("op", "expected"), [((2, 2), HOLDS), ((2, 1), CONDITION), ((1, 0.5), FAILS), ((0.5, (0.1, 9)), INCONCLUSIVE)]
)
def test_curvature(op, expected, monkeypatch):
    bases = ("what trains", "the factors")
    values = {"LoRA": (1, 1), "OPLoRA": op}
    monkeypatch.setattr(op_lora_mechanism, "trained", lambda method, rate: ([], []))
    monkeypatch.setattr(
        op_lora_mechanism,
        "along_curvature",
        lambda method, *_: {basis: np.resize(each, 10) for basis, each in zip(bases, values[type(method).__name__], strict=True)},
    )
    finding = op_lora_mechanism.gradient_along_curvature.settle(one_setting(U, U))
    assert finding.verdict == expected
    assert "OP-LoRA 0.1, LoRA 0.1" in finding.said


@pytest.mark.parametrize(("seconds", "expected"), [((1.1, 1.2, 20), HOLDS), ((1.1, 1.2, 2), CONDITION), ((1.5, 1.0, 2), CONDITION)])
def test_costs(seconds, expected, monkeypatch):
    op, scaled_adamw, pro = seconds
    each = {"LoRA": 1, "OP-LoRA": op, "Scaled AdamW": scaled_adamw, "LoRA-Pro": pro}
    monkeypatch.setattr(op_lora_mechanism, "timed", lambda *_: {name: [value] * 10 for name, value in each.items()})
    assert op_lora_mechanism.costs.settle(Evidence({})).verdict == expected


def test_steps_are_timed(monkeypatch):
    monkeypatch.setattr(op_lora_mechanism, "REPEATS", range(2))
    monkeypatch.setattr(op_lora_mechanism, "TIMED_STEPS", 2)
    seconds = op_lora_mechanism.timed(MatrixFactorization((8, 6)).draw(0, dtype=torch.float32, device="cpu"), 2)
    assert all(len(each) == 2 and min(each) > 0 for each in seconds.values())


@pytest.mark.parametrize(
    ("narrow", "others", "expected"),
    [(2, 1, HOLDS), (2, 1.5, CONDITION), (1, 1, CONDITION), (0.5, 2, FAILS), ((0.5, 2), 2, INCONCLUSIVE)],
)
def test_widths(narrow, others, expected):
    ends = {1: narrow, 4: others, 32: 1.0, 128: others, 512: others}
    sweeps = {
        name: [made("op_lora", U, end, problem=problem, hidden=width) for width, end in ends.items()]
        for name, problem in ((op_lora_structure.WIDTHS, "matrix_factorization"), (op_lora_structure.WIDTHS_DORA, "rotated_digits"))
    }
    assert op_lora_structure.width_matters_little.settle(Evidence(sweeps)).verdict == expected


@pytest.mark.parametrize(
    ("grid", "end", "expected"),
    [(scaled(0.5), 0.5, HOLDS), (scaled(0.5), 2.0, CONDITION), (U, 1.0, FAILS), (U, (0.5, 2.0), INCONCLUSIVE)],
)
def test_as_many_numbers(grid, end, expected):
    sweeps = {
        name: [
            made("op_lora", grid, end, problem=problem, rank=1),
            made("lora", U, problem=problem, rank=1),
            made("lora", U, problem=problem, rank=64),
        ]
        for name, problem in (("a", "rotated_digits"), ("b", "matrix_completion"))
    }
    assert op_lora_structure.beats_its_own_size.settle(Evidence(sweeps)).verdict == expected


@pytest.mark.parametrize(
    ("ends", "expected"), [((2, 2, 2), HOLDS), ((2, 1, 1), CONDITION), ((1, 1, 0.5), FAILS), (((0.5, 2), 1, 1), INCONCLUSIVE)]
)
def test_sharing(ends, expected):
    shared = [made("op", U, end, problem="stack", hidden=width, shared=True) for width, end in zip((4, 8, 67), ends, strict=True)]
    own = made("op", U, problem="stack", hidden=8, shared=False)
    evidence = Evidence({op_lora_structure.SHARED: shared, op_lora_structure.LAYERS: [own]})
    assert op_lora_structure.sharing_hurts.settle(evidence).verdict == expected


@pytest.mark.parametrize(
    ("predicted", "half", "expected"),
    [(1.0, 2.0, HOLDS), (1.0, 1.0, CONDITION), (2.0, 2.0, FAILS), ((0.5, 2.0), 2.0, INCONCLUSIVE)],
)
def test_half_the_rank(predicted, half, expected):
    ends = {("op_lora", 2): predicted, ("op_lora", 4): 1.0, ("lora", 2): half, ("lora", 4): 1.0}
    cells = [
        made(name, U, end, problem="rotated_digits", optimizer="scaled_adamw", rank=rank) for (name, rank), end in ends.items()
    ]
    assert op_lora_structure.halves_the_rank.settle(Evidence({op_lora_structure.HALF_RANK: cells})).verdict == expected


@pytest.mark.parametrize(
    ("grids", "expected"),
    [
        ({}, HOLDS),
        ({"small_z": scaled(2)}, CONDITION),
        (dict.fromkeys(VARIANTS[1:], scaled(2)), FAILS),
        (dict.fromkeys(VARIANTS[1:], NOISY), INCONCLUSIVE),
    ],
)
def test_what_is_open(grids, expected):
    sweeps = {
        name: [made("OPLoRAVariant", grids.get(each, U), variant=each) for each in VARIANTS]
        for name in (op_lora_structure.OPEN, op_lora_structure.OPEN_DIGITS)
    }
    assert op_lora_structure.is_robust_to_what_is_open.settle(Evidence(sweeps)).verdict == expected


@pytest.mark.parametrize(
    ("spreads", "expected"),
    [((1, 3, 1, 3), HOLDS), ((1, 3, 2, 0.5), CONDITION), ((3, 1, 3, 1), FAILS), ((1, 1, 1, 1), INCONCLUSIVE)],
)
def test_spread(spreads, expected, monkeypatch):
    noise = np.random.default_rng(0).standard_normal(20)
    by_place = dict(zip([("op_dora", 0.1), ("dora", 0.01), ("op_dora", 0.01), ("dora", 0.1)], spreads, strict=True))
    monkeypatch.setattr(op_lora_structure, "errors_by_seed", lambda evidence, name, method, rate: by_place[name, rate] * noise)
    sides = [made(name, U, problem="rotated_digits", chosen=rate) for name, rate in (("op_dora", 0.1), ("dora", 0.01))]
    if expected == INCONCLUSIVE:
        monkeypatch.setattr(op_lora_structure, "ratio_of_spreads", lambda a, b: Interval(1.0, 0.5, 2.0))
    assert op_lora_structure.varies_less.settle(Evidence({DIGITS: sides})).verdict == expected


def test_the_ratio_of_spreads_by_hand():
    a = np.array([0.0, 2.0, 4.0, 6.0])
    assert op_lora_structure.ratio_of_spreads(a, a / 2) == Interval(2.0, 2.0, 2.0)


def test_errors_differ_by_seed_on_the_same_digits(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(op_lora_structure, "SPREAD_SEEDS", (200, 201))
    problem = op_lora_structure.SameDigits(batch_size=8)
    first, second = (problem.draw(seed, dtype=torch.float32, device="cpu") for seed in (200, 201))
    assert torch.equal(first.train, second.train)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_differs_in_one_thing(variant):
    problem, method = MatrixFactorization((8, 6)), OPLoRAVariant(2, hidden=4, embedding=5, variant=variant)
    lanes = [run(problem, each, Adam(), lr=1e-2, seeds=2, steps=5, probes="none").lanes for each in (method, OPLoRA(2, 4, 5))]
    assert (lanes[0]["final_loss"].equals(lanes[1]["final_loss"])) == (variant == "paper")
    start, usual = (each.init((8, 6), generator=torch.Generator().manual_seed(1)) for each in (method, OPLoRA(2, 4, 5)))
    assert method.weight(start).dense().abs().max() == 0
    if variant == "small_z":
        torch.testing.assert_close(start["embedding"], 0.01 * usual["embedding"])
    if variant == "kaiming":
        torch.testing.assert_close(start["hidden_weight"], 6**0.5 * usual["hidden_weight"])
    assert ("embedding" in method.frozen) == (variant == "frozen_z")


def test_a_linear_variant_has_no_relu():
    method = OPLoRAVariant(2, hidden=4, embedding=5, variant="linear")
    params = method.init((8, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = params["hidden_weight"] @ params["embedding"]
    assert (hidden < 0).any()
    torch.testing.assert_close(method.factors(params)[1].flatten(), params["right_head_weight"] @ hidden)


def test_a_cell_that_is_not_one_is_refused():
    with pytest.raises(InputError, match="one cell of"):
        cell_of([made("lora", U), made("lora", U)], parameterization="lora")
    with pytest.raises(InputError, match="variant='none'"):
        OPLoRAVariant(variant="none")


def test_differences_have_a_sign_only_with_their_whole_interval():
    found = [sign_of(Interval(0.5, low, high), 0.25) for low, high in ((0.1, 1), (-1, -0.1), (-0.2, 0.2), (-1, 1))]
    assert found == ["better", "worse", "equal", "inconclusive"]
    assert [_op_lora.as_said(each) for each in (True, False, None)] == ["better", "worse", "inconclusive"]
