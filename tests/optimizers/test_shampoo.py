"""Shampoo beside pytorch_optimizer's without momentum, where that is the paper's rule."""

import pytest
import torch
from by_hand import gaussian
from lanes_alone import Walk, assert_a_lost_lane_leaves_the_rest, assert_block_steps_as_lanes_alone, assert_runs
from pytorch_optimizer import Shampoo as Twin

from bench.runs import run
from linalg import InputError
from optimizers import Shampoo
from optimizers.shampoo import inverse_root
from parameterizations import LoRA
from problems import MatrixFactorization

SHAPES = {"tall": (6, 3), "wide": (3, 5), "bias": (4,)}


@pytest.mark.parametrize(
    ("options", "theirs"), [({}, {}), ({"eps": 1e-2}, {"matrix_eps": 1e-2}), ({"weight_decay": 0.3}, {"weight_decay": 0.3})]
)
def test_it_walks_with_its_twin(options, theirs):
    Walk(Shampoo(**options), Twin, 0.05, SHAPES, **theirs).go(30, 1e-7)


def test_the_first_step_is_the_polar_factor():
    grad, params = gaussian(6, 6, seed=2), {"w": torch.zeros(6, 6).double()}
    rule = Shampoo(eps=1e-14)
    rule.update(params, {"w": grad}, rule.init(params), 1.0, 0)
    left, _, right = torch.linalg.svd(grad)
    torch.testing.assert_close(params["w"], -left @ right, rtol=1e-9, atol=1e-9)


def test_a_vector_is_preconditioned_by_its_full_matrix():
    params, grads = {"b": torch.zeros(4).double()}, gaussian(6, 4)
    state, expected, total = Shampoo().init(params), torch.zeros(4).double(), 1e-6 * torch.eye(4).double()
    for step, grad in enumerate(grads):
        Shampoo().update(params, {"b": grad}, state, 0.1, step)
        total += torch.outer(grad, grad)
        values, vectors = torch.linalg.eigh(total)
        expected -= 0.1 * vectors @ (values**-0.5 * (vectors.T @ grad))
    torch.testing.assert_close(params["b"], expected, rtol=1e-8, atol=1e-8)


def test_the_roots_are_those_of_the_last_computation():
    rule, lr = Shampoo(interval=3), 0.1
    params, grads = {"w": torch.zeros(4, 4).double()}, gaussian(8, 4, 4)
    state, expected = rule.init(params), torch.zeros(4, 4).double()
    left = right = 1e-6 * torch.eye(4).double()
    for step, grad in enumerate(grads):
        rule.update(params, {"w": grad}, state, lr, step)
        left, right = left + grad @ grad.T, right + grad.T @ grad
        if step in (0, 1, 2, 5):  # each of the first three, then every third
            roots = []
            for statistics in (left, right):
                u, s, vh = torch.linalg.svd(statistics)
                roots.append(u @ torch.diag(s**-0.25) @ vh)
        expected -= lr * roots[0] @ grad @ roots[1]
    torch.testing.assert_close(params["w"], expected, rtol=1e-8, atol=1e-8)
    once = Shampoo()
    assert rule.state_bytes(state) == 4 * 16 * 8 == 2 * once.state_bytes(once.init(params))


@pytest.mark.parametrize("interval", [5, 20])
def test_roots_are_not_kept_before_there_is_anything_to_take_them_of(interval):
    """The gradient of LoRA's A is zero at first, beside a B of zero: the root of nothing would be eps^(-1/4)."""
    problem = MatrixFactorization(shape=(32, 24), kind="low_rank", rank=4)
    options = {"lr": 0.03, "seeds": 2, "steps": 300, "dtype": "float64", "probes": "none"}
    kept, always = (run(problem, LoRA(4), Shampoo(interval=each), **options) for each in (interval, 1))
    assert (kept.lanes.final_loss < 0.01 * kept.lanes.initial_loss).all()
    for lane, curve in kept.curves.groupby("lane"):
        assert curve.loss.max() <= 1.01 * curve.loss.iloc[0]
        fresh = always.curves[always.curves.lane == lane]
        early = curve.step <= interval
        assert (curve.loss[early].to_numpy() == fresh.loss[fresh.step <= interval].to_numpy()).all()


def test_a_root_undoes_its_power_and_a_lost_matrix_is_lost_alone():
    statistics = gaussian(5, 5) @ gaussian(5, 5).T
    batch = torch.stack([statistics, torch.full((5, 5), torch.nan).double()])
    found = inverse_root(batch, 4, 1e-3)
    torch.testing.assert_close(
        torch.linalg.matrix_power(found[0], 4) @ (statistics + 1e-3 * torch.eye(5)), torch.eye(5).double(), rtol=1e-8, atol=1e-8
    )
    assert found[1].isnan().all()


def test_it_finds_the_minimum_of_a_quadratic():
    target, params = gaussian(5, 4, seed=8), {"w": torch.zeros(5, 4).double()}
    rule, scales = Shampoo(), torch.logspace(0, -1, 5).double()[:, None]
    state = rule.init(params)
    for step in range(2000):
        rule.update(params, {"w": scales * (params["w"] - target)}, state, 1.0, step)
    assert (params["w"] - target).norm() < 1e-6 * target.norm()


def test_lanes():
    assert_block_steps_as_lanes_alone(Shampoo(weight_decay=0.1), tolerance=1e-8)
    assert_block_steps_as_lanes_alone(Shampoo(interval=3), tolerance=1e-7, reset_at=3)
    assert_a_lost_lane_leaves_the_rest(Shampoo())
    assert_a_lost_lane_leaves_the_rest(Shampoo(interval=2))


def test_it_runs():
    assert_runs(Shampoo(), 0.1)


@pytest.mark.parametrize("options", [{"eps": 0}, {"interval": 0}, {"weight_decay": -1}])
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}="):
        Shampoo(**options)
