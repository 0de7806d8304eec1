"""Tasks in time: measures and routing against loops and theory."""

import math

import pytest
import torch
from by_hand import gaussian, seeded

from linalg import FactoredMatrix, InputError
from parameterizations import Step
from parameterizations.color import Routed
from problems import Continual
from problems._routing import centroids, squared_distances

F64 = torch.float64


def draw(seed=0, **options):
    return Continual(**({"shape": (9, 6), "tasks": 3, "rank": 2} | options)).draw(seed, dtype=F64)


def task_loss(drawn, weight, task):
    return 0.5 * drawn.weight * (weight @ drawn.inputs[task] - drawn.outputs[task]).square().sum()


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_every_task_is_a_shift_of_its_own_rank_from_the_pretrained_weight(shape):
    drawn = draw(shape=shape)
    assert torch.linalg.matrix_norm(drawn.pretrained, 2) == pytest.approx(1)
    for task in range(3):
        fitted = torch.linalg.lstsq(drawn.inputs[task].mT, drawn.outputs[task].mT).solution.mT
        values = torch.linalg.svdvals(fitted - drawn.pretrained)
        torch.testing.assert_close(values, torch.tensor([1.0, 1, 0, 0, 0, 0], dtype=F64))
        torch.testing.assert_close(fitted @ drawn.test_inputs[task], drawn.test_outputs[task])
    assert torch.linalg.matrix_norm(drawn.inputs, 2).amax() == pytest.approx(1)


@pytest.mark.parametrize(("tasks", "steps"), [(3, 9), (4, 10), (1, 5), (5, 5)])
def test_tasks_come_in_order_with_equal_shares_of_the_run(tasks, steps):
    drawn = draw(tasks=tasks)
    order = [int(drawn.batch(Step(step, steps))[0]) for step in range(steps)]
    assert order == sorted(order)
    share = torch.bincount(torch.tensor(order), minlength=tasks)
    assert share.max() - share.min() <= 1
    assert int(drawn.batch(Step(steps, steps))[0]) == tasks - 1  # the last probe


def test_without_the_number_of_steps_there_is_no_order():
    with pytest.raises(InputError, match="steps="):
        draw().batch(Step(0))


@pytest.mark.parametrize("reduction", ["sum", "mean", "relative"])
def test_a_batch_is_one_task_and_everything_their_mean(reduction):
    drawn, weight = draw(reduction=reduction), gaussian(9, 6)
    losses = [task_loss(drawn, weight, task) for task in range(3)]
    for task in range(3):
        torch.testing.assert_close(drawn.loss(FactoredMatrix((weight,)), torch.tensor([task])), losses[task])
    torch.testing.assert_close(drawn.loss(FactoredMatrix((weight,))), sum(losses) / 3)
    torch.testing.assert_close(drawn.measure(FactoredMatrix((weight,)))["loss"], sum(losses) / 3)
    if reduction == "relative":
        start = FactoredMatrix((torch.zeros(9, 6, dtype=F64),), drawn.base)
        assert float(drawn.loss(start)) == pytest.approx(1)


def test_routed_weights_of_stacked_instances_are_measured_as_each_alone():
    alone = [draw(seed) for seed in range(2)]
    several = gaussian(2, 4, 2, 9, 6)
    together = type(alone[0]).stack(alone).measure(Routed((several,)))
    for seed in range(2):
        for rate in range(4):
            for name, value in alone[seed].measure(Routed((several[seed, rate],))).items():
                torch.testing.assert_close(together[name][seed, rate], value)


def test_forgetting_is_what_is_left_of_the_start_in_all_tasks_but_the_last():
    drawn, weight = draw(), gaussian(9, 6)
    measured = drawn.measure(FactoredMatrix((weight,)))
    left = [task_loss(drawn, weight, task) / task_loss(drawn, drawn.pretrained, task) for task in range(3)]
    for task in range(3):
        torch.testing.assert_close(measured[f"task_{task + 1}"], left[task])
    torch.testing.assert_close(measured["forgetting"], (left[0] + left[1]) / 2)
    untrained = drawn.measure(FactoredMatrix((drawn.pretrained,)))
    assert float(untrained["forgetting"]) == pytest.approx(1)


@pytest.mark.parametrize("seen", [1, 2, 3])
@pytest.mark.parametrize("clusters", [1, 4])
def test_a_routed_weight_gives_every_input_to_the_nearest_domain_seen(seen, clusters):
    problem = Continual(shape=(9, 6), tasks=3, rank=2, clusters=clusters, separation=2)
    drawn, weights = problem.draw(0, dtype=F64), gaussian(seen, 9, 6)
    losses, right = [], []
    for task in range(3):
        total = 0
        for sample in range(drawn.inputs.shape[-1]):
            nearest = min(range(seen), key=lambda domain: drawn.distances[task, domain, sample])
            residual = weights[nearest] @ drawn.inputs[task, :, sample] - drawn.outputs[task, :, sample]
            total += 0.5 * residual.square().sum()
        losses.append(total)
        if task < seen:
            right += [drawn.test_distances[task, :seen].argmin(0) == task]
    measured = drawn.measure(Routed((weights,)))
    torch.testing.assert_close(measured["loss"], sum(losses) / 3)
    torch.testing.assert_close(measured["routing_accuracy"], torch.cat(right).double().mean())


def test_the_distances_are_those_of_the_domains_mean_inputs():
    drawn = draw(separation=3)
    for task in range(3):
        for domain in range(3):
            centre = drawn.inputs[domain].mean(-1, keepdim=True)
            expected = (drawn.test_inputs[task] - centre).square().sum(0)
            torch.testing.assert_close(drawn.test_distances[task, domain], expected)


@pytest.mark.parametrize("separation", [1.0, 2.0, 4.0])
def test_two_domains_are_told_apart_as_often_as_theory_says(separation):
    # equal spherical Gaussians at that distance: the nearest mean is wrong with probability Φ(-separation / 2)
    count = 20_000
    drawn = Continual(shape=(2, 6), tasks=2, rank=1, separation=separation, samples=count).draw(0, dtype=F64)
    accuracy = float(drawn.measure(Routed((torch.zeros(2, 2, 6, dtype=F64),)))["routing_accuracy"])
    expected = 0.5 * (1 + math.erf(separation / 2 / 2**0.5))
    assert abs(accuracy - expected) < 4 * math.sqrt(expected * (1 - expected) / (2 * count))


def test_k_means_ends_at_means_of_what_is_nearest_to_them():
    samples = torch.cat([gaussian(2, 50, seed=i) * 0.1 + 3 * gaussian(2, 1, seed=10 + i) for i in range(3)], -1)
    centres = centroids(samples, 3, seeded())
    member = squared_distances(centres, samples).argmin(0)
    for cluster in range(3):
        torch.testing.assert_close(centres[:, cluster], samples[:, member == cluster].mean(-1))
    assert torch.equal(centroids(samples[:, :2], 5, seeded()).sort(-1).values, samples[:, :2].sort(-1).values)
    assert centroids(samples[:, :1].expand(2, 9), 4, seeded()).shape == (2, 1)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"tasks": 0}, "tasks"), ({"rank": 7}, "rank"), ({"clusters": 0}, "clusters")],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        draw(**options)
