"""Claims about GeoLoRA: every verdict on hand-made measurements and lanes, and identities measured on few seeds."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bench import claims as package
from bench.claims import (
    Evidence,
    Figure,
    _claim,
    _geolora,
    geolora,
    geolora_ablation,
    geolora_budget,
    geolora_condition,
    geolora_cost,
    geolora_factors,
    geolora_flow,
    geolora_rank,
    geolora_rates,
)
from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, NOT_RUN
from bench.stats import Interval
from bench.store import Store
from bench.stored import StoredCell
from optimizers import GeoLoRA
from problems import MatrixCompletion

MODULES = (
    *(_claim, _geolora, geolora, geolora_ablation, geolora_budget, geolora_condition),
    *(geolora_cost, geolora_factors, geolora_flow, geolora_rank, geolora_rates),
)
SEEDS = (100, 101, 102)
REPORT = tuple(range(100, 110))
ALL = {f"{module.__name__}.{name}" for module in MODULES for name, each in vars(module).items() if isinstance(each, package.Claim)}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Three seeds in place of ten."""
    for module in MODULES:
        if hasattr(module, "SEEDS"):
            monkeypatch.setattr(module, "SEEDS", SEEDS)


def settle(claim, cells=()):
    return claim.settle(Evidence({"hand-made": list(cells)} if cells else {}))


def verdict(claim, cells=()):
    return settle(claim, cells).verdict


numbers = itertools.count()


def made(problem, parameterization, optimizer, report=None, tune=None, spectra=None, **settings):
    """A stored cell with columns of the ten reporting lanes, and of tuning lanes by rate."""
    report = pd.DataFrame({"role": "report", "lr": 0.1, "seed": REPORT, "status": "ok", **(report or {})})
    tune = tune or {0.1: {"score": 1.0}}
    grid = [
        pd.DataFrame({"role": "tune", "lr": rate, "seed": range(10), "status": "ok", **columns}) for rate, columns in tune.items()
    ]
    cell = StoredCell(Store(Path("nowhere")), f"{problem}-{parameterization}-{optimizer}-{next(numbers):06d}")
    cell.__dict__ |= {
        "lanes": pd.concat([report, *grid], ignore_index=True).assign(resolution=1e-12),
        "summary": {"problem": problem, "parameterization": parameterization, "optimizer": optimizer, "chosen_lr": 0.1},
        "config": {"seeds": {"tune": list(range(10)), "report": list(REPORT)}},
        "settings": {name.replace("__", "."): value for name, value in settings.items()},
        "spectra": spectra,
    }
    return cell


SPREAD = 1 + 1e-3 * np.arange(10)
TOSSED = np.where(np.arange(10) % 2, 0.5, 2.0)  # ten seeds that do not agree


# identities, on few seeds


@pytest.mark.parametrize(
    "claim",
    [
        geolora.is_a_tangent_step,
        geolora.growth_is_of_second_order,
        geolora_cost.needs_one_gradient,
        geolora_factors.is_the_nearest_motion,
        geolora_factors.rite_sees_no_factors,
        geolora_factors.lora_muon_sees_no_factors,
        geolora_ablation.a_stale_inverse_misleads,
    ],
)
def test_what_is_exact_holds_on_every_seed(claim):
    found = settle(claim)
    assert found.verdict == HOLDS, found
    assert all(figure.seeds == len(SEEDS) for figure in found.figures)


def test_the_bounds_of_descent_hold_on_a_short_run():
    shares = torch.tensor([0.5, 1.0], dtype=torch.float64)
    for loss, smoothness in geolora.LOSSES.values():
        step, truncated, _ = geolora.broken_bounds(loss, smoothness, shares, 30)
        assert not step.any()
        assert not truncated.any()
        wrong, _, _ = geolora.broken_bounds(loss, smoothness / 4, shares, 30)
        assert wrong.any(), "a smoothness that is not the loss's breaks them"


def test_the_flow_is_approached_at_first_order_whatever_the_smallest_singular_value():
    for smallest in (1e-1, 1e-12):
        errors = [geolora_flow.flow_error(smallest, rate) for rate in (1 / 8, 1 / 32)]
        torch.testing.assert_close(errors[0] / errors[1], torch.full((3,), 4.0).double(), rtol=0.1, atol=0)
    assert (geolora_flow.flow_error(1e-8, 1 / 32, euler=True) > 1e3).all()
    assert (geolora_flow.flow_error(1e-1, 1 / 32, eps=0.1) > geolora_flow.flow_error(1e-1, 1 / 32)).all()


