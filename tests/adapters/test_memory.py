"""What training takes in a model is what the formulas of the catalogue say: numbers that train, numbers that a rule keeps."""

import pytest
import torch

pytest.importorskip("peft")
from catalogue import counted
from tiny import METHODS, MODELS, RANK, train, wrapped

import adapters
from adapters._install import attached
from optimizers import (
    SGD,
    Adam,
    AdamW,
    GeoLoRA,
    Lion,
    LoRAPlus,
    LoRAPro,
    LoRARITE,
    Momentum,
    RiemannianGD,
    RMSprop,
    ScaledAdamW,
    ScaledGD,
    torch_optimizer,
)
from parameterizations import OP, Full, LoKr
from parameterizations.lokr import split

BYTES = 4  # float32
ENTRYWISE = [SGD(), Momentum(), Adam(), AdamW(), Lion(), RMSprop(momentum=0.9)]
OF_PAIRS = [LoRAPlus(), LoRARITE(), LoRAPro(), ScaledGD(momentum=0.9), ScaledAdamW()]
OF_TANGENTS = [GeoLoRA(core_rule="adam"), RiemannianGD(momentum=0.9)]


def stepped(name, rule, steps=4, **options):
    """The tiny Llama after some steps, with its optimizer; None for torch's AdamW."""
    _, _, loss = MODELS["llama"]
    model = adapters.attach(wrapped("llama"), name, loss=loss, steps=steps, **{**METHODS.get(name, {}), **options})
    parameters = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3) if rule is None else torch_optimizer(rule, model, lr=1e-3)
    train(model, optimizer, loss, steps)
    return model, optimizer


def size(pair):
    """Numbers that the method's formula gives for a pair's weight."""
    return sized(pair.method, *pair.site.shape)


def sized(method, m, n):
    known = {"m": m, "n": n, "r": RANK}
    if isinstance(method, LoKr):
        known |= zip("abcd", (*split(m, method.factor), *split(n, method.factor)), strict=True)
    if isinstance(method, OP):
        known["over_size"] = sized(method.inner, m, n)
    return counted(method.size, method, **known)


def kept(pair, rule):
    """Numbers that the rule's formula gives: for the pair's weight, or for each tensor where it takes matrices alone."""
    if rule.supports(Full()) is not None:
        m, n = pair.site.shape
        return counted(rule.memory, rule, m=m, n=n, r=RANK)
    return sum(counted(rule.memory, rule, m=tensor.numel(), n=1, r=RANK) for tensor in pair.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_as_many_numbers_train_as_the_method_says(name):
    model, optimizer = stepped(name, None)
    pairs = attached(model)
    expected = [size(pair) for pair in pairs]
    assert adapters.trainable_parameters(model) == sum(expected)
    table = adapters.report(model, optimizer)
    assert table["training"].to_list() == [*expected, sum(expected)]
    assert table["state_bytes"].to_list() == [2 * BYTES * count for count in (*expected, sum(expected))]
    gradients = [tensor.grad for tensor in model.parameters() if tensor.requires_grad]
    assert sum(gradient.numel() for gradient in gradients) == sum(expected)


CROSSINGS = [(name, rule) for rule in ENTRYWISE for name in ("lora", "op_lora", "deep_lora", "flora", "svd", "adalora", "loha")]
CROSSINGS += [("lora", rule) for rule in OF_PAIRS] + [("svd", rule) for rule in OF_TANGENTS]


@pytest.mark.parametrize(("name", "rule"), CROSSINGS, ids=[f"{name}-{type(rule).__name__}" for name, rule in CROSSINGS])
def test_an_optimizer_keeps_what_its_rule_says(name, rule):
    model, optimizer = stepped(name, rule)
    table = adapters.report(model, optimizer)
    expected = [BYTES * kept(pair, rule) for pair in attached(model)]
    assert table["state_bytes"].to_list() == [*expected, sum(expected)]


def test_a_predicted_pair_keeps_the_moments_of_what_predicts_it():
    model, optimizer = stepped("op_lora", ScaledAdamW())
    assert adapters.report(model, optimizer).loc["total", "state_bytes"] == 2 * BYTES * adapters.trainable_parameters(model)


@pytest.mark.parametrize("name", ["flora", "relora"])
def test_what_merges_keeps_a_copy_of_the_base_and_its_frozen_factor(name):
    model, _ = stepped(name, None, steps=5)
    for pair in attached(model):
        m, n = pair.site.shape
        assert pair.original.numel() == m * n
        assert sum(tensor.numel() for tensor in pair.buffers()) == (RANK * n if name == "flora" else 0)


def test_adalora_keeps_two_averages_of_every_number_that_trains():
    model, _ = stepped("adalora", None, steps=5)
    for pair in attached(model):
        assert sum(tensor.numel() for tensor in pair.at.memory.values()) == 2 * size(pair)
