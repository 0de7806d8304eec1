"""SOAP beside pytorch_optimizer's, whose QR is in float32, and beside the authors' form in float64."""

import pytest
import pytorch_optimizer
import torch
from by_hand import gaussian, lowrank
from lanes_alone import Walk, assert_a_lost_lane_leaves_the_rest, assert_block_steps_as_lanes_alone, assert_runs

from linalg import InputError
from optimizers import SOAP
from optimizers.soap import eigenbasis

Twin = pytorch_optimizer.SOAP
PLAIN = {"weight_decay": 0.0, "precondition_frequency": 1000}


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"betas": (0.8, 0.9), "shampoo_beta": 0.7}, {"betas": (0.8, 0.9), "shampoo_beta": 0.7}),
        ({"weight_decay": 0.2, "eps": 1e-3}, {"weight_decay": 0.2, "eps": 1e-3}),
    ],
)
def test_it_walks_with_its_twin_between_two_refreshes(options, theirs):
    Walk(SOAP(interval=1000, **options), Twin, 0.02, {"w": (5, 5)}, **PLAIN | theirs).go(40, 1e-9)


@pytest.mark.parametrize("interval", [1, 3])
def test_it_walks_with_its_twin_over_refreshes_to_the_precision_of_its_qr(interval):
    Walk(SOAP(interval=interval), Twin, 0.02, {"w": (5, 5)}, **PLAIN | {"precondition_frequency": interval}).go(30, 1e-4)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_one_sided_is_the_twin_with_the_longer_side_left_out(shape):
    options = PLAIN | {"max_precondition_dim": 3, "precondition_frequency": 4}
    Walk(SOAP(one_sided=True, interval=4), Twin, 0.02, {"w": shape}, **options).go(30, 1e-4)


def authors(grads, start, lr, betas, interval, eps=1e-8):
    """The authors' loop in float64, first moment in the rotated basis and all."""
    weight, average, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    left, right = torch.zeros(len(start), len(start)).double(), torch.zeros(start.shape[1], start.shape[1]).double()
    p = q = torch.empty(0).double()
    for count, grad in enumerate(grads):
        if count:
            turned = p.T @ grad @ q
            average = betas[0] * average + (1 - betas[0]) * turned
            square = betas[1] * square + (1 - betas[1]) * turned**2
            corrected = lr * (1 - betas[1] ** count) ** 0.5 / (1 - betas[0] ** count)
            weight -= corrected * p @ (average / (square.sqrt() + eps)) @ q.T
            average = p @ average @ q.T
        left = betas[1] * left + (1 - betas[1]) * grad @ grad.T
        right = betas[1] * right + (1 - betas[1]) * grad.T @ grad
        if count == 0:
            p, q = (torch.linalg.eigh(statistics)[1].flip(1) for statistics in (left, right))
        elif count % interval == 0:
            for side, statistics, basis in ((0, left, p), (1, right, q)):
                order = torch.diag(basis.T @ statistics @ basis).argsort(descending=True)
                square = square.index_select(side, order)
                refreshed = torch.linalg.qr(statistics @ basis[:, order])[0]
                p, q = (refreshed, q) if side == 0 else (p, refreshed)
        if count:
            average = p.T @ average @ q
    return weight


@pytest.mark.parametrize("interval", [1, 2, 7])
def test_it_is_the_authors_loop(interval):
    grads, start = gaussian(30, 5, 5, seed=3) + gaussian(5, 5, seed=4), gaussian(5, 5)
    rule, params = SOAP((0.9, 0.95), interval=interval), {"w": start.clone()}
    state = rule.init(params)
    for step, grad in enumerate(grads):
        rule.update(params, {"w": grad}, state, 0.03, step)
        if step == 0:
            assert torch.equal(params["w"], start)  # the first gradient sets up the bases and moves nothing
    torch.testing.assert_close(params["w"], authors(grads, start, 0.03, (0.9, 0.95), interval), rtol=1e-8, atol=1e-8)


