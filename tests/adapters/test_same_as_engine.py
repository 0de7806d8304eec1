"""One definition, two homes: on one linear layer the adapter's run is the engine's lane, step for step."""

import pytest
import torch
from by_hand import gaussian
from catalogue import members
from tiny import CASES, SHARED
from torch import nn

import adapters
import optimizers
from adapters._install import attached
from bench.engine import Block, Settings, initial_tensors
from linalg import generator
from optimizers import SGD, Adam, GeoLoRA, Optimizer, torch_optimizer
from parameterizations._described import built
from problems import LinearRegression, Stack

STEPS, LR, RANK = 25, 0.05, 4
PROBLEM = LinearRegression((12, 9), rank=4, condition=4.0, noise=0.5)  # with noise the gradient has full rank
RULES = {name: cls() for name, found in members(optimizers, Optimizer).items() for cls in found}


def layer_of(instance):
    """The problem as a model: one linear layer, whose loss is the instance's, written out."""
    model = nn.Sequential(nn.Linear(9, 12, bias=False, dtype=torch.float64))
    model[0].weight.data.copy_(instance.pretrained)
    loss = lambda model: 0.5 * instance.weight * (model(instance.inputs.mT) - instance.outputs.mT).square().sum()  # noqa: E731
    return adapters.wrap(model, "0", rank=RANK), loss


def lane(instance, method, rule, nudge=0.0):
    """The engine's losses and its last weight; from a start that is off by a nudge."""
    block = Block([instance], method, rule, [0], [LR], Settings(STEPS, dtype=torch.float64, probes="none"))
    for tensor in block.trainable.values():
        tensor.add_(nudge * gaussian(*tensor.shape))
    losses = []
    for step in range(STEPS):
        losses.append(block.instance.measure(block.weight())["loss"].sum().item())
        block.find_gradients(step)
        block.step()
    return torch.tensor(losses), block.weight().dense()[0, 0]


def run(instance, name, options, rule):
    """The adapter's, from the engine's own start and streams."""
    model, loss = layer_of(instance)
    adapters.attach(model, name, loss=loss, steps=STEPS, **options)
    (pair,) = attached(model)
    start = initial_tensors(instance, 0, pair.method, Settings(STEPS, dtype=torch.float64))
    for tensor in pair.names:
        getattr(pair, tensor).data.copy_(start[tensor])
    pair.at.generators = [generator(0, "steps")]
    optimizer = torch_optimizer(rule, model, lr=LR)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        with torch.no_grad():
            losses.append(loss(model.eval()).item())
        model.train()
        optimizer.step()
    left, right = pair.plain()
    base = pair.site.base_matrix() if pair.original is None else pair.original
    return torch.tensor(losses), base + left @ right


def crossings():
    for case, (name, options) in CASES.items():
        for rule in RULES if case not in SHARED else ():
            method = built("parameterization", name, options, rank=RANK)
            if rule in ("als", "svd_oracle", "lbfgs", "lorsum", "torch") or RULES[rule].supports(method) is not None:
                continue
            yield pytest.param(name, options, rule, id=f"{case}-{rule}", marks=[] if rule in QUICK else [pytest.mark.slow])


FIRM = [(name, rule) for name in ("lora", "op_lora", "deep_lora", "flora") for rule in ("sgd", "momentum")] + [("svd", "geolora")]
QUICK = ("sgd", "adam", "scaled_gd", "lora_plus", "lora_rite", "lora_pro", "geolora", "riemannian_gd", "muon")


