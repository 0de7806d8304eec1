"""Lanes that share a frozen base: each is what it would be alone."""

from dataclasses import replace

import pytest
import torch
from catalogue import small
from tiny_task import TinyTask, TinyText
from torch import nn

import optimizers
from bench.catalogue import check_cell, entries
from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.model_runs import run_lanes
from bench.stacked import Stack, apart, mixed, unshared
from linalg import InputError
from optimizers import Adam, AdamW, Muon, ScaledAdamW, Torch
from parameterizations import Flora, Full, LoRA, OPLoRA
from problems._task import by_lane

pytest.importorskip("peft")
DOUBLE = Settings(5, schedule="linear", warmup=2, dtype=torch.float64)
NOT_STACKED = {"als", "geolora", "lbfgs", "lora_fa", "lorsum", "riemannian_gd", "svd_oracle", "torch"}  # with LoRA or OP-LoRA
LANES = [(seed, rate) for seed in (3, 4) for rate in (1e-2, 3e-3)]


def losses_of(problem, method, rule, steps=5, lanes=LANES):
    tasks = {seed: problem.task(seed) for seed, _ in lanes}
    stack = Stack([(tasks[seed], seed, rate) for seed, rate in lanes], method, rule, DOUBLE)
    together = torch.tensor([stack.advance() for _ in range(steps)], dtype=torch.float64).mT
    alone = [Lane(tasks[seed], method, rule, seed, rate, DOUBLE) for seed, rate in lanes]
    singles = torch.tensor([[lane.advance()[0] for _ in range(steps)] for lane in alone], dtype=torch.float64)
    for i, lane in enumerate(alone):
        expected, found = lane.measure(), stack.measure(i)
        tolerance = {name: 1e-4 if name == "condition_product" else 1e-7 for name in expected}
        assert found == {name: pytest.approx(value, rel=tolerance[name]) for name, value in expected.items()}
    return together, singles


