"""PoLAR's landing field: two orthogonal parts, of which one keeps XᵀX and the other draws it to the identity."""

import pytest
import torch
from by_hand import gaussian, gradients, half_squared, lowrank, seeded

from bench.runs import run
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import PoLAR, Step
from problems import MatrixFactorization

SHAPES = [(8, 8), (11, 6), (6, 11), (9, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def somewhere(method, shape):
    """Not on the manifold, with a core that lets gradients through."""
    params = method.init(shape, generator=seeded(1), dtype=torch.float64)
    params["core"] += gaussian(*params["core"].shape, seed=2)
    return {name: tensor + 0.1 * gaussian(*tensor.shape, seed=3 + i) for i, (name, tensor) in enumerate(params.items())}


def field(method, params, target):
    grads = gradients(method, params, half_squared(target))
    before = {name: grad.clone() for name, grad in grads.items()}
    method.direct(params, grads, Step())
    return before, grads


def sides(params, grads):
    return ((params["left"], grads["left"]), (params["right"].mT, grads["right"].mT))


def distance(x):
    return float((x.mT @ x - torch.eye(x.shape[1]).double()).norm())


def train(method, params, loss, optimizer, lr, steps):
    state = optimizer.init(params)
    for step in range(steps):
        grads = gradients(method, params, loss)
        method.direct(params, grads, Step(step))
        optimizer.update(params, grads, state, lr, step)


@every_shape
@pytest.mark.parametrize("regularization", [0.0, 0.3])
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_the_direction_is_the_landing_field_and_leaves_the_core_its_gradient(shape, regularization, alpha):
    method = PoLAR(3, alpha=alpha, regularization=regularization)
    params = somewhere(method, shape)
    before, after = field(method, params, gaussian(*shape, seed=7))
    assert torch.equal(after["core"], before["core"])
    for (x, gradient), (_, direction) in zip(sides(params, before), sides(params, after), strict=True):
        skew = (gradient @ x.mT - x @ gradient.mT) / 2
        eye = torch.eye(3).double()
        torch.testing.assert_close(direction, skew @ x + regularization * x @ (x.mT @ x - eye))


@every_shape
def test_the_tangent_part_keeps_the_gram_matrix_to_first_order(shape):
    method = PoLAR(3, regularization=0.0)
    params = somewhere(method, shape)
    _, directions = field(method, params, gaussian(*shape, seed=7))
    for x, direction in sides(params, directions):
        inner = x.mT @ direction
        assert inner.abs().max() > 1e-3
        torch.testing.assert_close(inner, -inner.mT)


@every_shape
def test_the_two_parts_are_orthogonal(shape):
    params = somewhere(PoLAR(3), shape)
    target = gaussian(*shape, seed=7)
    both, tangent = (field(PoLAR(3, regularization=value), params, target)[1] for value in (1.0, 0.0))
    for side in ("left", "right"):
        normal = both[side] - tangent[side]
        assert abs(float((normal * tangent[side]).sum())) < 1e-12 * float(normal.norm() * tangent[side].norm())


@every_shape
@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_small_steps_come_nearer_to_the_manifold(shape, lr):
    # to first order in lr by 2 λ lr tr E XᵀX E of ‖E‖² / 2, E = XᵀX - I, whatever the loss
    method = PoLAR(3)
    params = somewhere(method, shape)
    _, directions = field(method, params, 0.1 * gaussian(*shape, seed=7))
    for x, direction in sides(params, directions):
        error = x.mT @ x - torch.eye(3).double()
        decrease = (distance(x) ** 2 - distance(x - lr * direction) ** 2) / 2
        expected = 2 * lr * float((error @ x.mT @ x @ error).trace())
        assert decrease == pytest.approx(expected, rel=40 * lr)
        assert distance(x - lr * direction) < distance(x)


@pytest.mark.parametrize(("product", "lands"), [(0.5, True), (0.9, True), (1.1, False)])
def test_the_manifold_is_stable_while_rate_times_regularization_is_below_one(product, lands):
    # without a loss σ ← σ - η λ σ (σ² - 1), of slope 1 - 2 η λ at σ = 1
    method = PoLAR(2, regularization=2.0)
    params = method.init((7, 5), generator=seeded(1), dtype=torch.float64)
    params["left"].add_(0.01 * gaussian(7, 2, seed=3))
    train(method, params, lambda weight: 0 * weight.dense().sum((-2, -1)), SGD(), product / 2, 200)
    assert (distance(params["left"]) < 1e-10) == lands


def test_it_starts_at_zero_on_the_manifold_and_the_core_moves_first():
    shape, target = (9, 6), gaussian(9, 6, seed=7)
    method = PoLAR(3)
    params = method.init(shape, generator=seeded(1), dtype=torch.float64)
    x, y = params["left"].clone(), params["right"].mT.clone()
    assert not method.weight(params).dense().any()
    assert max(distance(x), distance(y)) < 1e-13
    train(method, params, half_squared(target), SGD(), 0.5, 1)
    torch.testing.assert_close(params["left"], x)
    torch.testing.assert_close(params["core"], 0.5 * x.mT @ target @ y)


@pytest.mark.parametrize("shape", [(8, 6), (6, 8)])
def test_gradient_descent_reaches_the_best_approximation_of_its_rank_on_the_manifold(shape):
    target = lowrank(*shape, torch.tensor([1.0, 0.8, 0.2, 0.1], dtype=torch.float64), seed=3)
    method, loss = PoLAR(2), half_squared(target)
    params = method.init(shape, generator=seeded(1), dtype=torch.float64)
    train(method, params, loss, SGD(), 0.3, 2500)
    assert float(loss(method.weight(params))) == pytest.approx(0.5 * (0.2**2 + 0.1**2), rel=1e-8)
    assert max(distance(params["left"]), distance(params["right"].mT)) < 1e-8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(16, 12), (12, 16)])
def test_the_engine_drives_it_to_the_best_loss(shape, dtype):
    problem = MatrixFactorization(shape=shape, rank=2)
    result = run(problem, PoLAR(2), Adam(), lr=[0.01, 0.03], seeds=1, steps=300, dtype=dtype, probes="basic")
    assert (result.lanes.status == "ok").all()
    assert result.lanes.final_loss.min() < 1.1 * problem.instance(0).best(2)


@pytest.mark.parametrize(("options", "key"), [({"alpha": 0}, "alpha"), ({"regularization": -1}, "regularization")])
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        PoLAR(**options)
