"""Update rules as torch optimizers: beside torch's own, with pairs found by name, and with budgets over layers."""

import copy

import pytest
import torch
from catalogue import members
from torch import nn

import adapters
import optimizers
from adapters._install import attached
from optimizers import SGD, Adafactor, Adam, AdamW, GeoLoRA, LoRAPlus, Muon, Optimizer, RMSprop, ScaledGD, torch_optimizer

RULES = {name: cls() for name, found in members(optimizers, Optimizer).items() for cls in found}
UNFIT = ("als", "svd_oracle", "lbfgs", "lorsum", "torch")
TWINS = {
    "sgd": (SGD(), torch.optim.SGD, {}),
    "momentum": (SGD(momentum=0.9, nesterov=True), torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (Adam(), torch.optim.Adam, {}),
    "adamw": (AdamW(weight_decay=0.1), torch.optim.AdamW, {"weight_decay": 0.1}),
    "rmsprop": (RMSprop(), torch.optim.RMSprop, {"alpha": RMSprop().alpha if hasattr(RMSprop(), "alpha") else 0.99}),
}
X, Y = (
    torch.randn(16, 6, generator=torch.Generator().manual_seed(0)),
    torch.randn(16, 4, generator=torch.Generator().manual_seed(1)),
)


def net(convolution=False):
    torch.manual_seed(0)
    layers = [nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4)] if convolution else [nn.Linear(6, 4)]
    return nn.Sequential(*layers)


def wrapped(rank=2):
    torch.manual_seed(0)
    return adapters.wrap(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), ["0", "2"], rank=rank, alpha=3.0)


def run(model, optimizer, steps=6):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(X) - Y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("convolution", [False, True], ids=["linear", "convolution"])
@pytest.mark.parametrize("twin", TWINS)
def test_a_rule_moves_a_model_as_torchs_own_does(twin, convolution):
    rule, cls, options = TWINS[twin]
    ours, theirs = net(convolution), net(convolution)
    found = run(ours, torch_optimizer(rule, ours, lr=0.01)), run(theirs, cls(theirs.parameters(), lr=0.01, **options))
    assert found[0][-1] < found[0][0]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("rule", [Adam(), Muon(), Adafactor(), optimizers.Flora(rank=2)], ids=lambda rule: type(rule).__name__)
