"""Robust factorization against torch's losses, the counts asked for and the bias that theory gives."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import gaussian
from through_engine import reached

from linalg import FactoredMatrix, InputError
from problems import RobustFactorization

LOSSES = ("huber", "smoothed_l1")
every_loss = pytest.mark.parametrize("loss", LOSSES)


def draw(problem, seed=0):
    return problem.draw(seed, dtype=torch.float64)


def loss_of(instance, weight, loss):
    """The loss from its definition: Huber's as torch has it."""
    if loss == "huber":
        return torch.nn.functional.huber_loss(weight, instance.observed, reduction="sum", delta=instance.delta)
    residual = (weight - instance.observed) / instance.delta
    return instance.delta**2 * ((1 + residual.square()).sqrt() - 1).sum()


@every_loss
def test_the_loss_is_that_of_the_definition_in_any_leading_dimensions(loss):
    alone = [draw(RobustFactorization(shape=(7, 5), loss=loss), seed) for seed in range(2)]
    together, weights = type(alone[0]).stack(alone), 0.2 * gaussian(2, 3, 7, 5)
    expected = torch.stack([torch.stack([loss_of(alone[s], weights[s, k], loss) for k in range(3)]) for s in range(2)])
    torch.testing.assert_close(together.loss(FactoredMatrix((weights,))), expected)
    torch.testing.assert_close(together.measure(FactoredMatrix((weights,)))["loss"], expected)


@every_loss
def test_a_small_residual_has_the_squared_loss_and_a_large_one_a_slope_of_delta(loss):
    instance = draw(RobustFactorization(shape=(7, 5), loss=loss))
    direction = gaussian(7, 5, seed=1).sign()
    small, large = 1e-4 * instance.delta, 1e4 * instance.delta
    near, far = (float(instance.loss(FactoredMatrix((instance.observed + size * direction,)))) for size in (small, large))
    assert near == pytest.approx(0.5 * 35 * small**2, rel=1e-6)
    assert far == pytest.approx(35 * instance.delta * large, rel=1e-3)


@pytest.mark.parametrize("shape", [(24, 20), (20, 24)])
def test_exactly_the_fraction_of_entries_is_wrong_by_the_magnitude_asked_for(shape):
    instance = draw(RobustFactorization(shape=shape, rank=3, outliers=0.13, magnitude=7.0))
    errors = instance.observed - instance.hidden
    wrong = errors.abs() > 1e-12
    assert int(wrong.sum()) == int(0.13 * 480)
    rms = instance.hidden.square().mean().sqrt()
    torch.testing.assert_close(errors[wrong].abs(), (7 * rms).expand(62))
    assert abs(float(errors[wrong].sign().sum())) < 4 * math.sqrt(62)
    assert instance.delta == pytest.approx(0.1 * float(rms))
    np.testing.assert_allclose(np.linalg.svd(instance.hidden, compute_uv=False)[:4], [1, 1, 1, 0], atol=1e-14)


def test_noise_is_on_every_entry():
    instance = draw(RobustFactorization(noise=0.5, outliers=0.0))
    noise = instance.observed - instance.hidden
    ratio = float(noise.square().mean() / instance.hidden.square().mean())
    assert ratio == pytest.approx(0.25, rel=4 * math.sqrt(2 / noise.numel()))


@every_loss
def test_without_errors_the_loss_is_zero_at_the_truth_and_with_them_at_what_was_seen(loss):
    problem = RobustFactorization(shape=(9, 8), rank=2, loss=loss)
    clean, spoiled = draw(replace(problem, outliers=0.0)), draw(problem)
    assert float(clean.loss(FactoredMatrix((clean.hidden,)))) == 0
    assert [clean.best(rank) for rank in (1, 2, 8)] == [None, 0.0, 0.0]
    assert float(spoiled.loss(FactoredMatrix((spoiled.hidden,)))) > 0
    assert float(spoiled.loss(FactoredMatrix((spoiled.observed,)))) == 0
    assert [spoiled.best(rank) for rank in (1, 2, 8)] == [None, None, 0.0]
    assert float(spoiled.measure(FactoredMatrix((spoiled.hidden,)))["relative_error"]) == 0


def pull_of_outliers(delta, p, freedom, entries):
    """The relative error of a least squares fit on the other entries to a pull of ±delta root mean squares by a share p of all.

    Of tr[(QᵀDQ)⁻¹ - I](QᵀDQ)⁻¹, D the mask of the others and Q a basis of the tangent space: 1 + F and F for F = A⁻¹B, A and B
    Wishart matrices of (1 - p) and p of the entries; their moments are those of free variables.
    """
    f = freedom / entries
    q = 1 - p
    first, second = p / (q - f), q * p**2 / (q - f) ** 3 + p * f / (q - f) ** 2
    return delta * math.sqrt(f * (first + second))


@pytest.mark.parametrize("shape", [(48, 48), (60, 40), (40, 60)])
@every_loss
def test_a_tuned_lora_is_off_the_truth_by_the_pull_of_the_outliers_alone(loss, shape):
    problem = RobustFactorization(shape=shape, rank=3, delta=0.05, loss=loss)
    errors = reached(problem, 3)
    pull = pull_of_outliers(0.05, 0.1, 3 * (sum(shape) - 3), math.prod(shape))
    assert errors.median() == pytest.approx(pull, rel=0.15)
    assert (errors < 1.5 * pull).all()
    assert pull < 0.01


def test_the_squared_loss_is_off_by_the_outliers_themselves():
    problem = RobustFactorization(shape=(48, 48), rank=3, delta=1000.0)  # every residual is small
    freedom = 3 * 93 / 48**2
    assert float(reached(problem, 3).median()) > 10 * math.sqrt(0.1 * freedom)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"rank": 65}, "rank"),
        ({"condition": 0.5}, "condition"),
        ({"outliers": 1.5}, "outliers"),
        ({"delta": 0}, "delta"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        RobustFactorization(**options)
