"""StelLA's step against an independent one, and that U and V stay orthonormal under any rule."""

import numpy as np
import pytest
import scipy.linalg
import torch
from by_hand import gaussian, gradients, half_squared, lowrank, seeded, stacked

from bench.runs import run
from linalg import InputError
from optimizers import SGD, Adam, AdamW, Momentum
from parameterizations import StelLA, Step
from problems import MatrixFactorization

SHAPES = [(8, 8), (11, 6), (6, 11), (9, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def train(method, params, loss, optimizer, lr, steps, state=None, at=None):
    """The loop of a run: gradient, direction, update, hook."""
    at = at or Step()
    state = state or optimizer.init({name: tensor for name, tensor in params.items() if name not in method.frozen})
    for at.step in range(steps):
        grads = gradients(method, params, loss)
        method.direct(params, grads, at)
        optimizer.update(params, grads, state, lr, at)
        method.after_step(params, grads, state, at)
    return state


def start(method, shape, seed=1):
    return method.init(shape, generator=seeded(seed), dtype=torch.float64)


def off_the_manifold(params):
    eye = torch.eye(params["right"].shape[-2], dtype=params["left"].dtype)
    sides = params["left"].mT @ params["left"], params["right"] @ params["right"].mT
    return max(float((side - eye).abs().max()) for side in sides)


def riemannian(x, g):
    return g - x @ g.T @ x


def retracted(x, step):
    inner = x.T @ step
    return scipy.linalg.polar(x + step - x @ (inner + inner.T) / 2)[0]


def euclidean(params, target, scale):
    u, s, v = params
    residual = scale * u @ s @ v.T - target
    return scale * residual @ v @ s.T, scale * u.T @ residual @ v, scale * residual.T @ u @ s


@every_shape
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_a_step_of_gradient_descent_is_that_of_algorithm_1(shape, alpha):
    method, target, lr = StelLA(3, alpha=alpha), gaussian(*shape, seed=7), 0.3
    params = start(method, shape)
    u, s, v = params["left"].numpy().copy(), params["core"].numpy().copy(), params["right"].T.numpy().copy()
    train(method, params, half_squared(target), SGD(), lr, 4)
    for _ in range(4):
        gu, gs, gv = euclidean((u, s, v), target.numpy(), 1.0 if alpha is None else 2.0)
        u, s, v = retracted(u, -lr * riemannian(u, gu)), s - lr * gs, retracted(v, -lr * riemannian(v, gv))
    for found, expected in ((params["left"], u), (params["core"], s), (params["right"], v.T)):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11, atol=1e-12)


@every_shape
@pytest.mark.parametrize("width", [None, 5.0])
def test_steps_of_adam_are_taken_by_torchs_own_then_scaled_projected_and_retracted(shape, width):
    method, target, lr = StelLA(3, width=width), gaussian(*shape, seed=7), 0.05
    params = start(method, shape)
    leaves = [params["left"].clone(), params["core"].clone(), params["right"].T.clone()]
    leaves = [torch.nn.Parameter(leaf) for leaf in leaves]
    reference = torch.optim.Adam(leaves, lr=lr)
    train(method, params, half_squared(target), Adam(), lr, 5)
    for _ in range(5):
        before = [leaf.detach().numpy().copy() for leaf in leaves]
        euclid = euclidean(before, target.numpy(), 1.0)
        for i, leaf in enumerate(leaves):
            leaf.grad = torch.from_numpy(euclid[i] if i == 1 else riemannian(before[i], euclid[i]))
        reference.step()
        for i in (0, 2):
            scale = 1.0 if width is None else (width / len(before[i])) ** 0.5
            step = scale * (leaves[i].detach().numpy() - before[i])
            leaves[i].data.copy_(torch.from_numpy(retracted(before[i], step)))
    for found, leaf in ((params["left"], leaves[0]), (params["core"], leaves[1]), (params["right"].T, leaves[2])):
        torch.testing.assert_close(found, leaf.detach(), rtol=1e-9, atol=1e-10)


@every_shape
@pytest.mark.parametrize(("optimizer", "lr"), [(SGD(), 0.2), (SGD(), 5.0), (Momentum(), 0.1), (Adam(), 0.1), (AdamW(), 1.0)])
@pytest.mark.parametrize("diagonal", [False, True])
def test_u_and_v_stay_orthonormal(shape, optimizer, lr, diagonal):
    method = StelLA(3, diagonal=diagonal)
    params = start(method, shape)
    assert off_the_manifold(params) < 1e-13
    train(method, params, half_squared(0.3 * gaussian(*shape, seed=7)), optimizer, lr, 12)
    assert off_the_manifold(params) < 1e-10


@every_shape
def test_the_direction_is_tangent(shape):
    method = StelLA(3)
    params = start(method, shape)
    grads = gradients(method, params, half_squared(gaussian(*shape, seed=7)))
    method.direct(params, grads, Step())
    for point, direction in ((params["left"], grads["left"]), (params["right"].mT, grads["right"].mT)):
        inner = point.mT @ direction
        torch.testing.assert_close(inner, -inner.mT)


def test_weight_decay_of_u_and_v_is_projected_out():
    shape, target = (9, 6), gaussian(9, 6, seed=7)
    reached = []
    for decay in (0.0, 0.3):
        params = start(StelLA(3), shape)
        train(StelLA(3), params, half_squared(target), AdamW(weight_decay=decay), 0.05, 1)
        reached.append(params)
    torch.testing.assert_close(reached[0]["left"], reached[1]["left"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reached[0]["right"], reached[1]["right"], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(reached[0]["core"], reached[1]["core"])


@pytest.mark.parametrize("shape", [(8, 6), (6, 8)])
@pytest.mark.parametrize("diagonal", [False, True])
def test_gradient_descent_reaches_the_best_approximation_of_its_rank(shape, diagonal):
    target = lowrank(*shape, torch.tensor([1.0, 0.8, 0.2, 0.1], dtype=torch.float64), seed=3)
    method, loss = StelLA(2, diagonal=diagonal), half_squared(target)
    params = start(method, shape)
    train(method, params, loss, SGD(), 0.2, 1500)
    assert float(loss(method.weight(params))) == pytest.approx(0.5 * (0.2**2 + 0.1**2), rel=1e-8)


def test_it_starts_from_the_identity_between_orthonormal_factors():
    params = StelLA(3, scale=0.5).init((9, 6), generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(params["core"], 0.5 * torch.eye(3).double())
    torch.testing.assert_close(
        torch.linalg.svdvals(StelLA(3, scale=0.5).weight(params).dense())[:3], torch.full((3,), 0.5).double()
    )
    assert torch.equal(StelLA(3, diagonal=True).init((9, 6), generator=seeded())["core"], torch.ones(3))


def test_a_lane_that_is_not_finite_leaves_the_others_alone():
    method, shape = StelLA(3), (9, 6)
    loss = half_squared(gaussian(*shape, seed=7))
    lanes = [start(method, shape, seed) for seed in range(3)]
    block = stacked(lanes)
    block["left"][1], block["core"][2] = torch.nan, torch.inf
    train(method, block, loss, SGD(), 0.1, 3)
    train(method, lanes[0], loss, SGD(), 0.1, 3)
    torch.testing.assert_close(block["left"][0], lanes[0]["left"])
    assert not block["left"][1].isfinite().any()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("shape", [(16, 12), (12, 16)])
def test_the_engine_drives_it_to_the_best_loss(shape, dtype, tolerance):
    problem = (
        MatrixFactorization(shape=shape, rank=2, kind="gaussian")
        if dtype == "float64"
        else MatrixFactorization(shape=shape, rank=2)
    )
    result = run(problem, StelLA(2), Adam(), lr=[0.01, 0.03], seeds=2, steps=300, dtype=dtype, probes="all")
    assert (result.lanes.status == "ok").all()
    for column in ("condition_factor_1", "condition_factor_3"):
        assert result.curves[column].sub(1).abs().max() < tolerance
    best = problem.instance(0).best(2)
    assert result.lanes[result.lanes.seed == 0].final_loss.min() < 1.1 * best


@pytest.mark.parametrize(
    ("options", "key"), [({"alpha": 0}, "alpha"), ({"diagonal": 2}, "diagonal"), ({"scale": -1}, "scale"), ({"width": 0}, "width")]
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        StelLA(**options)
