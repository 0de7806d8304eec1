"""A block taken up from its checkpoint goes on as the block that was never put down: for every method, rule and problem."""

import numpy as np
import pytest
import torch
from by_hand import gaussian
from catalogue import drawn, matrix_problems, members, small

import optimizers
import parameterizations
from bench import checkpoint
from bench.engine import Block, Settings
from linalg import InputError
from optimizers import SGD, Adam, Optimizer, Torch
from parameterizations import SVD, Full, LoRA, Parameterization
from problems import LinearRegression, MatrixFactorization, Problem, RotatedDigits, Stack

METHODS = [small(cls) for found in members(parameterizations, Parameterization).values() for cls in found]
RULES = [cls() for found in members(optimizers, Optimizer).values() for cls in found if cls is not Torch]
PROBLEMS = {name: small(cls) for name, (cls,) in matrix_problems().items()} | {
    "linear_regression of batches": LinearRegression((9, 8), rank=2, batch_size=5),
    "rotated_digits of batches in turn": RotatedDigits("continual", domains=2, batch_size=9),
}
SETTINGS = Settings(12, dtype=torch.float64)


def problem_for(*entries) -> Problem:
    needed = {need for entry in entries for need in entry.needs}
    candidates = (MatrixFactorization((9, 8)), LinearRegression((9, 8), rank=2), Stack((9, 8), ranks=(1, 2)), *PROBLEMS.values())
    return next(problem for problem in candidates if needed <= set(problem.provides))


def block(method, rule, problem=None):
    problem = problem or problem_for(method, rule)
    return Block([drawn(problem, seed) for seed in (0, 1)], method, rule, [0, 1], [0.03, 0.01], SETTINGS)


def advance(built, first, last):
    for step in range(first, last):
        built.find_gradients(step)
        built.step()


def goes_on(method, rule, problem=None):
    whole, first, second = (block(method, rule, problem) for _ in range(3))
    advance(whole, 0, 10)
    advance(first, 0, 5)
    saved = checkpoint.save(first)
    advance(first, 5, 7)  # what has been saved stays as it was
    advance(second, 0, 2)
    checkpoint.load(second, saved)
    advance(second, 5, 10)
    torch.testing.assert_close(second.weight().dense(), whole.weight().dense(), rtol=1e-10, atol=1e-12)
    assert not torch.equal(first.weight().dense(), whole.weight().dense()) or type(rule).__name__ in ("ALS", "SVDOracle")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_method_goes_on_from_its_checkpoint(method):
    goes_on(method, Adam() if Adam().supports(method) is None else SGD())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_every_rule_goes_on_from_its_checkpoint(rule):
    fitting = [method for method in (LoRA(rank=2), Full(), SVD(rank=3), *METHODS) if rule.supports(method) is None]
    goes_on(fitting[0], rule)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_every_problem_goes_on_from_its_checkpoint(problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("matrix.npy", gaussian(9, 8).numpy())
    goes_on(LoRA(rank=2), Adam(), problem)


def test_a_checkpoint_is_plain_tensors():
    assert all(type(tensor) is torch.Tensor for tensor in checkpoint.save(block(LoRA(rank=2), Adam())).values())


@pytest.mark.parametrize("other", [(LoRA(rank=3), Adam()), (Full(), Adam()), (LoRA(rank=2), SGD())])
def test_a_checkpoint_of_another_configuration_is_refused(other):
    saved = checkpoint.save(block(LoRA(rank=2), Adam()))
    with pytest.raises(InputError, match=r"^checkpoint: is of another configuration"):
        checkpoint.load(block(*other), saved)


def test_what_torch_optim_keeps_cannot_be_saved():
    with pytest.raises(InputError, match="keeps its state to itself"):
        checkpoint.save(block(LoRA(rank=2), Torch()))


@pytest.mark.parametrize("rule", [Adam(), SGD(momentum=0.9)])
def test_a_block_that_has_gone_on_goes_back_schedule_and_counts_included(rule):
    settings = Settings(12, schedule="linear", dtype=torch.float64)
    built = Block([drawn(MatrixFactorization((9, 8)))], LoRA(rank=2), rule, [0], [0.1], settings)
    advance(built, 0, 5)
    saved = checkpoint.save(built)
    advance(built, 5, 6)
    expected = built.weight().dense().clone()
    checkpoint.load(built, saved)
    assert built.at.step == 4
    advance(built, 5, 6)
    assert torch.equal(built.weight().dense(), expected)
    built.state.reset("left")  # which splits the common count
    checkpoint.load(built, saved)
    advance(built, 5, 6)
    torch.testing.assert_close(built.weight().dense(), expected, rtol=1e-12, atol=1e-14)