def test_a_convolution_moves_alike_wherever_its_channels_are(rule):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3)
    last = copy.deepcopy(first).to(memory_format=torch.channels_last)
    x, start = torch.randn(5, 3, 8, 8), first.weight.detach().clone()
    for layer in (first, last):
        optimizer = torch_optimizer(rule, layer, 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            layer(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(last.weight, first.weight, rtol=1e-4, atol=1e-5)
    assert last.weight.is_contiguous(memory_format=torch.channels_last)
    assert (first.weight - start).abs().max() > 1e-3


@pytest.mark.parametrize("rule", [name for name in RULES if name not in UNFIT])
def test_a_run_resumes_to_the_last_bit_from_its_state_dict(rule):
    def fresh():
        model = wrapped()
        if RULES[rule].tangent:
            adapters.attach(model, "svd")
        elif rule == "lora_fa":
            adapters.attach(model, "lora_fa")
        return model, torch_optimizer(RULES[rule], model, lr=0.01)

    model, optimizer = fresh()
    run(model, optimizer, 3)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    steps = [pair.at.step for pair in attached(model)] if RULES[rule].tangent else []
    ahead = run(model, optimizer, 3)
    again, resumed = fresh()
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    for pair, step in zip(attached(again) if steps else [], steps, strict=True):
        assert pair.at.step == step
    assert run(again, resumed, 3) == ahead


def test_the_pairs_of_plain_lora_are_found_by_name_and_their_scale_by_the_model():
    model = wrapped()
    optimizer = torch_optimizer(ScaledGD(), model, lr=0.1)
    units = [unit for units in optimizer.units for unit in units]
    assert [sorted(unit.tensors) for unit in units] == [["left", "right"]] * 2
    assert [unit.scale for unit in units] == [1.5, 1.5]
    named = torch_optimizer(ScaledGD(), [each for each in model.named_parameters() if each[1].requires_grad], lr=0.1)
    assert [sorted(unit.tensors) for units in named.units for unit in units] == [["left", "right"]] * 2


def test_lora_plus_gives_b_its_own_rate():
    model, before = wrapped(), wrapped()
    optimizer = torch_optimizer(LoRAPlus(ratio=4.0), model, lr=0.001)
    (model(X) - Y).square().mean().backward()
    optimizer.step()
    moved = {name: (tensor - before.get_parameter(name)).abs().max().item() for name, tensor in model.named_parameters()}
    assert moved["2.lora_B.default.weight"] == pytest.approx(0.004, rel=1e-3)  # Adam's first step is the rate
    assert moved["2.base_layer.weight"] == 0


def test_what_is_no_pair_goes_by_adamw_where_a_rule_takes_pairs_alone():
    model = wrapped()
    model.append(nn.Linear(4, 4))
    before = copy.deepcopy(model[3].weight)
    run(model, torch_optimizer(optimizers.LoRARITE(), model, lr=0.01), 1)
    assert (model[3].weight - before).abs().max().item() == pytest.approx(0.01, rel=1e-3)


def test_groups_have_rates_of_their_own_and_a_schedule_moves_them():
    model = net()
    groups = [{"params": [model[0].weight], "lr": 0.1}, {"params": [model[0].bias]}]
    optimizer = torch_optimizer(SGD(), groups, lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    before = copy.deepcopy(model)
    (model(X) - Y).square().mean().backward()
    optimizer.step()
    before = copy.deepcopy(model)
    schedule.step()
    optimizer.step()
    for name, rate in (("weight", 0.05), ("bias", 0.005)):
        tensor = getattr(model[0], name)
        torch.testing.assert_close(tensor, getattr(before[0], name) - rate * tensor.grad)


def test_a_budget_of_geolora_is_shared_by_layers_of_any_shape():
    """Only the second layer has anything to learn: it gets what the first can spare."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(6, 5, bias=False), nn.Linear(7, 9, bias=False)]).double()
    model.forward = lambda x: (model[0](x[0]), model[1](x[1]))
    adapters.wrap(model, ["0", "1"], rank=4)
    x = torch.eye(6, dtype=torch.float64), torch.eye(7, dtype=torch.float64)
    u, v = (torch.linalg.qr(torch.randn(p, 3, dtype=torch.float64)).Q for p in (9, 7))
    goals = [layer.detach() for layer in model(x)]
    goals = goals[0] + 1e-4, goals[1] + v @ torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)) @ u.mT
    adapters.attach(model, "svd")
    optimizer = torch_optimizer(GeoLoRA(budget=4, min_rank=1, coefficient_steps=1), model, lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        sum(0.5 * (y - goal).square().sum() for y, goal in zip(model(x), goals, strict=True)).backward()
        optimizer.step()
    assert list(adapters.report(model)["rank"][:-1]) == [1, 3]
    assert (model(x)[1] - goals[1]).norm() < 1e-6


def test_adaloras_budget_is_shared_by_layers_and_met():
    torch.manual_seed(0)
    model = adapters.attach(wrapped(), "adalora", steps=20, start=4)
    run(model, torch_optimizer(Adam(), model, lr=0.05), 20)
    assert adapters.report(model)["rank"][:-1].sum() == 2 * 2


def test_a_model_without_gradients_stays():
    model = net()
    before = copy.deepcopy(model.state_dict())
    torch_optimizer(Muon(), model, lr=0.1).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_closure_is_called_and_its_loss_returned():
    model = net()
    optimizer = torch_optimizer(Adafactor(), model, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (model(X) - Y).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > closure().item()


@pytest.mark.parametrize("rule", [ScaledGD(), optimizers.ScaledAdamW()], ids=["scaled_gd", "scaled_adamw"])
def test_an_attached_pair_has_the_layers_scale_as_plain_lora_has(rule):
    """The preconditioner divides by the scale's square: 1.5 here."""
    plain, model = wrapped(), wrapped()
    adapters.attach(model, "lora")
    for pair in attached(model):
        layer = plain.get_submodule(pair.site.name)
        pair.left.data.copy_(layer.lora_B["default"].weight)
        pair.right.data.copy_(layer.lora_A["default"].weight)
    losses = [run(each, torch_optimizer(rule, each, lr=0.01)) for each in (plain, model)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert [unit.scale for units in torch_optimizer(rule, model, lr=0.01).units for unit in units] == [1.5, 1.5]


def test_predicted_factors_are_preconditioned_at_the_layers_scale():
    """The bias of a head has the gradient of what the head predicts."""
    model = adapters.attach(wrapped(), "op_lora", hidden=4, embedding=3)
    torch_optimizer(ScaledGD(), model, lr=0.01)
    for pair in attached(model):
        pair.left_head_bias.data.normal_(generator=torch.Generator().manual_seed(0))
        left, right = (factor.detach().requires_grad_() for factor in pair.method.factors(pair.tensors()))
        seen = torch.randn(left.shape, generator=torch.Generator().manual_seed(1)), torch.randn(right.shape)
        torch.autograd.backward(pair.factors(), seen)
        expected = ScaledGD().precondition(left, right, *seen, 1.5)
        torch.testing.assert_close(pair.left_head_bias.grad, expected[0].mT.reshape(-1).detach())