def test_factors_stop_only_at_a_singular_core():
    found = settle(geolora_flow.leaves_where_factors_stop)
    assert found.verdict == CONDITION
    assert [figure.value.value for figure in found.figures[4:10]] == [135, 212, 289, 30, 30, 30]


def test_the_path_of_lora_pro_sees_the_factors_to_second_order():
    assert verdict(geolora_factors.pro_sees_factors_to_second_order) == CONDITION


def test_truncating_again_and_again_comes_to_a_smallest_value_above_the_threshold():
    values = torch.rand(50, 10).double().sort(descending=True).values
    once = GeoLoRA(tolerance=0.3).kept(values, torch.full((50,), 10), False)
    repeated = geolora_ablation.Repeated(tolerance=0.3).kept(values, torch.full((50,), 10), False)
    assert (repeated <= once).all()
    assert (repeated < once).any()
    for own, rank in zip(values, repeated.tolist(), strict=True):
        assert own[rank - 1] >= 0.3 * own[:rank].norm()
    assert verdict(geolora_ablation.repeated_truncation_cuts_deeper) == HOLDS


def test_moments_left_alone_are_those_before():
    rule = geolora_ablation.Untouched(core_rule="adam")
    params = _geolora.on_manifold((9, 7), torch.tensor([0.5, 0.2]), room=4)
    state = rule.init(params)
    state["core"]["exp_avg"] += 1
    before = {name: tensor.clone() for name, tensor in params.items()}
    rule.replace(params, tuple(0 * before[name] for name in ("left", "core", "right")), state)
    assert (state["core"]["exp_avg"] == 1).all()
    assert not params["left"].any()
    shares = {each: geolora_ablation.remaining_with.__wrapped__ for each in geolora_ablation.MOMENTS}
    assert set(shares) == {"left", "reset", "turned"}


def test_steps_are_counted_to_the_relative_error(monkeypatch):
    monkeypatch.setattr(geolora_condition, "RATES", (0.5, 30.0))
    monkeypatch.setitem(geolora_condition.METHODS, "GeoLoRA", (*geolora_condition.METHODS["GeoLoRA"][:2], 60))
    steps = geolora_condition.steps_to.__wrapped__("GeoLoRA", 10, (100, 101))
    assert (np.abs(steps[:, 0] - 20) <= 3).all(), "half of the error a step: log2 1e6"
    assert np.isinf(steps[:, 1]).all()


def test_a_budget_finds_the_ranks_with_coefficient_steps():
    drawn = [geolora_budget.Stack((16, 14), ranks=(1, 3)).draw(seed) for seed in SEEDS]
    block = _geolora.advanced(drawn, geolora_budget.SVD(6, start=2), GeoLoRA(budget=4), [0.5], 220)
    assert _geolora.ranks_of(block).tolist() == [[[1, 3]]] * 3


def test_updates_that_are_timed_move_both_methods():
    for call in geolora_cost.updates(24, 4, 2):
        assert geolora_cost.seconds(call) > 0


def test_shifts_are_taken_over_the_runs_deviation():
    a = np.array([1.0, 2.0, 3.0])
    assert geolora_rank.shift_over_noise(a, a + 2) == pytest.approx(2)
    assert geolora_rank.shift_over_noise(a * 0, a * 0) == np.inf
    assert geolora_rank.resampled_shift(np.arange(10.0), np.arange(10.0)).high == 0


# verdicts, on measurements made by hand


def constant(value):
    return torch.full((3,), float(value)).double()


@pytest.mark.parametrize(("broken", "expected"), [(0, HOLDS), (2, FAILS)])
def test_one_step_below_the_bound_is_enough(monkeypatch, broken, expected):
    counts = torch.zeros(3, 3)
    counts[1, 2] = broken
    monkeypatch.setattr(geolora, "broken_bounds", lambda *_: (counts, 0 * counts, counts))
    assert verdict(geolora.descends_as_far_as_theory_says) == expected


def test_a_step_that_is_none_and_bases_that_drift_are_seen(monkeypatch):
    monkeypatch.setattr(geolora, "take", lambda *_: None)
    assert verdict(geolora.is_a_tangent_step) == FAILS
    monkeypatch.setattr(geolora, "Settings", lambda steps, **options: _geolora.Settings(steps, **options))
    monkeypatch.setattr(geolora, "MatrixCompletion", lambda shape, rank: MatrixCompletion((9, 8), rank=1))
    assert verdict(geolora.stays_orthonormal) == HOLDS


