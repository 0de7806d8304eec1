import math

import pytest
import torch
from by_hand import gaussian, gradients, half_squared, seeded

from bench.runs import run
from linalg import InputError
from optimizers import Adam
from parameterizations import VeRA
from problems import MatrixFactorization, Stack

every_shape = pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])


def drawn(shape, **options):
    layers = options.pop("layers", None)
    return VeRA(**options).init(shape, generator=seeded(), dtype=torch.float64, layers=layers)


def trained(params):
    return {name: tensor for name, tensor in params.items() if name not in VeRA().frozen}


@every_shape
def test_a_layer_trains_m_plus_r_numbers_and_the_layers_share_the_rest(shape):
    rank, layers = 3, 4
    assert sum(tensor.numel() for tensor in trained(drawn(shape, rank=rank)).values()) == shape[0] + rank
    params = drawn(shape, rank=rank, layers=layers)
    assert sum(tensor.numel() for tensor in trained(params).values()) == layers * (shape[0] + rank)
    assert params["left"].shape == (shape[0], rank)
    assert params["right"].shape == (rank, shape[1])


def test_b_starts_at_zero_and_d_at_a_tenth():
    params = drawn((9, 5), rank=3)
    assert not params["b"].any()
    assert (params["d"] == 0.1).all()
    assert not VeRA(rank=3).weight(params).dense().any()
    assert (drawn((9, 5), rank=3, d_initial=2.0)["d"] == 2).all()


def test_both_factors_have_kaimings_uniform_law():
    params = drawn((300, 200), rank=50)
    for factor, fan_in in ((params["left"], 50), (params["right"], 200)):
        assert float(factor.var()) == pytest.approx(2 / fan_in, rel=0.03)
        assert 0.99 * math.sqrt(6 / fan_in) < factor.abs().max() <= math.sqrt(6 / fan_in)


@every_shape
def test_the_weight_scales_rows_by_b_and_components_by_d(shape):
    params = drawn(shape, rank=3)
    params |= {"b": gaussian(shape[0], seed=1), "d": gaussian(3, seed=2)}
    expected = sum(params["d"][k] * torch.outer(params["b"] * params["left"][:, k], params["right"][k]) for k in range(3))
    torch.testing.assert_close(VeRA(rank=3).weight(params).dense(), expected)


@every_shape
def test_gradients_of_the_vectors_are_row_and_column_sums(shape):
    params = drawn(shape, rank=3)
    params |= {"b": gaussian(shape[0], seed=1), "d": gaussian(3, seed=2)}
    target = gaussian(*shape, seed=5)
    found = gradients(VeRA(rank=3), params, half_squared(target))
    b, d, left, right = (params[name] for name in ("b", "d", "left", "right"))
    g = torch.diag(b) @ left @ torch.diag(d) @ right - target
    torch.testing.assert_close(found["b"], (g * (left @ torch.diag(d) @ right)).sum(1))
    torch.testing.assert_close(found["d"], ((torch.diag(b) @ left).mT @ g @ right.mT).diagonal())


def test_layers_of_a_block_are_each_their_own_product():
    shape, seeds, rates, layers = (6, 5), 2, 3, 4
    method = VeRA(rank=2)
    params = {
        "left": gaussian(seeds, 1, 6, 2, seed=1),
        "right": gaussian(seeds, 1, 2, 5, seed=2),
        "b": gaussian(seeds, rates, layers, 6, seed=3),
        "d": gaussian(seeds, rates, layers, 2, seed=4),
    }
    weight = method.weight(params).dense()
    assert weight.shape == (seeds, rates, layers, *shape)
    for s, k, layer in ((0, 0, 0), (1, 2, 3)):
        b, d = (torch.diag(params[name][s, k, layer]) for name in ("b", "d"))
        torch.testing.assert_close(weight[s, k, layer], b @ params["left"][s, 0] @ d @ params["right"][s, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", [MatrixFactorization((20, 14)), MatrixFactorization((14, 20)), Stack((12, 10), (1, 3))])
def test_it_trains_through_the_engine(problem, dtype):
    found = run(problem, VeRA(rank=8), Adam(), lr=[0.03], seeds=2, steps=300, dtype=dtype, probes="all")
    layers = len(problem.ranks) if isinstance(problem, Stack) else 1
    assert found.cost["parameters"] == layers * (problem.shape[0] + 8)
    assert (found.lanes.final_loss < 0.9 * found.lanes.initial_loss).all()


def test_a_start_of_d_at_zero_is_refused():
    with pytest.raises(InputError, match=r"^d_initial="):
        VeRA(d_initial=0)
