"""The claims on Deep LoRA: what they measure is what the paper says, and every verdict can come out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bench.claims import Evidence, deep_lora, deep_lora_completion, deep_lora_few_shot
from bench.claims import _deep_lora_theorem as theorem
from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, SEEDS
from bench.claims._deep_lora import Compressed, FewShotDigits, Narrow, TruncatedGaussian, WideStartLoRA, all_of, any_of, as_said
from bench.labels import settings
from bench.stored import StoredCell
from linalg import InputError, generator
from optimizers import SGD, AdamW, Momentum
from parameterizations import Deep, DeepLoRA
from problems import RotatedDigits

TWO = SEEDS[:2]
TEN = torch.ones(len(SEEDS), dtype=torch.float64)
HALF = torch.arange(len(SEEDS)) % 2  # a median that lies between two values


def test_a_narrow_network_of_full_width_is_the_deep_one():
    deep, narrow = (
        method.init((9, 9), generator=generator(3, "init"), dtype=torch.float64) for method in (Deep(3, 0.1), Narrow(9, 3, 0.1))
    )
    for name, tensor in deep.items():
        torch.testing.assert_close(narrow[name], tensor)
    small = Narrow(2, 4, 0.1).init((9, 7), generator=generator(3, "init"), dtype=torch.float64)
    assert [tuple(tensor.shape) for tensor in small.values()] == [(2, 7), (2, 2), (2, 2), (9, 2)]
    for tensor in small.values():
        torch.testing.assert_close(torch.linalg.svdvals(tensor), torch.full((2,), 0.1).double())


def test_the_authors_lora_starts_from_unit_entries_and_no_update():
    params = WideStartLoRA(16).init((40, 300), generator=generator(0, "init"), dtype=torch.float64)
    assert params["right"].std().item() == pytest.approx(1, abs=0.05)
    assert not params["left"].any()
    assert Compressed(8).outer_rate == 0.01


def test_a_truncated_gaussian_has_its_rank_and_its_entries():
    instance = TruncatedGaussian(shape=(60, 60), rank=4, observed=0.3).draw(5)
    values = torch.linalg.svdvals(instance.hidden)
    assert values[0].item() == pytest.approx(1)
    assert values[3] > 0.8
    assert values[4] < 1e-12
    for part in ("observed", "validation", "test"):
        kept = instance.values if part == "observed" else getattr(instance, f"{part}_values")
        torch.testing.assert_close(kept, instance.hidden.flatten()[getattr(instance, part)])
    with pytest.raises(InputError, match="noise"):
        TruncatedGaussian(noise=0.1)


def test_few_shots_are_the_first_of_all_turned_digits():
    few, all_of_them = (problem(setting="federated", domains=1, angle=30.0).draw(0) for problem in (FewShotDigits, RotatedDigits))
    assert few.train.shape[-1] == few.train_classes.shape[-1] == 16
    torch.testing.assert_close(few.train, all_of_them.train[..., :16])
    torch.testing.assert_close(few.test, all_of_them.test)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("half", "decay"), [(3, 0.0), (6, 0.01)])
def test_the_networks_are_never_further_apart_than_at_the_start(depth, half, decay):
    found = theorem.strayed(depth, 0.1, half, decay, 0.3, 100, TWO)
    np.testing.assert_allclose(found.first, 1, atol=1e-9)
    assert (found.largest <= 1 + 1e-9).all()
    assert (found.left < 1).all()


@pytest.mark.parametrize(("rule", "lr"), [(SGD(), 0.2), (SGD(weight_decay=0.01), 0.2), (Momentum(), 0.02)])
def test_the_blocks_follow_their_recursion(rule, lr):
    found = theorem.kept_blocks(3, 0.3, rule, lr, 100, seeds=TWO)
    assert (found.error < 1e-13).all()
    assert (found.sine < 1e-12).all()
    other = theorem.kept_blocks(3, 0.3, rule, lr, 100, follow=False, seeds=TWO)
    assert (other.error <= found.error + 1e-13).all(), "the nearest multiple is the recursion's"


def test_a_wrong_recursion_would_be_seen(monkeypatch):
    right = theorem.rho_recursion
    monkeypatch.setattr(theorem, "rho_recursion", lambda depth, scale, rule, lr: right(depth, scale, rule, 1.1 * lr))
    assert (theorem.kept_blocks(3, 0.3, SGD(), 0.2, 100, seeds=TWO).error > 1e-6).all()


def test_adam_leaves_the_blocks():
    found = theorem.kept_blocks(3, 1e-3, AdamW(weight_decay=0.0), 1e-2, 50, follow=False, seeds=TWO)
    assert (found.error > 1e-3).all()


def test_three_ways_to_one_subspace():
    found = theorem.bases(3, 0.1, 3, TWO)
    assert (found.apart < 1e-12).all()
    assert (found.missing < 1e-12).all()
    wider = theorem.bases(3, 0.1, 5, TWO)
    assert (wider.missing < 1e-12).all()
    assert (wider.apart > 0.1).all(), "beyond the rank each picks its own directions"


def test_scales_go_together_or_not_at_all(monkeypatch):
    problem = TruncatedGaussian(shape=(20, 20), rank=2, observed=0.5)
    assert (theorem.scaled_difference(problem, 3, 63.0, 60, TWO) < 1e-12).all()
    begin = theorem.begin

    def at_one_outer_rate(instances, method, *others):
        return begin(instances, replace(method, outer_rate=0.5) if isinstance(method, DeepLoRA) else method, *others)

    monkeypatch.setattr(theorem, "begin", at_one_outer_rate)
    assert (theorem.scaled_difference(problem, 3, 63.0, 60, TWO) > 1e-6).all()


def test_networks_under_way_are_apart_by_a_share_of_the_target():
    problem = TruncatedGaussian(shape=(20, 20), rank=2, observed=0.5)
    gap = theorem.trajectory_gap(problem, 0.1, 0.3, 0.3, 100, TWO)
    assert ((gap > 0.01) & (gap < 2)).all()


def test_times_are_of_steps():
    found = theorem.step_times(TruncatedGaussian(shape=(40, 40), rank=2), 0, repeats=1, steps=1)
    assert min(found.full, found.small, found.setup) > 0


def settle(claim, *cells):
    return claim.settle(Evidence({"hand-made": cells}))


@pytest.mark.parametrize(("largest", "verdict"), [(TEN, HOLDS), (1.1 * TEN, FAILS), (1 + 2.1e-6 * HALF, FAILS)])
def test_the_bound_is_kept_on_every_seed(monkeypatch, largest, verdict):
    monkeypatch.setattr(deep_lora, "strayed", lambda *settings: theorem.Strayed(TEN, largest, TEN))
    assert settle(deep_lora.never_strays).verdict == verdict


@pytest.mark.parametrize(
    ("error", "sine", "verdict"),
    [(1e-14, 1e-14, HOLDS), (1e-3, 1e-14, FAILS), (1e-14, 1e-3, FAILS)],
)
def test_blocks_and_angles_are_both_asked_for(monkeypatch, error, sine, verdict):
    monkeypatch.setattr(deep_lora, "kept_blocks", lambda *settings: theorem.Kept(error * TEN, sine * TEN, TEN))
    assert settle(deep_lora.keeps_its_blocks).verdict == verdict


@pytest.mark.parametrize(("error", "verdict"), [(TEN, HOLDS), (1e-6 * TEN, FAILS), (1e-3 * (0.5 + HALF), INCONCLUSIVE)])
def test_adam_must_be_off_by_more_than_the_blocks_size(monkeypatch, error, verdict):
    monkeypatch.setattr(deep_lora, "kept_blocks", lambda *settings, follow: theorem.Kept(error, TEN, TEN))
    assert settle(deep_lora.adam_breaks_them).verdict == verdict


@pytest.mark.parametrize(("size", "verdict"), [(1e-15, HOLDS), (1.0, FAILS)])
def test_subspaces_and_scales_are_settled_by_their_bounds(monkeypatch, size, verdict):
    monkeypatch.setattr(deep_lora, "bases", lambda *settings: theorem.Bases(size * TEN, size * TEN))
    monkeypatch.setattr(deep_lora, "scaled_difference", lambda *settings: size * TEN)
    assert settle(deep_lora.same_subspace).verdict == verdict
    assert settle(deep_lora.scales_away).verdict == verdict


@pytest.mark.parametrize(("small", "verdict"), [(0.1, HOLDS), (0.5, FAILS)])
def test_a_step_is_fast_where_it_takes_a_fifth(monkeypatch, small, verdict):
    monkeypatch.setattr(deep_lora, "step_times", lambda problem, seed: theorem.Times(1.0, small, 9.0))
    assert settle(deep_lora.takes_less_time).verdict == verdict


COUNT = iter(range(10**6))


def cell(name, options, rates, problem="completion", report=SEEDS, tune=(0, 1, 2), **columns):
    """A stored cell made by hand: every column is a number, an array a seed, or a function of the rate that gives either."""
    lanes = []
    for role, seeds in (("tune", tune), ("report", report)):
        for rate in rates if role == "tune" else rates[:1]:
            values = {key: value(rate) if callable(value) else value for key, value in columns.items()}
            for i, seed in enumerate(seeds):
                own = {key: float(np.broadcast_to(value, len(SEEDS))[i]) for key, value in values.items()}
                lanes.append({"role": role, "seed": seed, "lr": rate, "resolution": 0.0, "status": "ok", **own})
    config = {
        "problem": {"name": problem, **options.pop("problem", {})},
        "parameterization": {"name": name, **options},
        "optimizer": {"name": "sgd"},
        "lr": {"values": list(rates)},
        "seeds": {"tune": list(tune), "report": list(report)},
    }
    summary = {axis: config[axis]["name"] for axis in ("problem", "parameterization", "optimizer")} | {"chosen_lr": rates[0]}
    made = StoredCell(None, f"{name}-{next(COUNT)}")
    made.__dict__.update(config=config, summary=summary, settings=settings(config), lanes=pd.DataFrame(lanes))
    return made


def completion_cells(frozen, full, moving):
    """Cells of C6; an error is a number, or a function of the rate."""
    cells = []
    for rate in (0.1, 0.3, 0.5):
        errors = {
            "deep": [({}, full)],
            "deep_lora": [({"outer_rate": outer}, moving if outer else frozen) for outer in (0.0, 0.01, 0.1, 0.3, 1.0, 3.0)],
        }
        for name, settings_of in errors.items():
            for options, error in settings_of:
                value = error(rate) if callable(error) else error
                cells.append(cell(name, dict(options), [rate], final_relative_error=value, score=np.median(value)))
    return cells


@pytest.mark.parametrize(
    ("frozen", "full", "moving", "verdict"),
    [
        (0.5, 1e-5, 1e-6, HOLDS),
        (0.01, 1e-5, 1e-6, FAILS),
        (0.5, 1e-2, 1e-6, FAILS),
        (0.5, 1e-5, 1e-3, FAILS),
        (0.5, 1e-5, lambda rate: 1e-6 if rate == 0.5 else 1e-3, CONDITION),
        (0.5, 1e-5, np.where(HALF, 1e-6, 1e-3), INCONCLUSIVE),
    ],
)
def test_completion_needs_moving_outer_factors_at_both_rates(monkeypatch, frozen, full, moving, verdict):
    monkeypatch.setattr(deep_lora_completion, "trajectory_gap", lambda *settings: TEN)
    found = settle(deep_lora_completion.outer_factors_must_train, *completion_cells(frozen, full, moving))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("compressed", "narrow", "verdict"),
    [
        (1000.0, 3000.0, HOLDS),
        (1000.0, 1500.0, CONDITION),
        (1500.0, 1000.0, FAILS),
        (1000.0, 1000.0 * np.where(HALF, 0.5, 2), INCONCLUSIVE),
        (1000.0, np.inf, INCONCLUSIVE),
        (1000.0, lambda rate: np.inf if rate == 0.5 else 3000.0, HOLDS),
    ],
)
def test_iterations_are_counted_at_the_largest_size_where_both_arrive(compressed, narrow, verdict):
    cells = [
        cell(
            name,
            {"problem": {"shape": [size, size]}},
            [rate],
            **{"score": 1.0, "steps_to_1e-08": steps(rate) if callable(steps) else steps},
        )
        for size in (100, 200)
        for rate in (0.3, 0.4, 0.5)
        for name, steps in (("deep_lora", compressed), ("Narrow", narrow))
    ]
    assert settle(deep_lora_completion.needs_fewer_iterations, *cells).verdict == verdict


@pytest.mark.parametrize(
    ("shallow", "deep", "verdict"),
    [
        (lambda width: 0.01 * width, lambda width: 1e-6, HOLDS),
        (lambda width: 0.01 * width, lambda width: 1e-6 if width > 5 else 0.5, CONDITION),
        (lambda width: 0.1, lambda width: 0.5, FAILS),
        (lambda width: 0.1, lambda width: np.where(HALF, 1e-6, 1.0), INCONCLUSIVE),
    ],
)
def test_depth_is_asked_at_every_width(shallow, deep, verdict):
    cells = [
        cell("Narrow", {"rank": width, "depth": depth}, [rate], final_relative_error=error(width), score=1.0)
        for rate in (0.3, 0.4, 0.5)
        for depth, error in ((2, shallow), (3, deep))
        for width in (5, 10, 25, 50)
    ]
    assert settle(deep_lora_completion.depth_finds_low_rank, *cells).verdict == verdict


def few_shot_cells(errors, column="final_test_error", problem="digits"):
    """Cells of C10; `errors` gives a method's error from its name and rank."""
    return [
        cell(
            name,
            {"rank": rank},
            [1e-3, 1e-2],
            problem,
            tune=range(10),
            **{column: errors(name, rank), "headline": errors(name, rank), "score": 1.0},
        )
        for name in ("lora", "WideStartLoRA", "Narrow", "Compressed")
        for rank in (8, 16, 32, 64)
    ]


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        (lambda name, rank: 0.5 if "LoRA" in name or name == "lora" else 0.3, HOLDS),
        (lambda name, rank: 0.3 if "LoRA" in name or name == "lora" else 0.5, FAILS),
        (lambda name, rank: 0.5 if "LoRA" in name else 0.3, CONDITION),
        (lambda name, rank: 0.3 * np.where(HALF, 2, 1) if name == "lora" else 0.4, INCONCLUSIVE),
    ],
)
@pytest.mark.parametrize("column", ["final_test_error", "final_relative_error"])
def test_deep_lora_is_compared_with_lora_of_either_scale(errors, verdict, column):
    assert settle(deep_lora_few_shot.generalizes_better, *few_shot_cells(errors, column)).verdict == verdict


