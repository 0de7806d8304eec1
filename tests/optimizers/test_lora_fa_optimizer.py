"""B over a frozen A: the weight follows its gradient projected onto A's rows; AdamW beside torch's own."""

import pytest
import torch
from factor_pairs import TARGET, factors, gradients

from bench.engine import Block, Settings
from linalg import InputError
from optimizers import LoRAFA
from parameterizations import Flora, Full, LoRA
from parameterizations import LoRAFA as FrozenA
from problems import MatrixFactorization, Stack

FROZEN = [FrozenA(rank=2, alpha=5.0), Flora(rank=2, interval=0, alpha=5.0)]


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_motion_is_the_gradient_projected_onto_the_rows(scale):
    start = factors()
    left, right = start["left"], start["right"]
    grads = gradients(start, scale=scale)
    towards, rest = LoRAFA(ridge=0).precondition(left, right, grads["left"], None, scale)
    assert rest is None
    gradient = scale * left @ right - TARGET
    torch.testing.assert_close(scale * towards @ right, gradient @ torch.linalg.pinv(right) @ right)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_it_is_adamw_fed_with_such_gradients(scale):
    start, options = factors(), {"eps": 1e-6, "weight_decay": 0.2}
    leaf = torch.nn.Parameter(start["left"].clone())
    twin = torch.optim.AdamW([leaf], lr=0.01, **options)
    rule, params = LoRAFA(**options), {name: tensor.clone() for name, tensor in start.items()}
    state = rule.init({"left": params["left"]}, scale=scale)
    by_right = torch.linalg.inv(start["right"] @ start["right"].mT + 1e-8 * torch.eye(2)) / scale**2
    for step in range(100):
        leaf.grad = gradients({"left": leaf.detach(), "right": start["right"]}, scale=scale)["left"] @ by_right
        twin.step()
        rule.update(params, {"left": gradients(params, scale=scale)["left"]}, state, 0.01, step)
    torch.testing.assert_close(params["left"], leaf.detach(), rtol=1e-9, atol=1e-10)
    assert torch.equal(params["right"], start["right"])


@pytest.mark.parametrize("method", FROZEN)
@pytest.mark.parametrize("problem", [MatrixFactorization(shape=(9, 7)), Stack(shape=(7, 9), ranks=(1, 2))])
def test_a_block_steps_as_every_lane_alone(problem, method):
    instances = [problem.draw(seed, dtype=torch.float64) for seed in range(2)]
    block = Block(instances, method, LoRAFA(), range(2), [0.01, 0.03, 0.1], Settings(20, dtype=torch.float64))
    target, right = block.instance.target, block.params["right"]
    block.trainable["left"][:, 2] = torch.nan
    alone = {
        (seed, rate): {"left": block.params["left"][seed, rate].clone(), "right": right[seed, 0]}
        for seed in range(2)
        for rate in range(2)
    }
    rule, scale = LoRAFA(), method.scaling
    states = {lane: rule.init({"left": params["left"]}, scale=scale) for lane, params in alone.items()}
    for step in range(20):
        block.find_gradients(step)
        block.step()
        for lane, params in alone.items():
            grads = {"left": gradients(params, target[lane[0], 0], scale)["left"]}
            rule.update(params, grads, states[lane], (0.01, 0.03)[lane[1]], step)
    for lane, params in alone.items():
        torch.testing.assert_close(block.params["left"][lane], params["left"], rtol=1e-9, atol=1e-10)
    assert block.params["left"][:, 2].isnan().all()


def test_it_goes_with_a_frozen_right_factor():
    assert all(LoRAFA().supports(method) is None for method in FROZEN)
    for other in (LoRA(), Full()):
        assert "frozen" in LoRAFA().supports(other)
    with pytest.raises(InputError, match=r"^ridge="):
        LoRAFA(ridge=-1)