@pytest.mark.parametrize(("second", "expected"), [(100, HOLDS), (50, FAILS)])
def test_growth_is_judged_by_its_order(monkeypatch, second, expected):
    found = {(1e-3, 0): second, (1e-4, 0): 1, (1e-3, 1): 10, (1e-4, 1): 1}
    monkeypatch.setattr(geolora, "fourth_value", lambda rate, steps: constant(found[rate, steps]))
    assert verdict(geolora.growth_is_of_second_order) == expected


@pytest.mark.parametrize(("fall", "expected"), [(0.35, HOLDS), (0.8, INCONCLUSIVE), (1.1, FAILS)])
def test_convergence_under_noise_is_judged_by_the_fall(monkeypatch, fall, expected):
    monkeypatch.setattr(
        geolora_flow, "stochastic_run", lambda decay: {n: constant(fall**i) for i, n in enumerate(geolora_flow.SPANS)}
    )
    assert verdict(geolora_flow.converges_under_noise) == expected


def test_noise_leaves_a_floor_in_proportion_to_a_constant_rate(monkeypatch):
    monkeypatch.setattr(geolora_flow, "SPANS", (100, 400))
    constant_rate, falling = (geolora_flow.stochastic_run(decay) for decay in (0.0, 0.75))
    assert (falling[400] < 0.8 * falling[100]).all()
    assert (falling[400] < 0.5 * constant_rate[400]).all()


@pytest.mark.parametrize(("growth", "expected"), [(0, HOLDS), (0.5, FAILS)])
def test_the_flow_is_judged_by_what_the_smallest_singular_value_does(monkeypatch, growth, expected):
    def error(smallest, rate, eps=0.0, tolerance=0.0, room=5, euler=False):
        return constant((rate + eps + tolerance) * smallest**-growth)

    monkeypatch.setattr(geolora_flow, "flow_error", error)
    assert verdict(geolora_flow.follows_the_flow) == expected


def test_the_flow_is_undecided_where_a_bound_lies_within_an_interval(monkeypatch):
    varied = torch.tensor([1.0, 2.1, 3.0]).double()

    def error(smallest, rate, eps=0.0, tolerance=0.0, room=5, euler=False):
        return (rate + eps) * (varied if smallest == 1e-4 else constant(1))

    monkeypatch.setattr(geolora_flow, "flow_error", error)
    assert verdict(geolora_flow.follows_the_flow) == INCONCLUSIVE


@pytest.mark.parametrize(("idle", "left", "expected"), [(1, 0.5, HOLDS), (0, 0.5, CONDITION), (1, 0.0, FAILS)])
def test_where_the_factors_stop_decides_the_verdict(monkeypatch, idle, left, expected):
    monkeypatch.setattr(geolora_flow, "idles", lambda *_: constant(idle))
    monkeypatch.setattr(geolora_flow, "steps_near", lambda *_, **__: (constant(100), constant(left)))
    assert verdict(geolora_flow.leaves_where_factors_stop) == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (lambda name, condition: [10.0] * 5 if name == "GeoLoRA" else [50.0 * condition] * 5, HOLDS),
        (
            lambda name, condition: (
                [10.0 * (condition if i == 4 else 1) for i in range(5)] if name == "GeoLoRA" else [condition] * 5
            ),
            CONDITION,
        ),
        (lambda name, condition: [10.0 * condition] * 5, FAILS),
        (lambda name, condition: [10.0] * 5, FAILS),  # nor does it count to LoRA
    ],
)
def test_steps_by_condition_decide_the_verdict(monkeypatch, at, expected):
    monkeypatch.setattr(
        geolora_condition, "steps_to", lambda name, condition, seeds: np.array([at(name, condition)] * len(seeds), dtype=float)
    )
    assert verdict(geolora_condition.condition_does_not_count) == expected


def test_steps_by_condition_may_leave_it_open(monkeypatch):
    def at(name, condition, seeds):
        ours = {1: [10, 10, 10], 10: [12, 14, 18], 100: [12, 14, 18], 1000: [12, 14, 18]}[condition]
        each = ours if name == "ScaledGD" else [50 * condition] * 3
        return np.array([[steps] * 5 for steps in np.resize(each, len(seeds))], dtype=float)

    monkeypatch.setattr(geolora_condition, "steps_to", at)
    assert verdict(geolora_condition.condition_does_not_count_to_scaled_gd) == INCONCLUSIVE
    assert verdict(geolora_condition.condition_does_not_count_to_lora_pro) == FAILS, "its steps here are the baseline's"


