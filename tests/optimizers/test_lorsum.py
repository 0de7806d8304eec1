"""Alternating least squares towards the full gradient step: many iterations give the truncated SVD."""

import pytest
import torch
from by_hand import gaussian, lowrank
from factor_pairs import TARGET, check_lanes, factors, farthest, gradients, iterations, refactored, walk, weight_gradient

from bench.engine import Block, Settings
from bench.runs import run
from linalg import InputError
from optimizers import LoRSum, ScaledGD
from parameterizations import Full, LoRA, OPLoRA, Step
from problems import LinearRegression, MatrixFactorization, Stack


def truncated(matrix, rank):
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[..., :rank] * s[..., None, :rank] @ vt[..., :rank, :]


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_many_iterations_give_the_truncated_svd_of_the_full_step(scale):
    start, lr = factors(), 0.4
    step = scale * start["left"] @ start["right"] - lr * weight_gradient(start, scale=scale)
    _, weights = walk(LoRSum(iterations=300, damping=0), start, lr, steps=1, scale=scale)
    torch.testing.assert_close(weights[0], truncated(step, 2))
    one, two = (walk(LoRSum(iterations=k, damping=0), start, lr, steps=1, scale=scale)[1][0] for k in (1, 2))
    best = (step - truncated(step, 2)).norm()
    assert best < (step - two).norm() < (step - one).norm() < (step - scale * start["left"] @ start["right"]).norm()


def test_a_moves_as_with_scaled_gd_and_b_solves_the_rest():
    start, lr, damping = factors(), 0.3, 0.2
    step = start["left"] @ start["right"] - lr * weight_gradient(start)
    found, _ = walk(LoRSum(damping=damping), start, lr, steps=1)
    scaled, _ = walk(ScaledGD(ridge=lr * damping), start, lr, steps=1)
    torch.testing.assert_close(found["right"], scaled["right"])
    right = found["right"]  # ½ ‖L R - step‖² + lr damping / 2 ‖L - L_0‖² is stationary in L
    stationary = (found["left"] @ right - step) @ right.mT + lr * damping * (found["left"] - start["left"])
    torch.testing.assert_close(stationary, torch.zeros_like(stationary))


def test_the_momentum_is_a_sum_of_low_rank():
    """With room for every rank M is the heavy ball itself, and W follows it exactly: both are truncated at no loss."""
    start = factors(m=4, n=4, r=4)
    target, lr, beta = gaussian(4, 4, seed=3), 0.1, 0.7
    _, weights = walk(LoRSum(damping=0, momentum=beta), start, lr, 15, target)
    expected, velocity = start["left"] @ start["right"], torch.zeros(4, 4).double()
    for weight in weights:
        velocity = beta * velocity + expected - target
        expected = expected - lr * velocity
        torch.testing.assert_close(weight, expected, rtol=1e-7, atol=1e-8)


def test_the_factors_do_not_matter_without_damping():
    start = factors()
    assert farthest(*(walk(LoRSum(damping=0), params, 0.3, 20)[1] for params in (start, refactored(start)))) < 1e-12


def test_the_condition_number_does_not_matter_without_damping():
    took = {0.0: [], 1e-2: []}
    for condition in (1, 10, 100):
        values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), 5)
        start = {"left": torch.zeros(20, 5).double(), "right": gaussian(5, 20, seed=9) / 20**0.5}
        for damping, counts in took.items():
            counts.append(iterations(LoRSum(damping=damping), lowrank(20, 20, values), 0.5, start))
    assert max(took[0.0]) <= min(took[0.0]) + 2 < 30
    assert took[1e-2][2] > 20 * took[0.0][2]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_lanes(momentum):
    check_lanes(LoRSum(iterations=2, momentum=momentum), 0.2)


PROBLEMS = [
    MatrixFactorization(shape=(9, 7)),
    Stack(shape=(7, 9), ranks=(1, 2)),
    LinearRegression(shape=(6, 8), batch_size=4),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_a_block_hands_over_the_gradient_of_its_weight(problem):
    instances = [problem.draw(seed, dtype=torch.float64) for seed in range(2)]
    method = LoRA(rank=2, alpha=3.0)
    block = Block(instances, method, LoRSum(), range(2), [0.05, 0.1], Settings(5, dtype=torch.float64))
    for step in range(3):
        block.find_gradients(step)
        weight = method.weight(block.params)
        update = weight.update().detach().requires_grad_()
        with torch.enable_grad():
            loss = block.instance.loss(type(weight)((update,), weight.base), block.batch).sum()
        (expected,) = torch.autograd.grad(loss, update)
        gradient = block.at.gradient()
        torch.testing.assert_close(gradient, expected)
        torch.testing.assert_close(block.grads["left"], method.scaling * gradient @ block.params["right"].mT)
        block.step()


@pytest.mark.parametrize("momentum", [0.0, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(12, 20), (24, 16)])
def test_a_run_reaches_the_best_loss_and_counts_its_memory(shape, dtype, momentum):
    rule = LoRSum(momentum=momentum, damping=1e-4)
    found = run(MatrixFactorization(shape=shape), LoRA(rank=3, alpha=6.0), rule, lr=0.5, seeds=2, steps=300, dtype=dtype)
    assert (found.lanes.final_loss < found.lanes.floor * 1.01).all()
    assert found.cost["state_bytes"] == bool(momentum) * 3 * sum(shape) * (8 if dtype == "float64" else 4)


def test_what_it_takes():
    assert LoRSum().supports(LoRA()) is None
    for other in (Full(), OPLoRA()):
        assert "two factors" in LoRSum().supports(other)
    params = factors()
    for step in (0, Step()):
        with pytest.raises(InputError, match="gradient of the whole weight"):
            LoRSum().update(params, gradients(params, TARGET), LoRSum().init(params), 0.1, step)
    for options, key in (({"iterations": 0}, "iterations"), ({"damping": -1}, "damping"), ({"momentum": 2}, "momentum")):
        with pytest.raises(InputError, match=f"^{key}="):
            LoRSum(**options)
