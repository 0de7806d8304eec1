import math

import pytest
import torch
from by_hand import descend, gaussian, gradients, half_squared, seeded

from bench.runs import run
from linalg import InputError, generator
from optimizers import SGD, Adam
from parameterizations import LoRAFA
from problems import MatrixFactorization, Stack

every_shape = pytest.mark.parametrize("shape", [(12, 9), (9, 12), (8, 8)])


def drawn(method, shape, seed=0):
    return method.init(shape, generator=seeded(seed), dtype=torch.float64)


@every_shape
def test_it_trains_b_alone(shape):
    method = LoRAFA(rank=3)
    params = drawn(method, shape)
    found = gradients(method, params, half_squared(gaussian(*shape, seed=5)))
    assert set(found) == {"left"}
    assert params["left"].numel() == 3 * shape[0]
    assert not params["left"].any()


@every_shape
def test_steps_follow_the_gradient_seen_through_a(shape):
    # W moves by -lr s² G AᵀA: at the paper's fixed A, gradient descent on B is projected descent on W
    method = LoRAFA(rank=3, alpha=6.0)
    params = drawn(method, shape)
    target, lr = gaussian(*shape, seed=5), 0.05
    a, weight = params["right"].clone(), torch.zeros(shape).double()
    for _ in range(5):
        descend(method, params, half_squared(target), lr)
        weight = weight - lr * 4.0 * (weight - target) @ a.mT @ a
        torch.testing.assert_close(method.weight(params).dense(), weight)
    assert torch.equal(params["right"], a)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal"])
def test_it_fits_the_share_r_over_n_of_a_target_on_average(init):
    shape, rank, count = (10, 16), 4, 200
    target = gaussian(*shape, seed=1)
    shares = []
    for seed in range(count):
        a = drawn(LoRAFA(rank=rank, init=init), shape, seed)["right"]
        best = target @ torch.linalg.pinv(a) @ a
        shares.append(float(best.square().sum() / target.square().sum()))
    found = torch.tensor(shares)
    assert abs(float(found.mean()) - rank / 16) < 4 * float(found.std()) / math.sqrt(count)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(20, 14), (14, 20)])
def test_over_orthonormal_rows_one_full_step_finds_all_that_they_can_fit(shape, dtype):
    problem, method = MatrixFactorization(shape), LoRAFA(rank=3, init="orthogonal")
    found = run(problem, method, SGD(), lr=[1.0], seeds=2, steps=1, dtype=dtype)
    for seed, loss in enumerate(found.lanes.final_loss):
        a = method.init(shape, generator=generator(seed, "init"), dtype=torch.float64)["right"]
        target = problem.draw(seed, dtype=torch.float64).target
        best = 0.5 * (target - target @ torch.linalg.pinv(a) @ a).square().sum()
        assert loss == pytest.approx(float(best), rel=1e-5)
    assert found.cost["parameters"] == 3 * shape[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_trains_a_stack_through_the_engine(dtype):
    found = run(Stack((12, 10), (1, 3)), LoRAFA(rank=5), Adam(), lr=[0.1], seeds=2, steps=300, dtype=dtype, probes="all")
    assert found.cost["parameters"] == 2 * 5 * 12
    assert (found.lanes.final_loss < 0.8 * found.lanes.initial_loss).all()


@pytest.mark.parametrize("init", ["pissa", "milora", "lora_ga", "zeros"])
def test_a_start_from_the_weight_is_refused(init):
    with pytest.raises(InputError, match=r"^init="):
        LoRAFA(init=init)
