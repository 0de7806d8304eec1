"""RunLoRA changes the order of products, and nothing else."""

import copy
from itertools import product

import pytest
import torch
from by_hand import gaussian
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import adapters
from adapters._run_lora import BACKWARD, FORWARD, multiplications
from linalg import InputError
from optimizers import SGD, torch_optimizer


def layer(b, n, m, r):
    return gaussian(b, n, seed=1), gaussian(n, m, seed=2), gaussian(n, r, seed=3), gaussian(r, m, seed=4), gaussian(b, m, seed=5)


@pytest.mark.parametrize("dx", [True, False])
@pytest.mark.parametrize(("forward", "backward"), list(product(FORWARD, BACKWARD)))
def test_every_order_gives_loras_output_and_gradients(forward, backward, dx):
    x, w, u, v, dy = layer(7, 6, 5, 3)
    leaves = [each.requires_grad_() for each in (u, v, x)]
    truth = x @ w + (x @ u) @ v
    torch.testing.assert_close(FORWARD[forward](x, w, u, v), truth)
    found = BACKWARD[backward](x, w, u, v, dy, dx)
    for ours, theirs in zip(found[: 2 + dx], torch.autograd.grad(truth, leaves, dy), strict=False):
        torch.testing.assert_close(ours, theirs)
    assert (found[2] is None) is not dx


@pytest.mark.parametrize("dx", [True, False])
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_the_count_of_multiplications_is_torchs(name, dx):
    x, w, u, v, dy = layer(9, 8, 7, 2)
    with FlopCounterMode(display=False) as counter:
        FORWARD[name](x, w, u, v) if name in FORWARD else BACKWARD[name](x, w, u, v, dy, dx)
    assert counter.get_total_flops() == 2 * multiplications(name, 9, 8, 7, 2, dx)


@pytest.mark.parametrize("rows", [2, 40])
def test_the_product_of_the_factors_comes_first_for_many_rows_alone(rows):
    costs = {name: multiplications(name, rows, 12, 10, 4) for name in FORWARD}
    assert (costs["forward2"] < costs["forward1"]) == (rows > 12 * 10 / 22)


@pytest.mark.parametrize("by", ["flops", "time"])
@pytest.mark.parametrize("attach", [None, "op_lora", "flora"])
def test_a_model_trains_as_without_it(by, attach):
    torch.manual_seed(0)
    plain = adapters.wrap(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double(), ["0", "2"], rank=2, alpha=6.0)
    if attach:
        adapters.attach(plain, attach)
    else:
        nn.init.normal_(plain[0].lora_B["default"].weight)
    other = adapters.runlora(copy.deepcopy(plain), by)
    x, y = gaussian(3, 11, 6), gaussian(3, 11, 4, seed=1)
    losses = []
    for model in (plain, other):
        optimizer = torch_optimizer(SGD(), model, lr=0.1)
        losses.append([])
        for _ in range(5):
            optimizer.zero_grad()
            value = (model(x) - y).square().mean()
            value.backward()
            optimizer.step()
            losses[-1].append(value.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert set(other[0].low_rank_orders.chosen) == {(33, False)}
    assert set(other[2].low_rank_orders.chosen) == {(33, True)}


def test_layers_that_it_does_not_fit_stay_as_they_are():
    peft = pytest.importorskip("peft")
    for options in ({"lora_dropout": 0.5}, {"use_dora": True}):
        config = peft.LoraConfig(r=2, target_modules=["0"], **options)
        with pytest.raises(InputError, match="no layer whose products can be reordered"):
            adapters.runlora(peft.get_peft_model(nn.Sequential(nn.Linear(4, 4)), config))


def test_disabled_adapters_stay_out():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 4)), peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
    adapters.runlora(model)
    x = torch.ones(3, 4)
    with model.disable_adapter():
        without = model(x)
    assert torch.equal(without, model.base_model.model[0].base_layer(x))
    assert not torch.allclose(model(x), without)
