"""ReLoRA: the rank grows with every restart, moments are pruned by magnitude, and the rate climbs back."""

import math

import pytest
import torch
from by_hand import gaussian, seeded, stacked

from bench.engine import Block, Settings
from linalg import InputError, numerical_rank
from optimizers import SGD, Adam
from parameterizations import LoRA, ReLoRA, Step
from problems import MatrixFactorization, Stack

F64 = torch.float64
BOTH_WAYS = [(16, 12), (12, 16), (14, 14)]


def block_of(problem, method, optimizer, rates=(0.05,), steps=20):
    instances = [problem.draw(seed, dtype=F64) for seed in (0, 1)]
    return Block(instances, method, optimizer, [0, 1], rates, Settings(steps, dtype=F64))


@pytest.mark.parametrize("shape", BOTH_WAYS)
@pytest.mark.parametrize("restarts", [0, 1, 2, 9])
def test_after_k_restarts_the_weight_has_rank_k_plus_one_times_r(shape, restarts):
    method = ReLoRA(rank=2, interval=20, warmup=0)
    block = block_of(MatrixFactorization(shape=shape, kind="gaussian"), method, SGD(), (0.3,), 20 * (restarts + 1))
    block.run()
    values = torch.linalg.svdvals(block.weight().dense())
    assert (numerical_rank(values, shape, F64) == min(2 * (restarts + 1), *shape)).all()


@pytest.mark.parametrize("shape", BOTH_WAYS)
def test_it_trains_what_one_lora_does_at_a_time(shape):
    block = block_of(MatrixFactorization(shape=shape), ReLoRA(rank=2, interval=3), Adam(), steps=10)
    assert block.run().parameters == 2 * sum(shape)
    assert all(tensor.shape[2:] in ((shape[0], 2), (2, shape[1])) for tensor in block.trainable.values())


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("shape", BOTH_WAYS)
def test_a_restart_leaves_the_weight_where_it_was_and_draws_another_a(shape, alpha):
    method = ReLoRA(rank=3, interval=4, alpha=alpha)
    params = stacked([method.init(shape, generator=seeded(seed), dtype=F64) for seed in range(2)])
    params = {name: tensor[:, None] for name, tensor in params.items()}
    params["left"].copy_(gaussian(*params["left"].shape, seed=8))
    before, right = method.weight(params).dense(), params["right"].clone()
    torch.testing.assert_close(before, (1 if alpha is None else 2) * params["left"] @ right)
    method.after_step(params, {}, {"left": {}, "right": {}}, Step(3, generators=[seeded(1), seeded(2)]))
    assert torch.equal(method.weight(params).dense(), before)
    assert not params["left"].any()
    assert (params["right"] != right).all()
    assert not torch.equal(params["right"][0], params["right"][1])


def test_a_fresh_a_is_uniform_within_one_over_the_root_of_n():
    method, n = ReLoRA(rank=40, interval=1), 100
    params = {name: tensor[None, None] for name, tensor in method.init((50, n), dtype=F64).items()}
    method.after_step(params, {}, {"left": {}, "right": {}}, Step(0, generators=[seeded(3)]))
    scaled = (params["right"] * math.sqrt(n)).flatten().sort().values
    assert scaled.abs().max() < 1
    ideal = torch.linspace(-1, 1, len(scaled), dtype=F64)
    assert float((scaled - ideal).abs().max()) < 2 * 1.95 / math.sqrt(len(scaled))  # Kolmogorov, at one in a thousand


def test_pruning_keeps_all_moments_of_the_entries_whose_first_is_largest():
    method = ReLoRA(rank=4, interval=1, pruned=0.9)
    params = {name: tensor.expand(2, 3, *tensor.shape).clone() for name, tensor in method.init((10, 10), dtype=F64).items()}
    shapes = {"left": (10, 4), "right": (4, 10)}
    state = {
        name: {moment: gaussian(2, 3, *shape, seed=len(name + moment)) for moment in ("exp_avg", "exp_avg_sq")}
        for name, shape in shapes.items()
    }
    before = {name: {moment: tensor.clone() for moment, tensor in moments.items()} for name, moments in state.items()}
    method.after_step(params, {}, state, Step(0, generators=[seeded(1), seeded(2)]))
    for name, moments in state.items():
        for lane in [(seed, rate) for seed in range(2) for rate in range(3)]:
            first = before[name]["exp_avg"][lane].abs()
            kept = first > sorted(first.flatten().tolist())[35]  # 4 of 40
            for moment, tensor in moments.items():
                assert torch.equal(tensor[lane], torch.where(kept, before[name][moment][lane], 0))


def test_a_reset_makes_the_next_step_of_adam_its_first():
    block = block_of(MatrixFactorization(shape=(8, 6)), ReLoRA(rank=2, interval=5, momentum="reset", warmup=0), Adam(), steps=40)
    block.at.steps = 40
    for step in range(6):
        before = block.params["left"].clone()
        block.find_gradients(step)
        block.step()
    moved = (block.params["left"] - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05), rtol=1e-4, atol=0)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), Adam()], ids=repr)
@pytest.mark.parametrize("problem", [MatrixFactorization(shape=(8, 6)), Stack(shape=(8, 6), ranks=(1, 2))], ids=["one", "stack"])
def test_a_warm_restart_is_training_at_the_rate_it_climbs_through(optimizer, problem):
    block = block_of(problem, ReLoRA(rank=2, interval=5, warmup=4), optimizer, (0.05, 0.02), 14)
    plain = block_of(problem, ReLoRA(rank=2, interval=5, warmup=0), optimizer, (0.05, 0.02), 14)
    factors = [1, 1, 1, 1, 1, 0, 0.25, 0.5, 0.75, 1, 0, 0.25, 0.5, 0.75]
    for step, factor in enumerate(factors):
        plain.buffers.set_rates(plain.lr * factor)
        for each in (block, plain):
            each.find_gradients(step)
            each.update()
            each.parameterization.after_step(each.params, each.grads, each.state, each.at)
            each.take_up_changes()
        for name, tensor in plain.params.items():
            torch.testing.assert_close(block.params[name], tensor, rtol=1e-9, atol=1e-12)


def test_without_restarts_it_is_lora():
    problem = MatrixFactorization(shape=(8, 6))
    ours, lora = (block_of(problem, method, Adam(), steps=30) for method in (ReLoRA(rank=2, interval=0), LoRA(rank=2)))
    losses = [block.run().curves["loss"] for block in (ours, lora)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    assert ReLoRA(rank=2, interval=0).reach((8, 6)) == 2
    assert ReLoRA(rank=2).reach((8, 6)) == 6


@pytest.mark.parametrize("problem", [MatrixFactorization(shape=(8, 12)), Stack(shape=(12, 8), ranks=(3, 5))], ids=["one", "stack"])
def test_restarts_go_below_the_floor_of_one_pair(problem):
    block = block_of(problem, ReLoRA(rank=2, interval=50), Adam(), (0.03,), 400)
    loss = block.run().curves["loss"][-1]
    floor = torch.tensor([instance.best(2) for instance in block.instances])
    assert (loss[:, 0] < 0.3 * floor).all()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"interval": -1}, "interval"),
        ({"alpha": 0}, "alpha"),
        ({"momentum": "carry"}, "momentum"),
        ({"pruned": 1.5}, "pruned"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        ReLoRA(**options)
