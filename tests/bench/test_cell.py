"""The choice of the learning rate, the key and the scores."""

import dataclasses

import numpy as np
import pytest
import torch

from bench.catalogue import entries
from bench.cell import Cell, LearningRates, best_rate
from bench.runs import remaining, resolution, steps_to, summarize
from bench.stats import median_interval
from linalg import FactoredMatrix, InputError
from optimizers import SGD, Adam, Torch
from parameterizations import Full, LoRA
from problems import Hilbert, Instance, MatrixCompletion, MatrixFactorization, MatrixFile, MatrixSensing, RotatedDigits

SMALL = MatrixFactorization(shape=(8, 6), kind="low_rank", rank=2)


def cell(**options):
    settings = {"lr": LearningRates(0.01, 0.1, 3), "tune": (0, 1), "report": (7,), "steps": 20}
    return Cell(SMALL, LoRA(2), SGD(), **{**settings, **options})


def test_the_rate_is_chosen_on_tuning_seeds_and_reported_on_others():
    result = cell(tune=(0, 1), report=(5, 6)).run()
    tuned, reported = (result.lanes[result.lanes.role == role] for role in ("tune", "report"))
    assert set(tuned.seed) == {0, 1}
    assert set(reported.seed) == {5, 6}
    assert set(reported.lr) == {result.summary["chosen_lr"]}
    best = tuned.groupby("lr").score.median().idxmin()
    assert result.summary["chosen_lr"] == best
    assert result.lanes.lane.is_unique


def test_the_grid_grows_past_an_edge_until_the_best_rate_is_inside():
    """Full gradient descent on ½‖W - M‖² contracts by |1 - lr|: the best rate is 1, far above this grid."""
    result = Cell(SMALL, Full(), SGD(), lr=LearningRates(0.01, 0.04, 3), tune=(0,), report=(9,), steps=3, dtype="float64").run()
    assert result.summary["chosen_lr"] == pytest.approx(1.28)  # |1 - 1.28| = 0.28 < |1 - 0.64| = 0.36
    assert result.summary["bracketed"]
    assert result.summary["grid"] == pytest.approx([0.01 * 2**i for i in range(9)])
    assert result.summary["trials"] == 9
    from_above = Cell(SMALL, Full(), SGD(), lr=LearningRates(8, 32, 3), tune=(0,), report=(9,), steps=3, dtype="float64").run()
    assert from_above.summary["chosen_lr"] == 1.0
    assert from_above.summary["bracketed"]


def test_the_search_gives_up_after_so_many_rates_and_says_so():
    lr = LearningRates(1e-6, 4e-6, 3, extend=2)
    result = Cell(SMALL, Full(), SGD(), lr=lr, tune=(0,), report=(9,), steps=3).run()
    assert result.summary["trials"] == 5
    assert not result.summary["bracketed"]
    assert result.summary["chosen_lr"] == result.summary["grid"][-1]


def test_a_cell_whose_every_rate_diverges_is_a_result_without_a_chosen_rate():
    result = cell(lr=LearningRates(1e8, 1e9, 2, extend=1), steps=60).run()
    assert result.summary["chosen_lr"] is None
    assert set(result.lanes.status) == {"diverged"}
    assert set(result.lanes.role) == {"tune"}


def test_completion_is_tuned_on_validation_and_never_on_test_errors():
    problem = MatrixCompletion(shape=(14, 12), rank=2, observed=0.5, noise=0.3)
    result = Cell(problem, LoRA(4), Adam(), lr=LearningRates(0.003, 0.3, 5), tune=(0, 1), report=(7,), steps=60).run()
    tuned = result.lanes[result.lanes.role == "tune"]
    curves = result.curves[result.curves.role == "tune"]
    lowest = curves.groupby("lane").validation_rmse.min()
    np.testing.assert_allclose(tuned.set_index("lane").score, lowest)
    stop = curves.loc[curves.groupby("lane").validation_rmse.idxmin()].set_index("lane")
    np.testing.assert_allclose(tuned.set_index("lane").headline, stop.test_rmse)
    assert result.summary["chosen_lr"] == tuned.groupby("lr").score.median().idxmin()


def test_ties_take_the_middle_rate_and_divergence_the_lowest():
    assert best_rate({0.1: 2.0, 0.2: 1.0, 0.4: 1.0, 0.8: 1.0, 1.6: np.inf}) == 0.4
    assert best_rate({0.1: np.inf, 0.2: np.nan}) == 0.1
    assert best_rate({0.1: 3.0, 0.2: np.nan, 0.4: 2.0}) == 0.4


