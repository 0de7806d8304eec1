"""Matrix sensing against its definition, its expectation and what is known to be recovered."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import gaussian
from through_engine import reached

from linalg import FactoredMatrix, InputError
from problems import MatrixSensing

PROBLEMS = {
    "gaussian, tall": MatrixSensing(shape=(24, 20), noise=0.2),
    "gaussian, wide": MatrixSensing(shape=(20, 24), reduction="relative"),
    "rank one, tall": MatrixSensing(shape=(24, 20), sensing="rank_one", reduction="mean"),
    "rank one, wide": MatrixSensing(shape=(20, 24), sensing="rank_one", noise=0.2),
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
KINDS = ("gaussian", "rank_one")


def draw(problem, seed=0):
    return problem.draw(seed, dtype=torch.float64)


def matrices(instance):
    """(N + N', m, n) the A_k, written out."""
    if instance.sensing is not None:
        return instance.sensing.view(-1, *instance.shape)
    return torch.einsum("ki,kj->kij", instance.left_vectors, instance.right_vectors)


def half_mean_square(instance, weight):
    """½ Σ (⟨A_k, W⟩ - y_k)² / N over the training measurements."""
    residual = torch.einsum("kij,...ij->...k", matrices(instance), weight) - instance.values
    return 0.5 * residual[..., : instance.training].square().mean(-1)


@every_problem
def test_the_loss_is_the_half_mean_square_scaled_as_asked(problem):
    instance, weight = draw(problem), gaussian(3, *problem.shape)
    energy = instance.values[: instance.training].square().mean()
    factor = {"sum": 1.0, "mean": 2.0, "relative": 2 / energy}[problem.reduction]
    torch.testing.assert_close(instance.loss(FactoredMatrix((weight,))), factor * half_mean_square(instance, weight))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_half_the_squared_distance_in_the_mean(kind):
    instance = draw(MatrixSensing(shape=(6, 5), sensing=kind, samples=40_000))
    weight = gaussian(6, 5, seed=3)
    distance = (weight - instance.hidden).square().sum()
    loss = float(instance.loss(FactoredMatrix((weight,))) / (0.5 * distance))
    deviation = math.sqrt((2 if kind == "gaussian" else 8) / 40_000)  # ⟨A, D⟩⁴ has the mean 3 ‖D‖⁴, or at most 9 ‖D‖⁴
    assert loss == pytest.approx(1, abs=4 * deviation)
    measures = instance.measure(FactoredMatrix((weight,)))
    assert float(measures["test_rmse"]) == pytest.approx(float(distance.sqrt()))
    assert float(measures["validation_rmse"] / measures["test_rmse"]) == pytest.approx(1, abs=2 * deviation * math.sqrt(10))


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_the_loss_is_zero_at_the_truth_and_with_it_half_its_variance(kind):
    problem = MatrixSensing(shape=(12, 9), sensing=kind)
    clean = draw(problem)
    assert float(clean.loss(FactoredMatrix((clean.hidden,)))) < 1e-28
    noisy = draw(replace(problem, samples=5000, noise=0.3))
    expected = 0.5 * 0.3**2 * float(noisy.hidden.square().sum())
    assert float(noisy.loss(FactoredMatrix((noisy.hidden,)))) == pytest.approx(expected, rel=4 * math.sqrt(2 / 5000))
    assert float(noisy.measure(FactoredMatrix((noisy.hidden,)))["validation_rmse"]) < 1e-14


def test_the_truth_has_the_spectrum_asked_for():
    values = np.linalg.svd(draw(MatrixSensing(rank=3, condition=10)).truth, compute_uv=False)
    np.testing.assert_allclose(values[:4], [1, 0.55, 0.1, 0], atol=1e-14)


def test_a_rank_one_measurement_takes_its_two_vectors_and_no_matrix():
    instance = draw(MatrixSensing(shape=(40, 30), sensing="rank_one", samples=100, validation=0.2))
    assert instance.sensing is None
    assert instance.left_vectors.shape == (120, 40)
    assert instance.right_vectors.shape == (120, 30)
    assert instance.training == 100


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_is_zero_where_theory_says_so(kind):
    clean = draw(MatrixSensing(shape=(6, 5), rank=2, sensing=kind, samples=25))
    assert [clean.best(rank) for rank in (1, 2, 5)] == [None, 0.0, 0.0]
    noisy = draw(MatrixSensing(shape=(6, 5), rank=2, sensing=kind, samples=25, noise=0.1))
    assert [noisy.best(rank) for rank in (1, 2, 5)] == [None, None, 0.0]
    rows = matrices(noisy)[:25].flatten(1)
    weight = torch.linalg.lstsq(rows, noisy.values[:25]).solution.view(6, 5)
    assert float(noisy.loss(FactoredMatrix((weight,)))) < 1e-20
    assert draw(MatrixSensing(shape=(6, 5), rank=2, sensing=kind, samples=40, noise=0.1)).best(5) is None


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("shape", [(20, 28), (28, 20)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tuned_lora_recovers_the_matrix(kind, shape, rank):
    errors = reached(MatrixSensing(shape=shape, sensing=kind), rank)
    assert (errors < (1e-4 if rank == 2 else 1e-2)).all()


def test_noise_leaves_the_error_of_least_squares_on_the_tangent_space():
    problem = MatrixSensing(noise=0.1)
    freedom = problem.rank * (sum(problem.shape) - problem.rank)
    errors = reached(problem, 2)  # E‖error‖² = variance · freedom / (N - freedom), as of a Gaussian regression
    assert float(errors.median()) == pytest.approx(0.1 * math.sqrt(1 / (5 - 1)), rel=0.2)
    assert freedom == 92


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"rank": 25}, "rank"),
        ({"condition": 0.5}, "condition"),
        ({"validation": 0}, "validation"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        MatrixSensing(**options)