@pytest.mark.parametrize(
    ("ratios", "expected"), [([0.5], HOLDS), ([0.5, 2.0], CONDITION), ([2.0], FAILS)], ids=["faster", "now and then", "slower"]
)
def test_times_decide_the_verdict(monkeypatch, ratios, expected):
    settings = itertools.count()

    def updates(size, rank, coefficient_steps):
        ratio = ratios[next(settings) % len(ratios)]
        return (lambda: ratio), (lambda: 1.0)

    monkeypatch.setattr(geolora_cost, "updates", updates)
    monkeypatch.setattr(geolora_cost, "seconds", lambda call: call())
    assert verdict(geolora_cost.updates_are_faster) == expected


def test_a_tensor_as_large_as_the_weight_is_seen(monkeypatch):
    monkeypatch.setattr(geolora_cost, "worst", lambda *_: Figure("x", Interval(1, 1, 1), 3))
    assert verdict(geolora_cost.needs_one_gradient) == FAILS


@pytest.mark.parametrize(
    ("long", "order", "expected"),
    [(1e-12, 1, HOLDS), (0.1, 10, CONDITION), (0.1, 1, FAILS)],
    ids=["exact", "first order", "neither"],
)
def test_the_distance_of_paths_decides_the_verdict(monkeypatch, long, order, expected):
    monkeypatch.setattr(geolora_factors, "apart", lambda rule, lr, steps=30: constant({0.05: long, 1e-2: order, 1e-3: 1}[lr]))
    assert verdict(geolora_factors.pro_sees_factors_to_second_order) == expected
    assert verdict(geolora_factors.rite_sees_no_factors) == (HOLDS if long < 1e-9 else FAILS)


@pytest.mark.parametrize(
    ("stale", "fresh", "expected"),
    [((0.5, 2), 0, HOLDS), ((0.5, 2), 0.2, INCONCLUSIVE), ((0, 0.01), 0, FAILS), ((0, 2), 0, INCONCLUSIVE)],
)
def test_errors_of_the_basis_gradient_decide_the_verdict(monkeypatch, stale, fresh, expected):
    found = dict(zip((5, 20), stale, strict=True))
    monkeypatch.setattr(geolora_ablation, "basis_gradient_errors", lambda steps: (constant(found[steps]), constant(fresh)))
    assert verdict(geolora_ablation.a_stale_inverse_misleads) == expected


@pytest.mark.parametrize(
    ("left", "found", "expected"), [(1.0, 0.1, HOLDS), (1.0, 1.0, FAILS), (1.0, 2.0, FAILS), (1.0, TOSSED[:3], INCONCLUSIVE)]
)
def test_moments_are_judged_beside_those_left_alone(monkeypatch, left, found, expected):
    shares = {"left": left, "turned": found, "reset": found}
    monkeypatch.setattr(geolora_ablation, "remaining_with", lambda moments, problem: np.ones(3) * shares[moments])
    for claim in (geolora_ablation.moments_belong_to_their_bases, geolora_ablation.moments_may_begin_anew):
        assert verdict(claim) == expected


@pytest.mark.parametrize(
    ("rank", "error", "expected"), [(5, 2.0, HOLDS), (5, 1.0, FAILS), (10, 2.0, FAILS), (5, TOSSED[:3], INCONCLUSIVE)]
)
def test_repeated_truncation_is_judged_by_rank_and_error(monkeypatch, rank, error, expected):
    class Lanes:
        def __init__(self, repeated):
            self.lanes = {
                "final_rank": np.full(3, rank if repeated else 10.0),
                "final_relative_error": np.ones(3) * (error if repeated else 1.0),
            }

    monkeypatch.setattr(
        geolora_ablation, "run", lambda problem, method, rule, **_: Lanes(isinstance(rule, geolora_ablation.Repeated))
    )
    assert verdict(geolora_ablation.repeated_truncation_cuts_deeper) == expected


# verdicts, on lanes made by hand


class Ranks:
    """A block whose layers have these ranks."""

    def __init__(self, ranks):
        self.ranks = torch.tensor(ranks)


def by_rank(ranks):
    def cell(start, steps, rate, rank):
        own = {
            "parameterization__start": start,
            "optimizer__tolerance": 0.1,
            "optimizer__coefficient_steps": steps,
            "lr__values": (rate,),
        }
        return made("matrix_factorization", "svd", "geolora", {"final_rank": rank}, **own)

    return [cell(*place, rank) for place, rank in zip(itertools.product((1, 10), (0, 10), (0.1, 1.0)), ranks, strict=True)]


