"""AdamW beside torch's own on preconditioned gradients; in front of OP-LoRA's generator it is OP-SAdamW."""

import pytest
import torch
from factor_pairs import check_lanes, factors, gradients, walk

from bench.engine import Block, Settings
from optimizers import ScaledAdamW
from parameterizations import OPLoRA
from problems import MatrixFactorization, Stack

RIDGE = 1e-4


def preconditioned(left, right, grads, scale=1.0):
    eye = RIDGE * torch.eye(left.shape[-1]).double()
    return {
        "left": grads["left"] @ torch.linalg.inv(scale**2 * right @ right.mT + eye),
        "right": torch.linalg.inv(scale**2 * left.mT @ left + eye) @ grads["right"],
    }


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_it_is_adamw_fed_with_preconditioned_gradients(scale):
    start, options = factors(), {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}
    leaves = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    twin = torch.optim.AdamW(list(leaves.values()), lr=0.01, **options)
    _, weights = walk(ScaledAdamW(ridge=RIDGE, **options), start, 0.01, 100, scale=scale)
    for expected in weights:
        now = {name: leaf.detach() for name, leaf in leaves.items()}
        for name, grad in preconditioned(now["left"], now["right"], gradients(now, scale=scale), scale).items():
            leaves[name].grad = grad
        twin.step()
        torch.testing.assert_close(scale * leaves["left"].detach() @ leaves["right"].detach(), expected, rtol=1e-9, atol=1e-10)


def test_lanes():
    check_lanes(ScaledAdamW(), 0.05)


@pytest.mark.parametrize("head", ["zero", "rezero"])
@pytest.mark.parametrize("problem", [MatrixFactorization(shape=(9, 7)), Stack(shape=(7, 9), ranks=(1, 2))])
def test_a_generator_gets_the_gradients_of_preconditioned_factors(problem, head):
    method = OPLoRA(rank=2, hidden=6, embedding=5, alpha=3.0, head=head)
    settings = Settings(4, dtype=torch.float64)
    instances = [problem.draw(seed, dtype=torch.float64) for seed in range(2)]
    block = Block(instances, method, ScaledAdamW(ridge=RIDGE), range(2), [0.01, 0.03], settings)
    for step in range(4):
        block.find_gradients(step)
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in block.trainable.items()}
        weight = method.weight({**block.params, **leaves})
        left, right = (factor.detach().requires_grad_() for factor in weight.factors)
        loss = block.instance.loss(type(weight)((left, right), weight.base, weight.scale)).sum()
        found = dict(zip(("left", "right"), torch.autograd.grad(loss, (left, right)), strict=True))
        towards = preconditioned(left.detach(), right.detach(), found, weight.scale)
        pulled = torch.autograd.grad(weight.factors, list(leaves.values()), [towards["left"], towards["right"]])
        for name, (column, row) in block._outer.items():
            block.grads[name].copy_(column @ row)
        for name, expected in zip(leaves, pulled, strict=True):
            torch.testing.assert_close(block.grads[name], expected, rtol=1e-8, atol=1e-10)
        block.step()
    assert block.weight().update().norm() > 0
