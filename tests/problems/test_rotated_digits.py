"""Digits turned: data, gradients of the net against autograd on plain tensors, and what adapters make of it."""

import time

import numpy as np
import pytest
import torch
from by_hand import gaussian, seeded
from torch.nn import functional

from bench.runs import run
from linalg import FactoredMatrix, InputError
from optimizers import SGD, Adam
from parameterizations import CoLoR, FedLoRA, Flora, Full, LoRA, Step
from parameterizations.color import Routed
from problems import RotatedDigits
from problems._digits import KEPT, digits, rotated

pytest.importorskip("sklearn")

F64 = torch.float64
SETTINGS = {
    "single": RotatedDigits(domains=3),
    "continual": RotatedDigits(setting="continual", domains=3),
    "federated": RotatedDigits(setting="federated", domains=3),
}
every_setting = pytest.mark.parametrize("setting", SETTINGS)


def draw(setting, seed=0, **options):
    return RotatedDigits(**({"setting": setting, "domains": 3} | options)).draw(seed, dtype=F64)


def net_loss(weight, x, classes):
    """The mean cross-entropy of one pair of layers (2, 64, 64), by torch's own function."""
    scores = (weight[1] @ torch.relu(weight[0] @ x))[:10]
    return functional.cross_entropy(scores.mT, classes.argmax(0))


def own_loss(drawn, weight, columns=slice(None)):
    """The losses of all domains (D,) under a stack of weights (L, 64, 64)."""
    losses = []
    for domain in range(drawn.train.shape[0]):
        pair = weight[2 * domain : 2 * domain + 2] if drawn.setting == "federated" else weight
        losses.append(net_loss(pair, drawn.train[domain][:, columns], drawn.train_classes[domain][:, columns]))
    return torch.stack(losses)


# Data


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_quarter_turn_is_exact(quarter):
    images = digits()[0][:20]
    turned = rotated(images, torch.full((20,), 90.0 * quarter, dtype=F64))
    torch.testing.assert_close(turned, torch.tensor(np.rot90(images.numpy(), quarter, axes=(1, 2)).copy()))


def test_a_turn_and_back_leaves_what_is_in_the_middle():
    smooth = torch.zeros(1, 8, 8, dtype=F64)
    smooth[0] = torch.exp(-((torch.arange(8) - 4.0)[:, None] ** 2 + (torch.arange(8) - 3.0) ** 2) / 8)
    there = rotated(smooth, torch.tensor([30.0], dtype=F64))
    back = rotated(there, torch.tensor([-30.0], dtype=F64))
    assert (there - smooth)[0, 2:6, 2:6].abs().max() > 0.1
    assert (back - smooth)[0, 2:6, 2:6].abs().max() < 0.1


@every_setting
def test_parts_are_disjoint_and_cover_what_they_should(setting):
    drawn = draw(setting, angle=0)  # upright digits can be recognised
    pictures = {tuple(image.flatten().tolist()): place for place, image in enumerate(digits()[0])}
    places = {
        part: [{pictures[tuple(column.tolist())] for column in domain.mT} for domain in getattr(drawn, part)]
        for part in ("train", "validation", "test")
    }
    assert len(places["test"][0]) == int(0.25 * 1797)
    assert len(places["validation"][0]) == int(0.1 * 1797)
    assert not places["test"][0] & places["validation"][0]
    for domain in places["train"]:
        assert not domain & (places["test"][0] | places["validation"][0])
    if setting == "federated":
        assert not places["train"][0] & places["train"][1]
    else:
        assert len(places["train"][0]) == 1797 - int(0.25 * 1797) - int(0.1 * 1797)
    for part in ("train", "validation", "test"):
        for inputs, classes in zip(getattr(drawn, part), getattr(drawn, f"{part}_classes"), strict=True):
            expected = digits()[1][[pictures[tuple(column.tolist())] for column in inputs.mT]]
            assert torch.equal(classes.mT, expected)


def test_domains_are_turned_by_even_angles_and_single_digits_by_their_own():
    upright = draw("continual", angle=0, domains=2).test
    turned = draw("continual", angle=180, domains=2).test
    for domain, quarter in ((0, 1), (1, 2)):
        expected = np.rot90(upright[domain].mT.reshape(-1, 8, 8).numpy(), quarter, axes=(1, 2)).reshape(-1, 64)
        torch.testing.assert_close(turned[domain].mT, torch.tensor(expected.copy()))
    single, still = draw("single", angle=90), draw("single", angle=0)
    assert ((single.train - still.train).abs().amax(-2) > 0.01).double().mean() > 0.9