SOME = np.where(np.arange(10) < 1, 4, 5)


@pytest.mark.parametrize(
    ("ranks", "larger", "expected"),
    [
        ([5] * 8, 5, HOLDS),
        ([5] * 8, 4, CONDITION),
        ([4] * 4 + [5] * 4, 5, CONDITION),
        ([4] * 8, 4, FAILS),
        ([SOME] * 8, 4, FAILS),
        ([SOME] * 8, None, INCONCLUSIVE),
    ],
)
def test_the_rank_decides_the_verdict(monkeypatch, ranks, larger, expected):
    at_large = torch.tensor([[larger or 5]] * 3) if larger else torch.tensor([[5], [5], [4]])
    monkeypatch.setattr(geolora_rank, "advanced", lambda *_: None)
    monkeypatch.setattr(geolora_rank, "ranks_of", lambda _: at_large)
    assert verdict(geolora_rank.finds_the_rank, by_rank(ranks)) == expected


def from_starts(ranks, errors):
    cells = []
    for tolerance, (start, rank) in itertools.product((0.15, 0.3), ranks.items()):
        rows = [(lane, seed, i, float(i < rank)) for lane, seed in enumerate(REPORT) for i in range(20)]
        spectra = pd.DataFrame(rows, columns=["lane", "seed", "index", "value"])
        own = {"parameterization__start": start, "optimizer__tolerance": tolerance}
        cells.append(made("rotated_digits", "svd", "geolora", {"headline": errors[start]}, spectra=spectra, **own))
    return cells


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [({2: 9, 4: 10, 16: 11}, HOLDS), ({2: 4, 4: 10, 16: 11}, CONDITION), ({2: 4, 4: 5, 16: 11}, FAILS)],
)
def test_parameters_from_all_starts_are_compared(monkeypatch, ranks, expected):
    for module in MODULES:
        if hasattr(module, "SEEDS"):
            monkeypatch.setattr(module, "SEEDS", REPORT)
    cells = from_starts(ranks, dict.fromkeys(ranks, 0.1))
    assert geolora_rank.total_rank(cells[0]).tolist() == [ranks[2]] * 10
    assert verdict(geolora_rank.ends_with_similar_parameters, cells) == expected


@pytest.mark.parametrize(
    ("shifts", "expected"), [((0.0, 0.0), HOLDS), ((3.0, 0.0), CONDITION), ((3.0, 3.0), FAILS), ((1.0, 1.0), INCONCLUSIVE)]
)
def test_accuracies_from_all_starts_are_compared(shifts, expected):
    noise = np.linspace(-1, 1, 10) ** 3
    noise = noise / noise.std(ddof=1)
    other = np.roll(noise, 3)
    errors = {
        2: 10 + shifts[0] + (other if 1.0 in shifts else noise),
        4: 10 + shifts[1] + (other if 1.0 in shifts else noise),
        16: 10 + noise,
    }
    assert verdict(geolora_rank.accuracy_does_not_depend_on_the_start, from_starts(dict.fromkeys(errors, 5), errors)) == expected


@pytest.mark.parametrize(
    ("wrong", "expected"), [((), HOLDS), ((0,), CONDITION), ((0, 10), FAILS)], ids=["all", "with coefficient steps", "none"]
)
def test_the_allocation_decides_the_verdict(monkeypatch, wrong, expected):
    def advanced(drawn, method, rule, rates, steps):
        needed = geolora_budget.NEEDED[rule.budget]
        return [[(2, 2, 2, 2) if rule.coefficient_steps in wrong else needed] * 2] * 3

    monkeypatch.setattr(geolora_budget, "advanced", advanced)
    monkeypatch.setattr(geolora_budget, "ranks_of", torch.tensor)
    assert verdict(geolora_budget.a_budget_goes_to_the_largest) == expected


def test_a_budget_is_worth_more_where_layers_differ_in_size(monkeypatch):
    for module in (_claim, geolora_budget):
        monkeypatch.setattr(module, "SEEDS", SEEDS[:2])
    assert verdict(geolora_budget.a_budget_beside_a_threshold) == CONDITION