@pytest.mark.parametrize(("name", "options", "rule"), list(crossings()))
def test_a_layer_trains_as_the_engines_lane_does(name, options, rule):
    instance = PROBLEM.draw(0, dtype=torch.float64)
    method = built("parameterization", name, options, rank=RANK)
    losses, weight = lane(instance, method, RULES[rule])
    ours, ending = run(instance, name, options, RULES[rule])
    assert losses[-1] != losses[0]
    nudged, moved = lane(
        instance, method, RULES[rule], nudge=1e-14
    )  # some rules make much of rounding: no more is asked than there is
    determined = 100 * (nudged - losses).abs().cummax(0).values + 1e-9 * losses.abs()
    finite = determined.isfinite()  # OP-LoRA with ScaledGD diverges
    assert finite.sum() > 5
    assert ((ours - losses).abs() <= determined)[finite].all()
    if finite.all():
        assert (ending - weight).abs().max() <= 100 * (moved - weight).abs().max() + 1e-9
    if (name, rule) in FIRM:
        assert determined.max() <= 2e-9 * losses.max()


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), Adam()], ids=["momentum", "adam"])
@pytest.mark.parametrize("case", ["lora", "op_lora", "deep_lora", "adalora", "flora", "relora", "sora", "stella"])
def test_torchs_optimizers_move_a_layer_as_the_suites_do(case, rule):
    name, options = CASES[case]
    instance, losses = PROBLEM.draw(0, dtype=torch.float64), []
    for ours in (True, False):
        model, loss = layer_of(instance)
        adapters.attach(model, name, loss=loss, steps=STEPS, **options)
        if ours:
            optimizer = torch_optimizer(rule, model, lr=LR)
        elif isinstance(rule, Adam):
            optimizer = torch.optim.Adam([tensor for tensor in model.parameters() if tensor.requires_grad], lr=LR)
        else:
            optimizer = torch.optim.SGD([tensor for tensor in model.parameters() if tensor.requires_grad], lr=LR, momentum=0.9)
        losses.append([])
        for _ in range(STEPS):
            optimizer.zero_grad()
            value = loss(model)
            value.backward()
            optimizer.step()
            losses[-1].append(value.item())
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-9, atol=1e-12)


STACK = Stack((12, 9), ranks=(1, 3, 2))
TOGETHER = {
    "lorta": ("lorta", {}, Adam()),
    "one MLP for all": ("op", {"over": "lora", "hidden": 8, "embedding": 4, "shared": True}, Adam()),
    "AdaLoRA's budget": ("adalora", {}, Adam()),
    "GeoLoRA's budget": ("svd", {}, GeoLoRA(budget=6, coefficient_steps=2)),
    "LoRA": ("lora", {}, Adam()),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_layers_train_together_as_the_engines_stack_does(case):
    name, options, rule = TOGETHER[case]
    instance, method = STACK.draw(0, dtype=torch.float64), built("parameterization", name, options, rank=RANK)
    losses, weight = lane(instance, method, rule)
    model = nn.Module()
    for layer in "012":
        setattr(model, f"layer{layer}", nn.Linear(9, 12, bias=False, dtype=torch.float64))
        getattr(model, f"layer{layer}").weight.data.zero_()
    adapters.wrap(model, ["layer0", "layer1", "layer2"], rank=RANK)
    adapters.attach(model, name, steps=STEPS, **options)
    start = initial_tensors(instance, 0, method, Settings(STEPS, dtype=torch.float64))
    for i, pair in enumerate(attached(model)):
        for tensor in pair.source.names:
            given = start[tensor] if pair.source is not pair else start[tensor][i]
            getattr(pair.source, tensor).data.copy_(given)
    optimizer, ours = torch_optimizer(rule, model, lr=LR), []
    layers, eye = [getattr(model, f"layer{layer}") for layer in "012"], torch.eye(9, dtype=torch.float64)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = 0.5 * sum((layer(eye).mT - goal).square().sum() for layer, goal in zip(layers, instance.target, strict=True))
        loss.backward()
        ours.append(loss.item())
        optimizer.step()
    torch.testing.assert_close(torch.tensor(ours), torch.as_tensor(losses), rtol=1e-9, atol=1e-12)
    found = torch.stack([torch.matmul(*pair.plain()) for pair in attached(model)])
    torch.testing.assert_close(found, weight, rtol=0, atol=1e-9)
