"""Lanes that share a frozen base: each is what it would be alone."""

from dataclasses import replace

import pytest
import torch
from catalogue import small
from tiny_task import TinyText

import optimizers
from bench.catalogue import check_cell, entries
from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.stacked import Stack, apart
from linalg import InputError
from optimizers import Adam, AdamW, Muon, ScaledAdamW, Torch
from parameterizations import Flora, Full, LoRA, OPLoRA

pytest.importorskip("peft")
DOUBLE = Settings(5, schedule="linear", warmup=2, dtype=torch.float64)
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
    rule, problem = entries("optimizer")[name](), TinyText(head=False)
    for method in (LoRA(rank=2), OPLoRA(rank=2, hidden=4, embedding=5)):
        try:
            check_cell(problem, rule, method)
        except InputError:
            continue
        if apart(method, rule, problem.task(0)) is None:
            torch.testing.assert_close(*losses_of(problem, method, rule), rtol=1e-6, atol=1e-9)


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