@pytest.mark.parametrize("head", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("name", sorted(entries("parameterization")))
def test_stacked_lanes_equal_single_ones(name, head):
    method, rule, problem = small(entries("parameterization")[name]), AdamW(weight_decay=0.1), TinyText(head=head)
    try:
        check_cell(problem, rule, method)
    except InputError:
        return
    if apart(method, rule, problem.task(0)):
        assert name in {"full", "flora", "relora", "xgblora", "flat_lora", "lorta", "adalora", "sora", "stella", "polar"}
        return
    together, singles = losses_of(problem, method, rule)
    torch.testing.assert_close(together, singles, rtol=1e-8, atol=1e-11)
    assert (together[:, -1] != together[:, 0]).all()


# galore: LoRA's first gradient of A is zero, and the singular vectors of zero are anybody's
@pytest.mark.parametrize("name", sorted(set(entries("optimizer")) - {"galore"}))
def test_every_rule_that_stacks_moves_lanes_as_alone(name):
    rule, problem, compared = entries("optimizer")[name](), TinyText(head=False), 0
    for method in (LoRA(rank=2), OPLoRA(rank=2, hidden=4, embedding=5)):
        try:
            check_cell(problem, rule, method)
        except InputError:
            continue
        if apart(method, rule, problem.task(0)) is None:
            torch.testing.assert_close(*losses_of(problem, method, rule), rtol=1e-6, atol=1e-9)
            compared += 1
    assert compared or name in NOT_STACKED


def test_a_pairs_scale_counts_in_its_update():
    task = TinyText().task(0)
    stack, alone = (
        Stack([(task, 0, 0.01)], LoRA(rank=2, alpha=6.0), Adam(), DOUBLE),
        Lane(task, LoRA(rank=2, alpha=6.0), Adam(), 0, 0.01, DOUBLE),
    )
    for course in (stack, alone):
        for _ in range(3):
            course.advance()
    for (left, right), (own_left, own_right) in zip(stack.updates(0), alone.updates(), strict=True):
        torch.testing.assert_close(left @ right, own_left @ own_right)
        assert (left @ right).abs().max() > 0


@pytest.mark.parametrize(
    ("rule", "head"), [(Adam(), True), (Muon(), False), (ScaledAdamW(), False), (optimizers.Flora(rank=1, interval=2), False)]
)
def test_a_stack_goes_on_from_its_checkpoint_to_the_last_bit(rule, head, tmp_path):
    task = TinyText(head=head).task(0)

    def stack():
        return Stack([(task, 0, 1e-2), (task, 0, 3e-3)], LoRA(rank=2), rule, replace(DOUBLE, steps=8))

    whole, cut, again = stack(), stack(), stack()
    losses = [whole.advance() for _ in range(8)]
    for _ in range(3):
        cut.advance()
    cut.keep(tmp_path)
    assert again.resume(tmp_path)
    assert [again.advance() for _ in range(5)] == losses[3:]


def test_what_cannot_share_a_base_says_why():
    task = TinyText().task(0)
    for method, rule, reason in (
        (Full(), Adam(), "weights of its own"),
        (Flora(rank=2), Adam(), "takes up"),
        (LoRA(rank=2), Torch(), "rates of their own"),
        (LoRA(rank=2), Muon(), "head"),
    ):
        with pytest.raises(InputError, match=reason):
            Stack([(task, 0, 0.1)], method, rule, DOUBLE)


class Normed(nn.Module):
    """Features by batch normalisation, and a head that is more than a linear layer."""

    def __init__(self, seed, norm, shared):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query, self.classifier = nn.Linear(6, 6), nn.Sequential(norm(6), nn.Linear(6, 2))
            self.shared = nn.Parameter(torch.randn(1, 6)) if shared else None

    def forward(self, x):
        features = self.query(x)
        return self.classifier(features if self.shared is None else features + self.query(self.shared))


class NormedTask(TinyTask):
    """Of such a model, whose weights are another's for every seed where they are drawn by it."""

    targets = ("query",)

    def __init__(self, seed, norm=nn.Identity, head=(), shared=False, drawn=False):
        self.seed, self.norm, self.head, self.shared, self.drawn = seed, norm, head, shared, drawn
        self.evaluations = 1

    def model(self):
        return Normed(self.seed if self.drawn else 0, self.norm, self.shared)

    def batch(self, step):
        return {"x": torch.randn(4, 6, generator=torch.Generator().manual_seed(100 * self.seed + step))}

    def losses(self, model, batch, lanes=1):
        return by_lane(model(batch["x"].to(next(model.parameters()))).square().sum(-1), lanes)

    def measure(self, model):
        loss = float(self.losses(model, self.batch(50)))
        return {"loss": loss, "validation_loss": loss}

    def test(self, model):
        return {"test_error": 0.0}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"drawn": True}, "query.base_layer.weight is another for every seed"),
        ({"norm": nn.BatchNorm1d}, "normalises over the rows of all lanes"),
        ({"norm": nn.LayerNorm, "head": ("classifier",)}, "trains, and is of no linear layer"),
        ({"shared": True}, "sees rows that all lanes have in common"),
    ],
    ids=["bases that differ", "batch normalisation", "a head with a norm", "rows in common"],
)
def test_models_that_lanes_cannot_share_are_run_one_by_one(options, reason, monkeypatch):
    lanes = [Lane(NormedTask(seed, **options), LoRA(rank=2), Adam(), seed, 0.01, DOUBLE) for seed in (0, 1)]
    assert reason in (unshared(lanes) or mixed(lanes[0]))
    stacked = []
    monkeypatch.setattr(Stack, "__init__", lambda *_: stacked.append(1))
    problem = TinyText()
    monkeypatch.setattr(TinyText, "task", lambda self, seed: NormedTask(seed, **options))
    found, _ = run_lanes(problem, LoRA(rank=2), Adam(), seeds=(0, 1), rates=(0.01,), settings=replace(DOUBLE, steps=2))
    assert not stacked
    for (_, _, block), seed in zip(found, (0, 1), strict=True):
        alone = Lane(NormedTask(seed, **options), LoRA(rank=2), Adam(), seed, 0.01, replace(DOUBLE, steps=2))
        alone.run()
        assert float(block.curves["loss"][-1, 0, 0]) == alone.history.rows[-1]["loss"]


def test_rows_that_cannot_be_dealt_out_are_refused():
    lanes = [(NormedTask(seed, shared=True), seed, 0.01) for seed in (0, 1)]
    with pytest.raises(InputError, match="1 rows cannot be dealt out to 2"):
        Stack(lanes, LoRA(rank=2), Adam(), DOUBLE).advance()


def test_what_can_be_shared_is():
    lanes = [Lane(NormedTask(seed), LoRA(rank=2), Adam(), seed, 0.01, DOUBLE) for seed in (0, 1)]
    assert unshared(lanes) is None
    assert mixed(lanes[0]) is None