def with_budgets(problem, layers, ours, theirs):
    cells = [
        made(
            problem,
            "svd",
            "geolora",
            {"headline": ours * SPREAD},
            {0.1: {"score": score}},
            optimizer__budget=budget,
            optimizer__core_rule=rule,
            parameterization__rank=16,
        )
        for budget, (rule, score) in itertools.product((8, 16), (("sgd", 1.0), ("adam", 2.0)))
    ]
    rivals = (("svd", "riemannian_gd"), ("lora", "adam"), ("adalora", "adam"))
    for (parameterization, optimizer), budget in itertools.product(rivals, (8, 16)):
        error = theirs.get(parameterization, 1.0) * SPREAD
        cells.append(made(problem, parameterization, optimizer, {"headline": error}, parameterization__rank=budget // layers))
    return cells


@pytest.mark.parametrize(
    ("theirs", "expected"), [({}, HOLDS), ({"adalora": 0.1}, CONDITION), ({"svd": 0.1, "adalora": 0.1, "lora": 0.1}, FAILS)]
)
def test_equal_budgets_are_compared(theirs, expected):
    assert verdict(geolora_budget.a_budget_beats_even_ranks, with_budgets("stack", 4, 0.5, theirs)) == expected
    digits = with_budgets("rotated_digits", 2, 0.5, theirs)
    assert verdict(geolora_budget.is_more_accurate_than_lora, digits) == (FAILS if "lora" in theirs else HOLDS)
    assert verdict(geolora_budget.is_more_accurate_than_adalora, digits) == (FAILS if "adalora" in theirs else HOLDS)


def on_grid(windows, diverged=None):
    """Cells whose runs converge at the first so many of ten rates."""
    cells = []
    for (parameterization, optimizer, steps), width in windows.items():
        lost = (diverged or {}).get((parameterization, optimizer), 0)
        grid = {
            10.0**i: {
                "remaining": np.where(np.arange(10) < 10 * (width - i), 1e-3, 1.0),
                "score": 1.0,
                "status": "diverged" if i < lost else "ok",
            }
            for i in range(6)
        }
        rule = optimizer if parameterization == "svd" else None
        own = {"optimizer__core_rule": rule, "optimizer__coefficient_steps": steps} if rule else {}
        name = "geolora" if rule else optimizer
        cells.append(made("hilbert", parameterization, name, {"remaining": 1.0, "final_loss": 1.0}, grid, **own))
    return cells


def windows(own, rival):
    ours = {("svd", rule, steps): own for rule in ("sgd", "adam") for steps in (1, 10)}
    return ours | {("lora", "sgd", 0): rival, ("adalora", "sgd", 0): 1, ("adalora", "adam", 0): 1}


@pytest.mark.parametrize(
    ("own", "rival", "expected"), [(4, 2, HOLDS), (4, 5, CONDITION), (1, 3, FAILS), (1, 1, FAILS), (1.5, 1, HOLDS)]
)
def test_windows_are_compared(own, rival, expected):
    for claim in (geolora_rates.has_the_wider_window, geolora_rates.has_the_wider_window_with_adam):
        assert verdict(claim, on_grid(windows(own, rival))) == expected


@pytest.mark.parametrize(("ours", "theirs", "expected"), [(0, 2, HOLDS), (2, 0, FAILS), (1, 1, FAILS)])
def test_rates_that_diverge_are_compared(ours, theirs, expected):
    diverged = {("svd", "adam"): ours, ("adalora", "adam"): theirs}
    assert verdict(geolora_rates.diverges_less, on_grid(windows(2, 2), diverged)) == expected


def test_windows_in_decades():
    (cell,) = on_grid({("lora", "sgd", 0): 3})
    assert geolora_rates.decades(cell).tolist() == [1.0] * 10
    (cell,) = on_grid({("lora", "sgd", 0): 3}, {("lora", "sgd"): 2})
    assert geolora_rates.diverging(cell) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("adam", "expected"), [(0.1, HOLDS), (2.0, FAILS), (TOSSED, INCONCLUSIVE)])
def test_rules_for_the_core_are_compared(adam, expected):
    cells = [
        made(
            "hilbert",
            "svd",
            "geolora",
            {"remaining": value * SPREAD},
            optimizer__core_rule=rule,
            optimizer__coefficient_steps=steps,
        )
        for rule, value in (("adam", adam), ("sgd", 1.0))
        for steps in (1, 10)
    ]
    assert verdict(geolora_ablation.adam_on_the_core, cells) == expected


def test_what_cannot_be_run_says_why():
    for claim in (geolora.glue, geolora.dreambooth):
        found = settle(claim)
        assert found.verdict == NOT_RUN
        assert found.said


def test_all_claims_are_about_these_files():
    assert len(ALL) == 34
