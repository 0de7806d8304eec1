"""Every problem that lives in a model passes these by being in the folder; skipped where its package is not installed."""

import math
from functools import cache
from importlib.util import find_spec
from unittest.mock import Mock

import pytest
import torch
from catalogue import members

import problems
from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.model_runs import run_lanes
from bench.stacked import Stack, joined, mixed
from linalg import InputError
from linalg.random import generator
from optimizers import Adam
from parameterizations import LoRA
from problems import FewShotText, FineTuning, ImageStyle
from problems._task import by_lane, in_order

pytest.importorskip("transformers")
FOUND = {name: cls for name, (cls,) in members(problems, problems.Problem).items() if issubclass(cls, FineTuning)}
SMALL = {
    "few_shot_text": {"examples": 6, "validation": 5, "test": 7, "length": 12, "batch_size": 4},
    "causal_lm": {"examples": 5, "validation": 4, "test": 4, "length": 12, "layers": 1, "batch_size": 2},
    "image_style": {"examples": 6, "samples": 2, "sampling_steps": 2, "batch_size": 3},
    "image_classification": {"examples": 12, "validation": 8, "test": 8, "batch_size": 5},
    "summarization": {"examples": 6, "validation": 4, "test": 4, "batch_size": 3},
}
KNOWS = ("image_style", "image_classification")  # a head of chance tells nothing of what the features are worth


@cache
def drawn(name, seed=0, **options):
    try:
        task = FOUND[name](**SMALL[name] | options).draw(seed)
        task.model()
    except InputError as error:
        if "needs the package" in str(error):
            pytest.skip(str(error))
        raise
    return task


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def headline_of(task, model):
    try:
        with torch.no_grad():
            return task.test(model.eval())
    except InputError as error:
        if "needs the package" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("name", FOUND)
def test_a_seed_is_the_same_task_and_another_is_not(name):
    first, other = drawn(name), drawn(name, seed=1)
    again = FOUND[name](**SMALL[name]).draw(0)
    for step in (0, 3):
        assert same(first.batch(step), again.batch(step))
        assert not same(first.batch(step), other.batch(step)) or first.batch(step).keys() != other.batch(step).keys()
    sizes = {len(tensor) for tensor in first.batch(0).values()}
    assert sizes == {SMALL[name]["batch_size"]}
    weights = [dict(task.model().named_parameters()) for task in (first, again)]
    assert same(*weights)


@pytest.mark.parametrize("name", FOUND)
def test_lanes_in_one_batch_have_the_losses_that_they_have_alone(name):
    task = drawn(name)
    model, batches = task.model().double().eval(), [task.batch(0), task.batch(1)]
    with torch.no_grad():
        together = task.losses(model, joined(batches, task.padding), 2)
        alone = torch.cat([task.losses(model, batch) for batch in batches])
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-10)
    assert (alone[0] - alone[1]).abs() > 1e-3


@pytest.mark.parametrize("name", FOUND)
def test_measures_hold_what_rates_are_chosen_by_and_tests_the_headline(name):
    task = drawn(name)
    model = task.model().eval()
    with torch.no_grad():
        found = task.measure(model)
    assert {"loss", task.selection} <= found.keys()
    assert task.headline not in found
    assert all(math.isfinite(value) for value in found.values())
    assert math.isfinite(headline_of(task, model)[task.headline])


@pytest.mark.parametrize("name", FOUND)
def test_steps_move_adapters_and_heads_alone_and_lower_the_loss(name):
    task = drawn(name)
    lane = Lane(task, LoRA(rank=2), Adam(), 0, 3e-3, Settings(6, tuning=True))  # without tests, which ask for more packages
    frozen = {key: tensor.clone() for key, tensor in lane.model.named_parameters() if not tensor.requires_grad}
    before = lane.measure()["loss"]
    for _ in range(6):
        lane.advance()
    after = dict(lane.model.named_parameters())
    assert all(torch.equal(tensor, after[key]) for key, tensor in frozen.items())
    assert lane.measure()["loss"] < before


