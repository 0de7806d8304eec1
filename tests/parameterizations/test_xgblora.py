"""XGBLoRA: boosters of rank 1, fitted and merged one after the other, are the greedy singular value decomposition."""

import pytest
import torch
from by_hand import seeded

from bench.engine import Block, Settings
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import Step, XGBLoRA
from problems import MatrixFactorization, Stack

F64 = torch.float64


def block_of(problem, method, optimizer, rates, steps):
    instances = [problem.draw(seed, dtype=F64) for seed in (0, 1)]
    return Block(instances, method, optimizer, [0, 1], rates, Settings(steps, dtype=F64))


@pytest.mark.parametrize("shape", [(9, 7), (7, 9)])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_k_boosters_fitted_to_optimality_leave_the_tail_of_the_spectrum(shape, alpha):
    values = (1.0, 0.7, 0.45, 0.3, 0.2)
    problem, interval = MatrixFactorization(shape=shape, kind="low_rank", rank=5, spectrum=values), 600
    block = block_of(problem, XGBLoRA(interval=interval, alpha=alpha), SGD(), (0.5,), 4 * interval)
    for step in range(4 * interval):
        block.find_gradients(step)
        block.step()
        boosters = (step + 1) // interval
        if (step + 1) % interval == 0:
            loss = block.instance.measure(block.weight())["loss"]
            tail = 0.5 * sum(value**2 for value in values[boosters:])
            torch.testing.assert_close(loss, torch.full_like(loss, tail), rtol=1e-3, atol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_round_trains_so_many_layers_of_a_stack_and_another_round_others(count):
    problem, interval = Stack(shape=(6, 5), ranks=(2, 2, 2, 2)), 4
    block = block_of(problem, XGBLoRA(interval=interval, layers_per_round=count), Adam(), (0.05, 0.01), 10 * interval)
    rounds = []
    for step in range(10 * interval):
        if step % interval == 0:
            before = block.weight().dense().clone()
        block.find_gradients(step)
        block.step()
        if (step + 1) % interval == 0:
            rounds.append((block.weight().dense() - before).abs().amax((-2, -1)) > 0)
    moved = torch.stack(rounds)  # (rounds, seeds, rates, layers)
    assert (moved.sum(-1) == min(count, 4)).all()
    assert torch.equal(moved[:, :, 0], moved[:, :, 1])  # the rates of a seed share their draws
    if count < 4:
        assert not torch.equal(moved[:, 0], moved[:, 1])
        assert len({tuple(row) for row in moved[:, 0, 0].tolist()}) > 1


def test_every_layer_is_chosen_equally_often():
    method, at, count = XGBLoRA(layers_per_round=2), Step(generators=[seeded(1)]), 3000
    drawn = torch.stack([method.choose(5, at)[0, 0, :, 0, 0] for _ in range(count)]).double()
    assert (drawn.sum(-1) == 2).all()
    assert float((drawn.mean(0) - 0.4).abs().max()) < 4 * (0.4 * 0.6 / count) ** 0.5


def test_a_fresh_booster_has_fresh_moments():
    block = block_of(MatrixFactorization(shape=(8, 6)), XGBLoRA(interval=5), Adam(), (0.05,), 40)
    for step in range(6):
        before = block.params["left"].clone()
        block.find_gradients(step)
        block.step()
        if step == 4:
            assert not any(moment.any() for moments in block.state.values() for moment in moments.values())
    moved = (block.params["left"] - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05), rtol=1e-4, atol=0)


def test_it_trains_two_vectors():
    params = XGBLoRA().init((9, 7), generator=seeded())
    assert params["left"].shape == (9, 1)
    assert params["right"].shape == (1, 7)
    assert XGBLoRA().reach((9, 7)) == 7
    assert XGBLoRA(interval=0).reach((9, 7)) == 1


@pytest.mark.parametrize(
    ("options", "key"), [({"interval": -1}, "interval"), ({"layers_per_round": 0}, "layers_per_round"), ({"alpha": 0}, "alpha")]
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        XGBLoRA(**options)