def test_the_key_depends_on_every_setting_and_on_nothing_else():
    original = cell()
    assert original.key == cell().key
    changes = [
        {"steps": 21},
        {"schedule": "cosine"},
        {"warmup": 2},
        {"dtype": "float64"},
        {"probes": "all"},
        {"tune": (0, 2)},
        {"report": (8,)},
        {"lr": LearningRates(0.01, 0.2, 3)},
        {"timeout": 9.0},
    ]
    keys = {cell(**change).key for change in changes}
    others = [Cell(Hilbert((8, 6)), LoRA(2), SGD()), Cell(SMALL, LoRA(3), SGD()), Cell(SMALL, LoRA(2, init="gaussian"), SGD())]
    others += [Cell(SMALL, LoRA(2), SGD(momentum=0.5)), Cell(SMALL, LoRA(2), Torch("torch.optim.NAdam"))]
    keys |= {other.key for other in others}
    assert len(keys) == len(changes) + len(others)
    assert original.key not in keys
    assert original.key.startswith("matrix_factorization-lora-sgd-")


def test_the_key_follows_the_content_of_a_file(tmp_path):
    path = tmp_path / "matrix.npy"
    np.save(path, np.eye(4))
    first = Cell(MatrixFile(str(path)), LoRA(2), SGD()).key
    np.save(path, 2 * np.eye(4))
    assert Cell(MatrixFile(str(path)), LoRA(2), SGD()).key != first


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"tune": (0, 1), "report": (1,)}, "seeds=[1]"),
        ({"tune": ()}, "seeds.tune=[]"),
        ({"report": (3, 3)}, "seeds.report=[3, 3]"),
        ({"report": (-3,)}, "seeds.report=-3"),
    ],
)
def test_seeds_that_do_not_fit_are_refused(options, key):
    with pytest.raises(InputError, match="seeds") as raised:
        cell(**options)
    assert str(raised.value).startswith(key)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"min": -1.0}, "lr.min=-1"),
        ({"max": 0.0}, "lr.max=0"),
        ({"count": 0}, "lr.count=0"),
        ({"values": ()}, "lr.values=()"),
        ({"values": (0.1, -2.0)}, "lr.values=-2"),
        ({"extend": -1}, "lr.extend=-1"),
    ],
)
def test_learning_rates_out_of_range_are_refused(options, key):
    with pytest.raises(InputError) as raised:
        LearningRates(**options)
    assert str(raised.value).startswith(key)


def test_the_grid_defaults_to_the_optimizers_span_and_has_equal_ratios():
    grid = LearningRates().grid(Adam())
    assert len(grid) == 9
    assert (grid[0], grid[-1]) == Adam.span
    np.testing.assert_allclose(np.diff(np.log(grid)), np.log(grid[1] / grid[0]), rtol=1e-4)
    with pytest.raises(InputError, match=r"lr\.min"):
        LearningRates(min=1e3).grid(SGD())


def test_steps_to_a_target_are_log_linear_between_probes():
    steps = np.array([0, 10, 20, 40])
    excess = np.array([1.0, 1e-1, 1e-3, 0.0])
    assert steps_to(steps, excess, 1e-2) == pytest.approx(15)
    assert steps_to(steps, excess, 1e-1) == pytest.approx(10)
    assert steps_to(steps, excess, 1.0) == 0
    assert steps_to(steps, excess, 1e-4) == 40  # no line leads down to zero
    assert steps_to(steps, np.array([1.0, 2.0, np.inf, np.inf]), 0.5) == np.inf
    assert steps_to(steps, np.array([1.0, np.nan, 0.1, 0.1]), 0.5) == 20


def test_a_lane_that_never_left_the_start_and_one_that_diverged_are_scored_as_what_they_are():
    instance = SMALL.draw(0)
    flat = {"step": np.arange(3), "loss": np.array([4.0, 4.0, 4.0]), "relative_error": np.array([1.0, 1.0, 1.0])}
    row = summarize(flat, "ok", instance, 0.0, torch.float32)
    assert row["score"] == 4.0
    assert row["steps_to_1e-01"] == np.inf
    lost = {"step": np.arange(3), "loss": np.array([4.0, 1.0, np.inf]), "relative_error": np.array([1.0, 0.5, np.nan])}
    row = summarize(lost, "diverged", instance, 0.0, torch.float32)
    assert row["score"] == row["headline"] == row["final_loss"] == np.inf
    assert row["best_loss"] == 1.0
    assert row["diverged_at"] == 2