@pytest.mark.parametrize("name", FOUND)
def test_lanes_of_every_task_share_a_base(name):
    settings = Settings(4, dtype=torch.float64, tuning=True)
    lanes = [(drawn(name, seed), seed, rate) for seed, rate in ((0, 1e-3), (1, 3e-3))]
    stack = Stack(lanes, LoRA(rank=2), Adam(), settings)
    alone = [Lane(task, LoRA(rank=2), Adam(), seed, rate, settings) for task, seed, rate in lanes]
    assert mixed(alone[0]) is None
    for _ in range(3):
        assert stack.advance() == pytest.approx([lane.advance()[0] for lane in alone], rel=1e-8)
    for i, lane in enumerate(alone):
        assert stack.measure(i)["validation_loss"] == pytest.approx(lane.measure()["validation_loss"], rel=1e-8)


def test_lanes_whose_random_weights_differ_do_not_share_a_base():
    lanes = [(drawn("image_classification", seed, weights="random"), seed, 1e-3) for seed in (0, 1)]
    with pytest.raises(InputError, match=r"cannot share a base: .* is another for every seed"):
        Stack(lanes, LoRA(rank=2), Adam(), Settings(4))


@pytest.mark.parametrize("name", KNOWS)
def test_a_pretrained_model_starts_lower_than_a_random_one(name):
    losses = {}
    for weights in ("pretrained", "random"):
        task = drawn(name, weights=weights)
        with torch.no_grad():
            losses[weights] = task.measure(task.model().eval())["validation_loss"]
    assert losses["pretrained"] < losses["random"]


@pytest.mark.parametrize("name", FOUND)
def test_bad_options_get_one_line_that_names_them(name):
    for options in ({"examples": 0}, {"batch_size": 0}, {"weights": "learned"}, {"evaluations": 0}, {"targets": []}):
        key = next(iter(options))
        with pytest.raises(InputError, match=key) as caught:
            FOUND[name](**SMALL[name] | options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FOUND)
def test_too_many_examples_are_refused_with_how_many_there_are(name):
    drawn(name)
    with pytest.raises(InputError, match=r"examples=1000000.*at most \d+"):
        FOUND[name](**SMALL[name] | {"examples": 10**6}).draw(0)


def test_epochs_of_chance_follow_each_other_without_gaps():
    rows = torch.cat([in_order(5, 3, step, lambda name: generator(0, name)) for step in range(10)])
    assert [sorted(epoch.tolist()) for epoch in rows.split(5)] == [list(range(5))] * 6
    assert len({tuple(epoch.tolist()) for epoch in rows.split(5)}) > 1


def test_means_by_lane_leave_out_what_has_no_weight():
    values = torch.tensor([[1.0, 9.0], [3.0, 9.0], [5.0, 7.0], [9.0, 9.0]])
    weights = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]])
    assert by_lane(values, 2, weights).tolist() == [2.0, 6.0]
    assert by_lane(values, 2).tolist() == [5.5, 7.5]


def test_a_style_and_a_task_that_nobody_knows_are_refused():
    with pytest.raises(InputError, match="data='cursive': must be one of regular, thin, light, fill, bold"):
        ImageStyle(data="cursive")
    with pytest.raises(InputError, match="data='poems': must be reviews, or one of GLUE"):
        FewShotText(data="poems")


def test_what_only_a_test_needs_is_missed_before_a_rate_is_chosen(monkeypatch):
    monkeypatch.setattr("problems._packages.find_spec", lambda name: None if name.startswith("efficientnet") else find_spec(name))
    advance = Mock()
    with pytest.raises(InputError, match=r"needs the package efficientnet-lite-pytorch .*--no-deps"):
        run_lanes(ImageStyle(), LoRA(rank=2), Adam(), seeds=[0], rates=[1e-3], settings=Settings(2, tuning=True), progress=advance)
    advance.assert_not_called()
