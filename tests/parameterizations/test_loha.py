import pytest
import torch
from by_hand import gaussian, gradients, half_squared, seeded

from bench.runs import run
from linalg import InputError
from optimizers import Adam
from parameterizations import LoHa
from problems import MatrixFactorization, Stack

NAMES = ("left_1", "right_1", "left_2", "right_2")
every_case = pytest.mark.parametrize(
    ("shape", "rank"), [((12, 9), 2), ((9, 12), 2), ((9, 9), 3), ((10, 11), 3), ((6, 5), 1), ((7, 9), 5)]
)


def moved(method, shape):
    params = method.init(shape, generator=seeded(), dtype=torch.float64)
    return {name: gaussian(*params[name].shape, seed=i) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("alpha", [None, 6.0])
@every_case
def test_the_update_is_the_hadamard_product_of_the_two_products(shape, rank, alpha):
    method = LoHa(rank=rank, alpha=alpha)
    params = moved(method, shape)
    b1, a1, b2, a2 = (params[name] for name in NAMES)
    scale = 1.0 if alpha is None else alpha / rank
    torch.testing.assert_close(method.weight(params).dense(), scale * (b1 @ a1) * (b2 @ a2))


@every_case
def test_twice_the_numbers_of_lora_reach_the_square_of_its_rank(shape, rank):
    method = LoHa(rank=rank)
    params = moved(method, shape)
    assert sum(tensor.numel() for tensor in params.values()) == 2 * rank * sum(shape)
    assert int(torch.linalg.matrix_rank(method.weight(params).dense())) == min(rank**2, *shape) == method.reach(shape)


def test_the_chain_is_as_narrow_as_the_rank_it_reaches():
    assert LoHa(rank=2).weight(moved(LoHa(rank=2), (12, 9))).rank == 4
    assert len(LoHa(rank=3).weight(moved(LoHa(rank=3), (12, 9))).factors) == 1


@every_case
def test_gradients_are_those_of_lycoris_by_hand(shape, rank):
    method = LoHa(rank=rank, alpha=6.0)
    params, target = moved(method, shape), gaussian(*shape, seed=9)
    found = gradients(method, params, half_squared(target))
    b1, a1, b2, a2 = (params[name] for name in NAMES)
    g = method.scaling * (method.scaling * (b1 @ a1) * (b2 @ a2) - target)
    first, second = g * (b2 @ a2), g * (b1 @ a1)
    expected = {"left_1": first @ a1.mT, "right_1": b1.mT @ first, "left_2": second @ a2.mT, "right_2": b2.mT @ second}
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_it_starts_at_zero_with_lycoris_laws():
    params = LoHa(rank=60).init((80, 90), generator=seeded(), dtype=torch.float64)
    assert not params["left_2"].any()
    assert not LoHa(rank=60).weight(params).dense().any()
    for name, deviation in (("left_1", 0.1), ("right_1", 1.0), ("right_2", 1.0)):
        assert float(params[name].std()) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", [MatrixFactorization((20, 14)), MatrixFactorization((14, 20)), Stack((12, 10), (1, 3))])
@pytest.mark.parametrize("rank", [2, 4])
def test_it_trains_through_the_engine(problem, dtype, rank):
    lanes = run(problem, LoHa(rank=rank), Adam(), lr=[0.01], seeds=2, steps=300, dtype=dtype, probes="all").lanes
    assert (lanes.final_loss < 0.5 * lanes.initial_loss).all()


def test_a_scale_of_zero_is_refused():
    with pytest.raises(InputError, match=r"^alpha="):
        LoHa(alpha=0)