def by_rank(method):
    return lambda name, rank: 0.01 * rank if name == method else 0.3


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (by_rank("WideStartLoRA"), by_rank("WideStartLoRA"), HOLDS),
        (by_rank("WideStartLoRA"), by_rank("nobody"), CONDITION),
        (by_rank("Narrow"), by_rank("nobody"), FAILS),
        (by_rank("nobody"), lambda name, rank: np.where(HALF, 0.3, rank / 100) if "Lo" in name else 0.3, INCONCLUSIVE),
    ],
)
def test_the_range_over_ranks_is_asked_of_both_on_each_problem(first, second, verdict):
    cells = few_shot_cells(first) + few_shot_cells(second, "final_relative_error", "regression")
    found = settle(deep_lora_few_shot.rank_matters_less, *cells)
    assert found.verdict == verdict
    assert all(len(figure.cells) == 4 for figure in found.figures)


def test_the_range_is_of_the_medians():
    values = np.array([[0.1, 0.2, 0.3], [0.5, 0.4, 0.6]])
    value, low, high = deep_lora_few_shot.spread(values)
    assert value == pytest.approx(0.3)
    assert low <= value <= high


def test_answers_to_several_questions_become_one():
    assert [all_of(each) for each in ([True, True], [True, None], [None, False])] == [True, None, False]
    assert [any_of(each) for each in ([False, True], [False, None], [False, False])] == [True, None, False]
    assert [as_said(each) for each in (True, False, None)] == ["better", "worse", "inconclusive"]
