"""The path of the weight does not depend on how it is factored, nor the speed on the target's condition number."""

import pytest
import torch
from by_hand import gaussian, lowrank
from factor_pairs import TARGET, check_lanes, factors, farthest, gradients, iterations, refactored, walk

from bench.runs import run
from linalg import InputError
from optimizers import SGD, Adam, ScaledGD
from parameterizations import Deep, Full, LoRA, OPLoRA
from problems import MatrixFactorization

RANK = 5


def test_a_step_is_the_formula():
    start, lr = factors(), 0.3
    left, right, grads = start["left"], start["right"], gradients(start)
    params, _ = walk(ScaledGD(ridge=1e-3), start, lr, steps=1)
    eye = 1e-3 * torch.eye(2).double()
    torch.testing.assert_close(params["left"], left - lr * grads["left"] @ torch.linalg.inv(right @ right.mT + eye))
    torch.testing.assert_close(params["right"], right - lr * torch.linalg.inv(left.mT @ left + eye) @ grads["right"])


def test_the_weight_follows_its_gradient_on_both_spaces_to_first_order():
    start, lr = factors(), 1e-6
    gradient = start["left"] @ start["right"] - TARGET
    columns, rows = (x @ torch.linalg.pinv(x) for x in (start["left"], start["right"].mT))
    _, weights = walk(ScaledGD(ridge=0), start, lr, steps=1)
    moved = (weights[0] - start["left"] @ start["right"]) / lr
    torch.testing.assert_close(moved, -(columns @ gradient + gradient @ rows), rtol=0, atol=1e-4)


def test_the_factors_do_not_matter_but_to_adam_and_gradient_descent():
    start = factors()
    path = walk(ScaledGD(ridge=0), start, 0.3, 20)[1]
    assert farthest(path, walk(ScaledGD(ridge=0), refactored(start), 0.3, 20)[1]) < 1e-12
    for rule, lr in ((SGD(), 0.02), (Adam(), 0.05)):
        assert farthest(walk(rule, start, lr, 20)[1], walk(rule, refactored(start), lr, 20)[1]) > 0.5


def test_the_scale_does_not_matter():
    start = factors()
    scaled = {"left": start["left"] / 3, "right": start["right"]}
    path, same = walk(ScaledGD(ridge=0), start, 0.3)[1], walk(ScaledGD(ridge=0), scaled, 0.3, scale=3.0)[1]
    assert farthest(path, same) < 1e-12


def test_the_condition_number_slows_gradient_descent_alone():
    took = {}
    for condition in (1, 10, 100):
        values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), RANK)
        target = lowrank(20, 20, values)
        start = {"left": torch.zeros(20, RANK).double(), "right": gaussian(RANK, 20, seed=9) / 20**0.5}
        took[condition] = iterations(ScaledGD(), target, 0.3, start), iterations(SGD(), target, 0.5, start)
    scaled, plain = zip(*took.values(), strict=True)
    assert max(scaled) <= min(scaled) + 2 < 50
    assert plain[1] > 10 * plain[0]
    assert plain[2] == float("inf")


def test_without_a_ridge_a_condition_of_a_thousand_costs_no_step():
    # the default ridge, 1e-6, beside a smallest singular value of 1e-3 makes 256 and 52 steps of 113 and 20
    took = []
    for condition in (1, 1000):
        target = lowrank(20, 20, torch.logspace(0, -1, RANK, base=condition, dtype=torch.float64))
        start = {"left": torch.zeros(20, RANK).double(), "right": gaussian(RANK, 20, seed=9) / 20**0.5}
        took.append([iterations(ScaledGD(ridge=0), target, lr, start) for lr in (0.1, 0.5)])
    assert took[0] == pytest.approx(took[1], abs=1)
    assert max(took[0]) < 150


def test_lanes():
    check_lanes(ScaledGD(), 0.4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(12, 20), (24, 16)])
def test_a_run_reaches_the_best_loss_beside_a_rate_that_diverges(shape, dtype):
    lanes = run(MatrixFactorization(shape=shape), LoRA(rank=3), ScaledGD(), lr=[0.3, 1e3], seeds=2, steps=500, dtype=dtype).lanes
    assert lanes.status.tolist() == ["ok", "diverged"] * 2
    good = lanes[lanes.status == "ok"]
    assert (good.final_loss < good.floor * 1.01).all()


def test_it_goes_with_pairs():
    assert ScaledGD().supports(LoRA()) is None
    assert ScaledGD().supports(OPLoRA()) is None
    for other in (Full(), Deep()):
        assert "two factors" in ScaledGD().supports(other)
    with pytest.raises(InputError, match=r"^ridge="):
        ScaledGD(ridge=-1)