@every_setting
def test_a_seed_decides_the_draw_which_is_fast(setting):
    draw(setting)
    KEPT.clear()
    started = time.process_time()
    first = draw(setting, 4)
    assert time.process_time() - started < 2  # 0.2 s alone
    KEPT.clear()
    again, other = draw(setting, 4), draw(setting, 5)
    assert torch.equal(first.pretrained, again.pretrained)
    assert torch.equal(first.train, again.train)
    assert not torch.equal(first.pretrained, other.pretrained)


# The net


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_pretrained_net_knows_upright_digits_and_not_turned_ones(seed):
    upright, turned = draw("single", seed, angle=0), draw("single", seed)
    assert torch.equal(upright.pretrained, turned.pretrained)
    zero = FactoredMatrix((torch.zeros(2, 64, 64, dtype=F64),), upright.base)
    before, after = upright.measure(zero), turned.measure(zero)
    assert before["loss"] < 0.01  # an even guess costs 2.3
    assert before["accuracy"] > 0.95
    assert after["loss"] > 3
    assert after["accuracy"] < 0.5
    assert not upright.pretrained[1, 10:].any()


@every_setting
def test_the_loss_is_the_mean_over_samples_added_up_over_clients(setting):
    drawn, weight = draw(setting), 0.2 * gaussian(draw(setting).layers, 64, 64)
    losses = own_loss(drawn, weight)
    expected = losses.sum() if setting == "federated" else losses.mean()
    torch.testing.assert_close(drawn.loss(FactoredMatrix((weight,))), expected)
    torch.testing.assert_close(drawn.measure(FactoredMatrix((weight,)))["loss"], expected)
    if setting == "continual":
        torch.testing.assert_close(drawn.loss(FactoredMatrix((weight,)), torch.tensor([1])), losses[1])
        torch.testing.assert_close(drawn.measure(FactoredMatrix((weight,)))["forgetting"], losses[:-1].mean())
    if setting == "federated":
        torch.testing.assert_close(drawn.measure(FactoredMatrix((weight,)))["client_loss"], losses.mean())
        torch.testing.assert_close(drawn.measure(FactoredMatrix((weight,)))["worst_client_loss"], losses.max())


@pytest.mark.parametrize("batch_size", [0, 7])
@pytest.mark.parametrize("rank", [3, 40])  # through the pair, and through the update
@every_setting
def test_backpropagation_is_autograd(setting, rank, batch_size):
    alone = [draw(setting, seed, batch_size=batch_size) for seed in range(2)]
    drawn = type(alone[0]).stack(alone)
    batch = drawn.batch(Step(2, 6, generators=[seeded(seed) for seed in range(2)]))
    sizes = (2, 3, drawn.layers)
    for base in (drawn.base, 0.3 * gaussian(*sizes, 64, 64, seed=9)):
        leaves = 0.1 * gaussian(*sizes, 64, rank, seed=1), 0.1 * gaussian(*sizes, rank, 64, seed=2)
        leaves = tuple(leaf.requires_grad_() for leaf in leaves)
        weight = FactoredMatrix(leaves, base, 0.7)
        loss = drawn.loss(weight, batch)
        pulled = torch.autograd.grad(weight.parts, leaves, drawn.gradient(weight, batch), retain_graph=True)
        torch.testing.assert_close(pulled, torch.autograd.grad(loss.sum(), leaves, retain_graph=True))
    for seed, rate in ((0, 0), (1, 2)):
        columns = slice(None) if batch is None or batch.shape[-1] == 1 else batch[seed, 0, 1:]
        losses = own_loss(alone[seed], weight.dense()[seed, rate].detach(), columns)
        expected = {"single": losses.mean(), "federated": losses.sum(), "continual": losses[1 if setting == "continual" else 0]}
        torch.testing.assert_close(loss[seed, rate].detach(), expected[setting])