def test_scores_below_rounding_tie():
    assert resolution(1.0, torch.float64, squared=False) == pytest.approx(10 * 2.0**-52)
    assert resolution(4.0, torch.float32, squared=True) == pytest.approx(400 * 2.0**-46)


def test_the_median_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        median, low, high = median_interval(rng.standard_normal(25))
        assert low <= median <= high
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 1.0


def test_divergence_enters_the_median_and_its_interval():
    assert median_interval(np.array([1.0, 2.0, np.inf])) == (2.0, 1.0, np.inf)
    assert median_interval(np.array([1.0, np.inf, np.inf]))[0] == np.inf
    assert median_interval(np.array([1.0, np.nan, np.nan]))[0] == np.inf
    assert median_interval(np.array([3.0])) == (3.0, 3.0, 3.0)


def test_a_cell_can_be_described_and_rebuilt_with_other_settings():
    described = cell().describe()
    assert described["parameterization"] == {
        "name": "lora",
        "_target_": "parameterizations.lora.LoRA",
        "rank": 2,
        "alpha": None,
        "init": "kaiming",
        "rslora": False,
    }
    assert dataclasses.replace(cell(), steps=5).describe()["steps"] == 5


@pytest.mark.parametrize("lr", [LearningRates(0.1, 0.1), LearningRates(values=(0.1, 0.1000001)), LearningRates(0.1, 0.1001, 5)])
def test_a_grid_of_hardly_different_rates_ends(lr):
    result = Cell(SMALL, Full(), SGD(), lr=lr, tune=(0,), report=(9,), steps=2).run()
    assert result.summary["trials"] <= 5
    assert not result.summary["bracketed"]


def test_one_rate_is_the_one_that_was_named():
    assert LearningRates(max=0.3, count=1).grid(Adam()) == [0.3]
    assert LearningRates(min=0.2, count=1).grid(Adam()) == [0.2]
    assert LearningRates(count=1).grid(Adam()) == [0.01]  # the middle of 1e-4 to 1


def test_the_window_is_about_the_excess_over_the_floor():
    """Full gradient descent leaves (1 - lr)^(2 steps) of the loss: 1 %, 4 % and 25 % at these rates after one step."""
    lr = LearningRates(values=(0.5, 0.8, 0.9), extend=0)
    full = Cell(SMALL, Full(), SGD(), lr=lr, tune=(0,), report=(9,), steps=1, dtype="float64").run()
    assert full.summary["window_decades"] == pytest.approx(np.log10(0.9 / 0.8))
    stuck = Cell(MatrixFactorization(shape=(8, 6)), LoRA(1), Adam(), tune=(0,), report=(9,), steps=200, dtype="float64").run()
    assert 0 < stuck.summary["window_decades"] < 4, "a floor far above zero must not put every rate into the window"


@pytest.mark.parametrize(
    "problem",
    [
        MatrixFactorization(shape=(8, 6), kind="low_rank", rank=2),
        MatrixCompletion(shape=(14, 12), rank=2, observed=0.5),
        MatrixSensing(shape=(8, 6), rank=2, noise=0),
    ],
    ids=repr,
)
def test_a_tenth_of_the_way_left_is_a_hundredth_of_the_excess_whatever_is_selected_by(problem):
    instance = problem.draw(0, dtype=torch.float64)
    start, end = (float(instance.measure(FactoredMatrix((share * instance.truth,)))[instance.selection]) for share in (0, 0.9))
    assert remaining(start, end, instance, 0.0) == pytest.approx(0.01)


def test_a_validation_loss_is_no_error_to_be_squared():
    pytest.importorskip("sklearn")
    instance = RotatedDigits().draw(0)
    curve = {"step": np.arange(3), "loss": np.array([2.0, 1.0, 0.1]), "test_error": np.array([0.5, 0.2, 0.3])}
    row = summarize(curve | {"validation_loss": np.array([4.0, 1.0, 2.0])}, "ok", instance, None, torch.float32)
    assert row["score"] == 1.0
    assert row["remaining"] == 0.25
    assert row["headline"] == 0.2


def test_an_rmse_is_the_only_measure_that_is_the_root_of_a_loss():
    assert entries("problem")  # every module is imported
    kinds = [Instance]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.selection for kind in kinds} == {"loss", "validation_rmse", "validation_loss"}
    assert all(kind.selection_root == kind.selection.endswith("rmse") for kind in kinds)


def test_no_rate_is_chosen_from_lanes_that_ran_out_of_time():
    result = cell(steps=10**7, timeout=0.05).run()
    assert set(result.lanes.status) == {"timeout"}
    assert result.summary["chosen_lr"] is None
