import math

import pytest
import torch
from by_hand import seeded

from linalg import gaussian, generator, orthogonal, uniform, with_spectrum

SHAPES = [(7, 4), (4, 7), (5, 5), (6, 1), (1, 6), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_is_orthonormal_on_its_smaller_side(shape):
    q = orthogonal(*shape, seeded())
    gram = q.mT @ q if shape[0] >= shape[1] else q @ q.mT
    assert q.shape == shape
    torch.testing.assert_close(gram, torch.eye(min(shape)).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_is_the_factor_of_a_qr_with_a_positive_diagonal(shape):
    tall = (max(shape), min(shape))
    q = orthogonal(*shape, seeded(3))
    q = q if shape[0] >= shape[1] else q.mT
    triangle = q.mT @ gaussian(*tall, generator=seeded(3))
    assert (triangle.diagonal() > 0).all()
    torch.testing.assert_close(triangle.tril(-1), torch.zeros(tall[1], tall[1]).double(), rtol=0, atol=1e-13)


def test_haar_entries_have_mean_zero_and_variance_one_over_n():
    source, n, draws = seeded(), 4, 2000
    corners = torch.stack([orthogonal(n, n, source) for _ in range(draws)])
    error = math.sqrt(1 / n / draws)
    assert corners.mean(0).abs().max() < 5 * error
    assert corners.square().mean(0).sub(1 / n).abs().max() < 5 * error


@pytest.mark.parametrize(("m", "n"), [(8, 5), (5, 8), (5, 5)])
def test_with_spectrum_has_the_spectrum(m, n):
    values = torch.tensor([5.0, 1.0, 1e-3])
    found = torch.linalg.svdvals(with_spectrum(m, n, values, seeded()))
    torch.testing.assert_close(found, torch.tensor([5.0, 1.0, 1e-3, 0.0, 0.0]).double(), rtol=1e-6, atol=1e-14)


def test_with_spectrum_keeps_every_digit_of_float64_values():
    values = torch.tensor([1.0, 0.1], dtype=torch.float64)
    found = torch.linalg.svdvals(with_spectrum(4, 3, values, seeded()))
    assert abs(found[1] - 0.1) < 1e-15


def test_with_spectrum_turns_left_and_right_independently():
    matrix = with_spectrum(6, 6, torch.ones(1), seeded())
    assert not torch.allclose(matrix, matrix.mT)


def test_a_stream_is_reproducible_from_its_seed_and_name():
    assert torch.equal(gaussian(50, generator=generator(4, "noise")), gaussian(50, generator=generator(4, "noise")))


@pytest.mark.parametrize(
    ("first", "second"), [((0, "a"), (1, "a")), ((0, "a"), (0, "b")), ((1, "1/x"), (11, "/x")), ((1, "2"), (12, ""))]
)
def test_streams_of_other_seeds_and_names_are_uncorrelated(first, second):
    count = 20_000
    x, y = (gaussian(count, generator=generator(*key)) for key in (first, second))
    assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 4 / math.sqrt(count)


def test_drawing_more_from_one_stream_never_moves_another():
    alone = gaussian(5, generator=generator(0, "b"))
    first, second = generator(0, "a"), generator(0, "b")
    gaussian(1000, generator=first)
    assert torch.equal(gaussian(5, generator=second), alone)


def test_a_generator_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    orthogonal(5, 4, generator(0, "a"))
    uniform(5, 4, generator=generator(0, "a"))
    assert torch.equal(torch.get_rng_state(), before)


def test_gaussian_and_uniform_have_the_moments_of_their_laws():
    count = 100_000
    normal, flat = gaussian(count, generator=seeded()), uniform(count, bound=0.3, generator=seeded())
    assert normal.dtype == flat.dtype == torch.float64
    assert abs(float(normal.mean())) < 4 / math.sqrt(count)
    assert float(normal.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / count))
    assert abs(float(flat.mean())) < 4 * 0.3 / math.sqrt(3 * count)
    assert float(flat.var()) == pytest.approx(0.3**2 / 3, rel=0.02)
    assert 0.299 < float(flat.abs().max()) <= 0.3
    assert float(flat.min()) < -0.299
