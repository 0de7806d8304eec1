"""Lanes advanced together against plain loops written here."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.blocks import cut_blocks, working_set
from bench.engine import Block, Settings
from bench.lanes import Lanes
from linalg import FactoredMatrix, InputError, generator
from optimizers import SGD, Adam, Momentum, Torch, schedule_factor
from parameterizations import Deep, DeepLoRA, Flora, Full, LoRA, OPLoRA
from problems import Hilbert, LinearRegression, MatrixCompletion, MatrixFactorization
from problems._least_squares import LeastSquares
from problems._problem import Problem

PROBLEMS = {
    "factorization": MatrixFactorization(shape=(14, 9)),
    "wide": MatrixFactorization(shape=(9, 16), kind="low_rank", rank=3, reduction="mean"),
    "completion": MatrixCompletion(shape=(12, 15), rank=2, observed=0.4, noise=0.1),
    "sparse completion": MatrixCompletion(shape=(60, 50), rank=1, observed=0.045),
    "regression": LinearRegression(shape=(8, 11), rank=2),
}
ONE_LANE = {
    "sgd": (SGD(), 0.3, lambda params, lr: torch.optim.SGD(params, lr=lr)),
    "adam": (Adam(), 0.01, lambda params, lr: torch.optim.Adam(params, lr=lr)),
    "momentum": (Momentum(), 0.05, lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9)),
}


def plain_loss(problem, instance, weight):
    """The objective from its definition, on the dense weight."""
    if isinstance(problem, LinearRegression):
        return 0.5 * (weight @ instance.inputs - instance.outputs).square().sum()
    if isinstance(problem, MatrixCompletion):
        residual = weight.flatten()[instance.observed] - instance.values
        return 0.5 * residual.square().sum() * weight.numel() / len(instance.observed)
    residual = weight - instance.target
    return residual.square().mean() if problem.reduction == "mean" else 0.5 * residual.square().sum()


def plain_lora_losses(problem, seed, make_optimizer, lr, steps):
    """What everyone writes: two leaf tensors, autograd and a torch optimizer, one run at a time."""
    instance = problem.draw(seed, dtype=torch.float64)
    start = LoRA(rank=2).init(instance.shape, generator=generator(seed, "init"), dtype=torch.float64)
    b, a = start["left"].requires_grad_(), start["right"].requires_grad_()
    optimizer = make_optimizer([b, a], lr)
    base = 0 if instance.base is None else instance.base
    losses = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = plain_loss(problem, instance, base + b @ a)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return np.array(losses)


@pytest.mark.parametrize("optimizer", ONE_LANE)
@pytest.mark.parametrize("name", PROBLEMS)
def test_lora_in_a_block_equals_a_plain_torch_loop(name, optimizer):
    problem, (rule, rate, make), steps = PROBLEMS[name], ONE_LANE[optimizer], 200
    rate = rate * 50 if name == "wide" and optimizer != "adam" else rate  # a mean over 144 entries has a small gradient
    rates, seeds = [rate, rate / 10], [0, 3]
    run = bench.run(problem, LoRA(rank=2), rule, lr=rates, seeds=seeds, steps=steps, dtype=torch.float64, probes="none")
    tolerance = 1e-10 if optimizer == "sgd" else 1e-8
    for seed in seeds:
        for lr in rates:
            curve = run.curves[(run.curves.seed == seed) & (run.curves.lr == lr)]
            expected = plain_lora_losses(problem, seed, make, lr, steps)[curve.step]
            assert expected[-1] < 0.98 * expected[0], "the run must go somewhere for the comparison to mean something"
            np.testing.assert_allclose(curve.loss, expected, rtol=0, atol=tolerance * expected[0])


@pytest.mark.parametrize(
    "method", [Full(), LoRA(3), OPLoRA(3, hidden=4, embedding=5), Deep(), DeepLoRA(4), Flora(3, interval=7)], ids=repr
)
@pytest.mark.parametrize("optimizer", [SGD(), Adam(), Torch("torch.optim.NAdam")], ids=["sgd", "adam", "torch"])
def test_a_lane_in_a_block_equals_the_same_lane_alone(method, optimizer):
    if optimizer.supports(method):
        pytest.skip("the pair is refused")
    problem, settings = MatrixFactorization(shape=(13, 10)), {"steps": 30, "dtype": "float64"}
    together = bench.run(problem, method, optimizer, lr=[0.01, 0.03], seeds=[0, 4], **settings)
    for lane in together.lanes.itertuples():
        alone = bench.run(problem, method, optimizer, lr=lane.lr, seeds=[lane.seed], **settings)
        mine = together.curves[together.curves.lane == lane.lane].drop(columns="lane").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine[["step", "loss"]], alone.curves[["step", "loss"]], rtol=1e-9, atol=1e-14)


def test_every_rate_of_a_seed_starts_from_the_same_tensors_and_seeds_differ():
    run = bench.run(LinearRegression(shape=(9, 9)), OPLoRA(2), SGD(), lr=[0.1, 0.2], seeds=[0, 1], steps=3, dtype="float64")
    first = run.curves[run.curves.step == 0].set_index(["seed", "lr"]).gradient_norm
    assert first[0, 0.1] == first[0, 0.2]
    assert first[0, 0.1] != first[1, 0.1]


def test_mini_batches_are_shared_by_the_rates_of_a_seed_and_cover_the_data():
    problem = LinearRegression(shape=(6, 8), rank=2, batch_size=32)  # all 32 samples: the batch is the data
    whole = bench.run(LinearRegression(shape=(6, 8), rank=2), LoRA(2), SGD(), lr=0.5, seeds=2, steps=20, dtype="float64")
    batched = bench.run(problem, LoRA(2), SGD(), lr=0.5, seeds=2, steps=20, dtype="float64")
    np.testing.assert_allclose(batched.curves.loss, whole.curves.loss, rtol=1e-9)
    small = LinearRegression(shape=(6, 8), rank=2, batch_size=4)
    noisy = bench.run(small, LoRA(2), SGD(), lr=[0.1, 0.1 + 1e-12], seeds=1, steps=20, dtype="float64")
    by_rate = [group.loss.to_numpy() for _, group in noisy.curves.groupby("lane")]
    np.testing.assert_allclose(by_rate[0], by_rate[1], rtol=1e-6)
    assert not np.allclose(by_rate[0], whole.curves.loss[whole.curves.seed == 0])


@pytest.mark.parametrize("target", ["torch.optim.SGD", "torch.optim.NAdam"])
def test_a_torch_optimizer_sees_the_same_batches_alone_as_in_a_block(target):
    problem, settings = LinearRegression(shape=(6, 8), rank=2, batch_size=4), {"steps": 20, "dtype": "float64"}
    block = bench.run(problem, LoRA(2), Torch(target), lr=[0.01, 0.02], seeds=[0, 1], **settings).curves
    alone = bench.run(problem, LoRA(2), Torch(target), lr=0.02, seeds=[1], **settings).curves
    np.testing.assert_allclose(alone.loss, block[(block.seed == 1) & (block.lr == 0.02)].loss, rtol=1e-9)


@pytest.mark.parametrize("method", [Full(), LoRA(2), Deep()], ids=repr)
def test_a_line_search_runs_on_tall_weights(method):
    problem = MatrixFactorization(shape=(9, 5), kind="low_rank", rank=2)
    run = bench.run(problem, method, Torch("torch.optim.LBFGS"), lr=[0.5, 1.0], seeds=2, steps=15, dtype="float64")
    assert (run.lanes.final_loss < run.lanes.initial_loss).all()


def test_resampling_does_not_move_the_batches():
    """What a method draws comes from a stream of its own: every method of a seed sees the same data."""
    problem = LinearRegression(shape=(6, 8), rank=2, batch_size=4)
    seen = {}
    for method in (LoRA(2), Flora(2, interval=3)):
        block = Block([problem.draw(0)], method, SGD(), [0], [0.01], Settings(steps=10))
        drawn, original = [], block.instance.batch
        block.instance.batch = lambda at, drawn=drawn, original=original: drawn.append(original(at)) or drawn[-1]
        block.run()
        seen[method] = torch.cat(drawn)
    assert torch.equal(*seen.values())


def test_a_base_that_is_changed_in_place_is_seen_by_the_gradient():
    instance = MatrixFactorization(shape=(6, 5)).draw(0, dtype=torch.float64)
    base = torch.zeros(6, 5, dtype=torch.float64)
    left, right = torch.randn(6, 1).double(), torch.randn(1, 5).double()
    for _ in range(2):
        found = instance.gradient(FactoredMatrix((left, right), base))
        residual = base + left @ right - instance.target
        torch.testing.assert_close(found[0], residual @ right.mT)
        base += 1


@pytest.mark.parametrize(("schedule", "warmup"), [("constant", 0), ("constant", 5), ("linear", 4), ("cosine", 0)])
def test_a_run_follows_its_schedule(schedule, warmup):
    """Full gradient descent leaves (1 - lr f_t)² of ½‖W - M‖² at step t."""
    steps, lr = 30, 0.2
    arguments = {"steps": steps, "schedule": schedule, "warmup": warmup, "dtype": "float64"}
    curve = bench.run(MatrixFactorization(shape=(6, 5)), Full(), SGD(), lr=lr, **arguments).curves
    factors = [1 - lr * schedule_factor(schedule, step, steps, warmup) for step in range(steps)]
    expected = curve.loss[0] * np.array([np.prod(factors[:step]) ** 2 for step in curve.step])
    np.testing.assert_allclose(curve.loss, expected, rtol=1e-9)


@pytest.mark.parametrize(("method", "rule"), [(LoRA(2), Adam()), (Full(), SGD())], ids=["lora", "full"])
def test_a_lane_that_diverged_stands_still_at_zero(method, rule):
    block = Block([MatrixFactorization(shape=(6, 5)).draw(0)], method, rule, [0], [0.01, 1e30], Settings(steps=50))
    result = block.run()
    assert result.status == [["ok", "diverged"]]
    assert block.lr[0, 1] == 0
    assert block.lr[0, 0] > 0
    assert all((tensor[0, 1] == 0).all() for tensor in block.trainable.values())
    assert all(tensor.isfinite().all() for tensor in block.trainable.values())


def test_a_diverging_rate_is_marked_and_leaves_its_neighbours_alone():
    arguments = {"seeds": 2, "steps": 100, "dtype": "float64", "probes": "all"}
    run = bench.run(MatrixFactorization(shape=(10, 8)), LoRA(3), SGD(), lr=[0.1, 1e6], **arguments)
    alone = bench.run(MatrixFactorization(shape=(10, 8)), LoRA(3), SGD(), lr=0.1, **arguments)
    assert run.lanes.status.tolist() == ["ok", "diverged"] * 2
    assert np.isinf(run.lanes.final_loss[1])
    assert run.lanes.diverged_at[1] > 0
    np.testing.assert_allclose(run.curves[run.curves.lr == 0.1].loss, alone.curves.loss, rtol=1e-9)
    lost = run.curves[(run.curves.lane == 1) & (run.curves.step >= run.lanes.diverged_at[1])]
    assert np.isinf(lost.loss).all()
    assert lost.condition_product.isna().all()


@dataclass(frozen=True)
class Unusable(Problem):
    """A target of NaN, as a broken loader might give."""

    def instance(self, seed):
        target = torch.full((6, 5), torch.nan if seed == 0 else 1.0, dtype=torch.float64)
        return LeastSquares(target, torch.ones((), dtype=torch.float64))


def test_an_instance_of_nan_gives_marked_lanes_and_the_others_go_on():
    run = bench.run(Unusable(), LoRA(2), Adam(), lr=0.01, seeds=[0, 1], steps=5, probes="all")
    assert run.lanes.status.tolist() == ["diverged", "ok"]


@pytest.mark.parametrize(
    "method", [Full(), LoRA(3), OPLoRA(3, hidden=4, embedding=5), Deep(), DeepLoRA(4), Flora(3, interval=4)], ids=repr
)
def test_no_probe_fails_on_a_lane_on_its_way_to_infinity(method):
    """In float64 there are hundreds of steps between sense and infinity, and squares overflow before."""
    rates = np.geomspace(0.1, 1e12, 14)
    run = bench.run(Hilbert(shape=(8, 8)), method, SGD(), lr=rates, seeds=2, steps=60, probes="all", dtype="float64")
    assert (run.lanes.status == "diverged").any()
    assert (run.lanes.status == "ok").any()


def test_a_run_stops_at_its_timeout_and_says_so():
    run = bench.run(MatrixFactorization(shape=(10, 8)), LoRA(3), SGD(), lr=0.1, steps=10**7, timeout=0.2)
    assert run.lanes.status.tolist() == ["timeout"]
    assert np.isfinite(run.lanes.final_loss[0])


def test_lanes_of_a_float32_run_follow_the_float64_run():
    curves = [
        bench.run(Hilbert(shape=(12, 12)), LoRA(3), SGD(), lr=0.3, steps=50, dtype=dtype).curves.loss
        for dtype in ("float32", "float64")
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
    assert not np.array_equal(curves[0], curves[1])


def test_an_out_of_tree_line_search_runs_on_lanes():
    run = bench.run(
        MatrixFactorization(shape=(8, 7), kind="low_rank", rank=2),
        LoRA(2),
        Torch("torch.optim.LBFGS", {"line_search_fn": "strong_wolfe"}),
        lr=[1.0, 0.5],
        seeds=2,
        steps=40,
        dtype="float64",
    )
    assert (run.lanes.final_relative_error < 1e-4).all()  # its own tolerance on the loss stops it there


@pytest.mark.parametrize(("seeds", "rates", "size"), [(3, 9, 1), (3, 9, 300), (5, 1, 10**9), (1, 1, 1), (4, 7, 170), (2, 9, 150)])
def test_blocks_cover_every_lane_once_and_fit_the_budget(seeds, rates, size):
    covered = np.zeros((seeds, rates), dtype=int)
    for by_seed, by_rate in cut_blocks(seeds, rates, size, budget=1000):
        covered[by_seed, by_rate] += 1
        lanes = (by_seed.stop - by_seed.start) * (by_rate.stop - by_rate.start)
        assert lanes == 1 or lanes * size <= 1000
    assert (covered == 1).all()


def test_what_seeds_do_not_share_keeps_them_apart_and_never_cuts_rates():
    assert len(list(cut_blocks(8, 16, 10, 1000))) == 2  # six seeds of 160 bytes, then two
    assert len(list(cut_blocks(8, 16, 10, 1000, bytes_a_seed=400))) == 8
    assert list(cut_blocks(2, 16, 10, 1000, bytes_a_seed=10**6)) == [(slice(i, i + 1), slice(0, 16)) for i in range(2)]


@pytest.mark.parametrize("method", [LoRA(4), OPLoRA(4), Deep(), Flora(4)], ids=repr)
@pytest.mark.parametrize("rule", [SGD(), Adam()], ids=repr)
def test_a_block_takes_what_its_lanes_were_said_to(method, rule):
    problem, settings = MatrixFactorization(shape=(40, 60)), Settings(3, probes="none")
    instances = [problem.draw(seed) for seed in range(4)]
    lane, seed = working_set(instances[0], method, rule, settings)
    assert seed >= 40 * 60 * 4
    for budget in (20 * lane, 3 * lane):
        for by_seed, by_rate in cut_blocks(4, 9, lane, budget, seed):
            rates = [0.1] * (by_rate.stop - by_rate.start)
            block = Block(instances[by_seed], method, rule, list(range(4))[by_seed], rates, settings)
            assert block.bytes <= 1.01 * budget


def test_tall_tensors_lie_transposed_and_lanes_share_no_memory():
    tensors = {"left": torch.empty(6, 2), "right": torch.empty(2, 5), "bias": torch.empty(3)}
    lanes = Lanes(tensors, (2, 3))
    buffer, views = lanes.zeros(torch.zeros(()))
    assert {name: view.shape for name, view in views.items()} == {name: (2, 3, *one.shape) for name, one in tensors.items()}
    assert views["left"].mT.is_contiguous()
    assert views["right"].is_contiguous()
    for name, view in views.items():
        for seed in range(2):
            for rate in range(3):
                view[seed, rate] += 1
        assert (view == 1).all(), name
    assert (buffer == 1).all()
    assert buffer.numel() == 6 * (12 + 10 + 3)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"lr": -0.1}, "lr=-0.1"),
        ({"lr": []}, "lr=[]"),
        ({"lr": 0.1, "seeds": []}, "seeds=[]"),
        ({"lr": 0.1, "seeds": [1, 1]}, "seeds=[1, 1]"),
        ({"lr": 0.1, "steps": 0}, "steps=0"),
        ({"lr": 0.1, "warmup": 500}, "warmup=500"),
        ({"lr": 0.1, "schedule": "poly"}, "schedule='poly'"),
        ({"lr": 0.1, "dtype": "int8"}, "dtype='int8'"),
        ({"lr": 0.1, "probes": "some"}, "probes='some'"),
        ({"lr": 0.1, "device": "nowhere"}, "device='nowhere'"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(options, key):
    with pytest.raises(InputError) as raised:
        bench.run(MatrixFactorization(shape=(6, 5)), LoRA(2), SGD(), **options)
    assert str(raised.value).startswith(key)
    assert "\n" not in str(raised.value)


def test_the_rank_may_not_exceed_the_matrix():
    with pytest.raises(InputError, match="rank=6: must be at most 5"):
        bench.run(MatrixFactorization(shape=(6, 5)), LoRA(6), SGD(), lr=0.1)


def test_the_base_of_fine_tuning_is_in_the_weight_but_not_in_the_update():
    run = bench.run(
        LinearRegression(shape=(7, 9), rank=2), Flora(2, interval=5), Adam(), lr=0.05, steps=40, dtype="float64", probes="all"
    )
    problem = LinearRegression(shape=(7, 9), rank=2).draw(0)
    start = run.curves.iloc[0]
    assert start.relative_error == pytest.approx(1.0)
    assert start.loss == pytest.approx(float(0.5 * (problem.truth @ problem.inputs).square().sum()))
    assert start["rank"] == 7  # of the pretrained weight
    assert run.spectra["value"].max() < 3 * run.spectra["target"].max()


def test_flora_in_a_run_reaches_rank_after_rank():
    run = bench.run(
        MatrixFactorization(shape=(12, 9), kind="gaussian"),
        Flora(2, interval=20),
        SGD(),
        lr=0.05,
        steps=80,
        dtype="float64",
        probes="all",
    )
    by_step = run.curves.set_index("step")["rank"]
    assert by_step[80] == 8
    assert by_step[1] == 2
    first_interval = by_step[(by_step.index >= 1) & (by_step.index <= 20)]
    assert (first_interval == 2).all()
    assert FactoredMatrix((torch.eye(3),)).rank == 3
