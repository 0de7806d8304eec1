"""What is left of the gradient is (I - P_B) g (I - P_A), whatever X; the AdamW form beside one written with scipy's solver."""

import numpy as np
import pytest
import torch
from by_hand import gaussian, lowrank
from factor_pairs import TARGET, check_lanes, factors, farthest, gradients, iterations, refactored, walk
from scipy.linalg import solve_sylvester

from bench.runs import run
from linalg import InputError
from optimizers import LoRAPro
from optimizers.lora_pro import sylvester
from parameterizations import Full, LoRA, OPLoRA
from problems import MatrixFactorization


def directions(start, scale=1.0, ridge=0.0):
    """The dB and dA of one step."""
    after, _ = walk(LoRAPro(rule="sgd", ridge=ridge), start, 1.0, steps=1, scale=scale)
    return start["left"] - after["left"], start["right"] - after["right"]


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize(("m", "n"), [(6, 5), (5, 6), (4, 9)])
def test_the_residual_is_the_gradient_beyond_both_spaces(m, n, scale):
    start, target = factors(m=m, n=n), gaussian(m, n, seed=3)
    left, right = start["left"], start["right"]
    gradient = scale * left @ right - target
    after, _ = walk(LoRAPro(rule="sgd", ridge=0), start, 1.0, steps=1, target=target, scale=scale)
    d_left, d_right = left - after["left"], right - after["right"]
    equivalent = scale * (left @ d_right + d_left @ right)
    beyond_columns = torch.eye(m).double() - left @ torch.linalg.pinv(left)
    beyond_rows = torch.eye(n).double() - torch.linalg.pinv(right) @ right
    torch.testing.assert_close(gradient - equivalent, beyond_columns @ gradient @ beyond_rows)


def test_any_x_gives_the_same_motion_and_the_one_taken_is_nearest_to_the_factors_gradients():
    start, scale = factors(), 1.7
    left, right, grads = start["left"], start["right"], gradients(start, scale=scale)
    d_left, d_right = directions(start, scale)
    chosen = (d_left - grads["left"]).square().sum() + (d_right - grads["right"]).square().sum()
    for seed in range(5):
        x = 0.1 * gaussian(2, 2, seed=seed)
        other_left, other_right = d_left - left @ x, d_right + x @ right
        torch.testing.assert_close(left @ other_right + other_left @ right, left @ d_right + d_left @ right)
        assert (other_left - grads["left"]).square().sum() + (other_right - grads["right"]).square().sum() > chosen


def test_sylvester_beside_scipy_and_where_it_has_no_answer():
    left, right, constant = (gaussian(3, 4, 4, seed=seed) for seed in range(3))
    left, right = left @ left.mT, right @ right.mT
    found = sylvester(left, right, constant)
    for i in range(3):
        np.testing.assert_allclose(found[i], solve_sylvester(*(x[i].numpy() for x in (left, right, constant))), rtol=1e-8)
    left[1], constant[2, 0, 0] = torch.nan, torch.inf
    beside = sylvester(left, right, constant)
    assert torch.equal(beside[0], found[0])
    assert beside[1:].isnan().all()
    assert not sylvester(torch.zeros(2, 2), torch.zeros(2, 2), torch.ones(2, 2)).any()


def reference(left, right, lr, steps, scale, decay):
    """The paper's AdamW form on one lane, in numpy."""
    left, right, target = left.numpy().copy(), right.numpy().copy(), TARGET.numpy()
    first = second = np.zeros_like(target)
    for t in range(1, steps + 1):
        gradient, by_left, by_right = scale * left @ right - target, np.linalg.pinv(left.T @ left), np.linalg.inv(right @ right.T)
        beyond = np.eye(len(left)) - left @ by_left @ left.T

        def towards(g, by_left=by_left, by_right=by_right, beyond=beyond, left=left, right=right):
            return beyond @ (scale * g @ right.T) @ by_right / scale**2, by_left @ (scale * left.T @ g) / scale**2

        d_left, d_right = towards(gradient)
        equivalent = scale * (left @ d_right + d_left @ right)
        first, second = 0.9 * first + 0.1 * equivalent, 0.999 * second + 0.001 * equivalent**2
        d_left, d_right = towards(first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8))
        x = solve_sylvester(left.T @ left, right @ right.T, -d_right @ right.T)
        left, right = (1 - lr * decay) * left - lr * (d_left - left @ x), (1 - lr * decay) * right - lr * (d_right + x @ right)
    return scale * left @ right


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_adamw_form_beside_a_reference(scale, zero):
    start = factors()
    if zero:
        start["left"].zero_()
    _, weights = walk(LoRAPro(ridge=0, weight_decay=0.1), start, 0.01, 50, scale=scale)
    torch.testing.assert_close(weights[-1], torch.from_numpy(reference(start["left"], start["right"], 0.01, 50, scale, 0.1)))


def test_from_zero_b_moves_alone_along_the_projected_gradient():
    start = factors()
    start["left"].zero_()
    d_left, d_right = directions(start)
    assert not d_right.any()
    torch.testing.assert_close(d_left @ start["right"], -TARGET @ torch.linalg.pinv(start["right"]) @ start["right"])


def test_the_factors_matter_to_second_order_alone():
    start = factors()
    apart = [
        farthest(
            walk(LoRAPro(rule="sgd", ridge=0), start, lr, 1)[1], walk(LoRAPro(rule="sgd", ridge=0), refactored(start), lr, 1)[1]
        )
        for lr in (1e-2, 1e-3)
    ]
    assert apart[1] > 1e-9
    assert apart[0] / apart[1] == pytest.approx(100, rel=1e-3)


def test_the_condition_number_does_not_slow_the_sgd_form():
    took = []
    for condition in (1, 10, 100):
        values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), 5)
        start = {"left": torch.zeros(20, 5).double(), "right": gaussian(5, 20, seed=9) / 20**0.5}
        took.append(iterations(LoRAPro(rule="sgd"), lowrank(20, 20, values), 0.5, start))
    assert max(took) < 40


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_lanes(rule):
    check_lanes(LoRAPro(rule=rule), 0.1)


@pytest.mark.parametrize(("rule", "lr"), [("sgd", 0.5), ("adamw", 0.01)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(12, 20), (24, 16)])
def test_a_run_reaches_the_best_loss_and_counts_its_memory(shape, dtype, rule, lr):
    found = run(
        MatrixFactorization(shape=shape), LoRA(rank=3, alpha=6.0), LoRAPro(rule=rule), lr=lr, seeds=2, steps=300, dtype=dtype
    )
    assert (found.lanes.final_loss < found.lanes.floor * 1.01).all()
    size = 8 if dtype == "float64" else 4
    assert found.cost["state_bytes"] == (2 * shape[0] * shape[1] * size if rule == "adamw" else 0)


def test_what_it_takes():
    assert LoRAPro().supports(LoRA()) is None
    for other in (Full(), OPLoRA()):
        assert "two factors" in LoRAPro().supports(other)
    for options, key in (({"rule": "adam"}, "rule"), ({"betas": (1.0, 0.9)}, "betas"), ({"ridge": -1}, "ridge")):
        with pytest.raises(InputError, match=f"^{key}="):
            LoRAPro(**options)
