"""AdamW in two groups of parameters."""

from dataclasses import dataclass

import pytest
import torch
from factor_pairs import check_lanes, factors, gradients, walk

from bench.runs import run
from linalg import InputError
from optimizers import AdamW, LoRAPlus
from parameterizations import Full, LoRA, OPLoRA
from problems import MatrixFactorization, Stack


@dataclass(frozen=True)
class Rated(LoRA):
    """LoRA that asks for the higher rate itself."""

    @property
    def rates(self):
        return {"left": 5.0}


@pytest.mark.parametrize("own", [1.0, 0.3])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_it_is_adamw_with_a_group_a_factor(decay, own):
    start, lr, ratio = factors(), 0.003, 8.0
    leaves = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    groups = [{"params": [leaves["right"]], "lr": lr}, {"params": [leaves["left"]], "lr": lr * ratio * own}]
    twin = torch.optim.AdamW(groups, weight_decay=decay)
    for _ in range(100):
        for name, grad in gradients({name: leaf.detach() for name, leaf in leaves.items()}).items():
            leaves[name].grad = grad
        twin.step()
    found, _ = walk(LoRAPlus(ratio=ratio, weight_decay=decay), start, lr, 100, rates={"left": own})
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf.detach(), rtol=1e-10, atol=1e-10)


def test_one_rate_for_both_is_adamw():
    start = factors()
    plus, plain = (walk(rule, start, 0.01)[1] for rule in (LoRAPlus(ratio=1, weight_decay=0.1), AdamW(weight_decay=0.1)))
    assert torch.equal(plus, plain)


@pytest.mark.parametrize("problem", [MatrixFactorization(shape=(12, 9)), Stack(shape=(9, 12), ranks=(1, 2))])
def test_a_run_is_that_of_adamw_on_factors_with_such_rates(problem):
    options = {"lr": [0.001, 0.003], "seeds": 2, "steps": 60, "dtype": "float64"}
    plus = run(problem, LoRA(rank=2), LoRAPlus(ratio=5, weight_decay=0.01), **options).curves.loss
    rated = run(problem, Rated(rank=2), AdamW(), **options).curves.loss
    assert plus.to_numpy() == pytest.approx(rated.to_numpy(), rel=1e-10)


def test_lanes():
    check_lanes(LoRAPlus(), 0.01)


def test_what_it_takes():
    assert LoRAPlus().supports(LoRA()) is None
    for other in (Full(), OPLoRA()):
        assert "two factors" in LoRAPlus().supports(other)
    with pytest.raises(InputError, match=r"^ratio="):
        LoRAPlus(ratio=0)
