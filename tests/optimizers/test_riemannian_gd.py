"""Riemannian gradient descent beside its definition on dense matrices."""

import pytest
import torch
from by_hand import gaussian, lowrank

import bench
from linalg import InputError
from optimizers import RiemannianGD
from parameterizations import SVD, LoRA
from problems import LinearRegression, MatrixCompletion, MatrixFactorization


def start(m, n, rank, room=None):
    method = SVD(room or rank, start=rank, scale=0.5)
    return method.init((m, n), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def dense(params):
    return params["left"] @ params["core"] @ params["right"]


def projection(params, z):
    left, right = params["left"] @ params["left"].mT, params["right"].mT @ params["right"]
    return left @ z + z @ right - left @ z @ right


def products(params, gradient):
    left, right = params["left"].mT, params["right"].mT
    return {"left": gradient @ right, "core": left @ gradient @ right, "right": left @ gradient}


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize(("shape", "rank", "room"), [((14, 9), 3, 3), ((9, 14), 3, 5), ((6, 6), 4, 4)])
def test_a_step_is_the_truncated_svd_of_a_step_along_the_transported_momentum(shape, rank, room, momentum):
    target, lr = lowrank(*shape, torch.linspace(1, 0.2, rank + 1)), 0.4
    params, rule = start(*shape, rank, room), RiemannianGD(momentum)
    state, along = rule.init(params), torch.zeros(shape).double()
    for step in range(25):
        gradient = dense(params) - target
        along = projection(params, gradient) + momentum * projection(params, along)
        left, values, right = torch.linalg.svd(dense(params) - lr * along, full_matrices=False)
        rule.update(params, products(params, gradient), state, lr, step)
        torch.testing.assert_close(dense(params), (left * values)[:, :rank] @ right[:rank], rtol=1e-9, atol=1e-11)
        assert params["left"].any(0).tolist() == [True] * rank + [False] * (room - rank)


def test_at_rate_one_the_best_matrix_of_the_rank_is_found():
    problem = MatrixFactorization((20, 14), kind="low_rank", rank=6, spectrum=(1.0, 0.9, 0.8, 0.3, 0.2, 0.1))
    run = bench.run(problem, SVD(3), RiemannianGD(), lr=1.0, seeds=3, steps=100, dtype="float64")
    assert run.lanes.final_loss.to_numpy() == pytest.approx(0.5 * (0.3**2 + 0.2**2 + 0.1**2))


@pytest.mark.parametrize("problem", [MatrixCompletion((24, 20), rank=2, observed=0.6), LinearRegression((12, 9), rank=2)])
def test_momentum_goes_further(problem):
    still, moving = (
        bench.run(problem, SVD(2), RiemannianGD(momentum), lr=0.5, seeds=2, steps=150, dtype="float64").lanes.final_loss
        for momentum in (0.0, 0.8)
    )
    assert (moving < 0.1 * still).all()


def test_the_momentum_is_two_thin_matrices():
    params = start(14, 9, 3)
    assert RiemannianGD().state_bytes(RiemannianGD().init(params)) == 0
    assert RiemannianGD(0.9).state_bytes(RiemannianGD(0.9).init(params)) == (14 + 9) * 3 * 8


def test_what_it_cannot_run_is_refused():
    assert "svd" in RiemannianGD().supports(LoRA())
    with pytest.raises(InputError, match=r"^momentum="):
        RiemannianGD(momentum=-1)


def test_random_gradients_leave_the_bases_orthonormal():
    params, rule = start(30, 20, 4), RiemannianGD(0.9)
    state = rule.init(params)
    for step in range(200):
        rule.update(params, products(params, gaussian(30, 20, seed=step)), state, 0.3, step)
    eye = torch.eye(4).double()
    assert (
        max((params["left"].mT @ params["left"] - eye).abs().max(), (params["right"] @ params["right"].mT - eye).abs().max())
        < 1e-10
    )