def test_accuracy_counts_the_test_digits_of_all_domains():
    drawn, weight = draw("continual"), 0.2 * gaussian(2, 64, 64)
    measured = drawn.measure(FactoredMatrix((weight,)))
    hits = []
    for domain in range(3):
        scores = (weight[1] @ torch.relu(weight[0] @ drawn.test[domain]))[:10]
        right = (scores.argmax(0) == drawn.test_classes[domain].argmax(0)).double()
        assert float(measured[f"task_{domain + 1}"]) == pytest.approx(float(1 - right.mean()))
        hits.append(right)
    assert float(measured["accuracy"]) == pytest.approx(float(torch.cat(hits).mean()))


def test_a_routed_stack_is_used_domain_by_domain():
    drawn, weights = draw("continual"), 0.2 * gaussian(2, 3, 64, 64)  # layers, domains
    measured = drawn.measure(Routed((weights,)))
    nearest = drawn.test_distances.argmin(-2)
    right = 0
    for domain in range(3):
        for column in range(0, drawn.test.shape[-1]):
            first, second = weights[:, nearest[domain, column]]
            score = (second @ torch.relu(first @ drawn.test[domain, :, column]))[:10]
            right += int(score.argmax() == drawn.test_classes[domain, :, column].argmax())
    assert float(measured["accuracy"]) == pytest.approx(right / nearest.numel())
    expected = (nearest == torch.arange(3)[:, None]).double().mean()
    torch.testing.assert_close(measured["routing_accuracy"], expected)


# Runs


def last(problem, method, optimizer=None, **options):
    options = {"lr": 0.01, "seeds": 2, "steps": 200} | options
    done = run(problem, method, optimizer or Adam(), probes="none", **options)
    assert done.lanes.status.eq("ok").all()
    return done.curves[done.curves.step == options["steps"]]


def test_lora_adapts_the_net_to_turned_digits():
    problem = RotatedDigits()
    before, after = last(problem, LoRA(rank=4), steps=1), last(problem, LoRA(rank=4), lr=0.02)
    assert (after.accuracy.to_numpy() > before.accuracy.to_numpy() + 0.15).all()
    assert (after.loss < 0.2 * before.loss.to_numpy()).all()


def test_in_turn_lora_forgets_the_domains_that_color_keeps():
    problem = RotatedDigits(setting="continual")
    lora, color = (last(problem, method, steps=400) for method in (LoRA(rank=4), CoLoR(rank=4)))
    assert (lora.task_4 < 0.2).all()
    assert (color.task_4 < 0.2).all()
    assert (lora.task_1 > 0.6).all()
    assert (color.task_1 < 0.25).all()
    assert (color.accuracy.to_numpy() > lora.accuracy.to_numpy() + 0.2).all()
    assert (color.routing_accuracy > 0.95).all()


def test_clients_with_angles_of_their_own_do_better_with_a_factor_of_their_own():
    problem = RotatedDigits(setting="federated")
    found = {share: last(problem, FedLoRA(rank=4, weights=2, share=share)) for share in ("both", "right", "left")}
    assert (found["right"].accuracy.to_numpy() > found["both"].accuracy.to_numpy() + 0.1).all()
    assert (found["both"].accuracy.to_numpy() > found["left"].accuracy.to_numpy() + 0.05).all()


@pytest.mark.parametrize("method", [Flora(rank=4, interval=0), Flora(rank=4, interval=10), LoRA(rank=4), Full()], ids=repr)
def test_the_methods_of_floras_pilot_study_lower_the_loss(method):
    # LoRA(B), which is random projection; resampled projection; LoRA; and SGD on the weights themselves
    before, after = (last(RotatedDigits(), method, SGD(), lr=0.03, steps=steps) for steps in (1, 150))
    assert (after.loss.to_numpy() < 0.8 * before.loss.to_numpy()).all()


@every_setting
def test_batches_train(setting):
    problem = RotatedDigits(setting=setting, domains=2, batch_size=32)
    assert last(problem, LoRA(rank=4), steps=60).loss.lt(last(problem, LoRA(rank=4), steps=2).loss.to_numpy()).all()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"angle": 181}, "angle"),
        ({"domains": 0}, "domains"),
        ({"clusters": 0}, "clusters"),
        ({"test": 0}, "test"),
        ({"test": 0.95}, "test"),
        ({"batch_size": 5000}, "batch_size"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        RotatedDigits(**options).draw(0)