def test_turning_the_problem_turns_the_path():
    u, v = (torch.linalg.qr(gaussian(5, 5, seed=seed)).Q for seed in (1, 2))
    grads, paths = gaussian(20, 5, 5, seed=3), []
    for turned in (grads, u @ grads @ v):
        rule, params = SOAP(interval=4), {"w": torch.zeros(5, 5).double()}
        state = rule.init(params)
        for step, grad in enumerate(turned):
            rule.update(params, {"w": grad}, state, 0.1, step)
        paths.append(params["w"])
    torch.testing.assert_close(paths[1], u @ paths[0] @ v, rtol=1e-7, atol=1e-7)


def test_the_basis_of_a_kernel_does_not_hang_on_rounding():
    statistics = lowrank(8, 8, torch.tensor([3.0, 1.0]))
    statistics = statistics @ statistics.T
    noise = 1e-15 * gaussian(8, 8, seed=5)
    first, second = (eigenbasis(matrix) for matrix in (statistics, statistics + noise + noise.T))
    torch.testing.assert_close(first.abs(), second.abs(), rtol=0, atol=1e-10)
    torch.testing.assert_close(first.T @ first, torch.eye(8).double())
    values = torch.diag(first.T @ statistics @ first)
    torch.testing.assert_close(values, torch.tensor([9.0, 1, 0, 0, 0, 0, 0, 0]).double(), rtol=1e-6, atol=1e-12)
    assert torch.equal(eigenbasis(torch.zeros(3, 3)).abs(), torch.eye(3))
    assert eigenbasis(torch.full((3, 3), torch.nan)).isnan().all()


def test_on_a_tall_factor_the_path_hangs_on_rounding_but_for_one_sided():
    target, scales = gaussian(24, 3, seed=1), torch.linspace(1, 0.1, 24).double()[:, None]
    apart = {}
    for one_sided in (False, True):
        rule, paths = SOAP(interval=1, one_sided=one_sided), []
        for noise in (0.0, 1e-15):
            params = {"w": torch.zeros(24, 3).double()}
            state = rule.init(params)
            for step in range(40):
                rounding = noise * gaussian(24, 3, seed=100 + step)
                rule.update(params, {"w": scales * (params["w"] - target) + rounding}, state, 0.03, step)
            paths.append(params["w"])
        apart[one_sided] = (paths[1] - paths[0]).norm() / paths[0].norm()
    assert apart[False] > 1e-3
    assert apart[True] < 1e-11


def test_it_finds_the_minimum_of_a_quadratic_at_a_falling_rate():
    target, params = gaussian(5, 4, seed=8), {"w": torch.zeros(5, 4).double()}
    rule, scales = SOAP(), torch.logspace(0, -1, 5).double()[:, None]
    state = rule.init(params)
    for step in range(1500):
        rule.update(params, {"w": scales * (params["w"] - target)}, state, 0.1 * (1 - step / 1500), step)
    assert (params["w"] - target).norm() < 1e-3 * target.norm()


def test_the_state_takes_two_moments_and_two_matrices_a_side():
    params = {"w": gaussian(7, 4)}
    assert SOAP().state_bytes(SOAP().init(params)) == 8 * (2 * 28 + 2 * 49 + 2 * 16)
    assert SOAP(one_sided=True).state_bytes(SOAP(one_sided=True).init(params)) == 8 * (2 * 28 + 2 * 16)


def test_lanes():
    assert_block_steps_as_lanes_alone(SOAP(weight_decay=0.1), tolerance=1e-7)
    assert_block_steps_as_lanes_alone(SOAP(interval=2, one_sided=True), reset_at=3)
    assert_a_lost_lane_leaves_the_rest(SOAP(interval=2))


@pytest.mark.parametrize("one_sided", [False, True])
def test_it_runs(one_sided):
    assert_runs(SOAP(one_sided=one_sided), 0.02)


@pytest.mark.parametrize("options", [{"betas": (0.9, 1.0)}, {"shampoo_beta": 2}, {"eps": 0}, {"interval": 0}, {"one_sided": 3}])
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}="):
        SOAP(**options)
