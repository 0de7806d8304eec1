import math

import pytest
import torch
from by_hand import gaussian, lowrank

from linalg import condition, effective_rank, numerical_rank, stable_rank, svdvals


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (5, 5)])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_singular_values_are_those_that_the_matrix_was_built_from(shape, leading):
    spectrum = values(4, 2, 1, 0.5, 0.25)
    matrix = lowrank(*shape, spectrum).expand(*leading, *shape)
    found = svdvals(matrix)
    assert found.shape == (*leading, min(shape))
    torch.testing.assert_close(found[..., :5], spectrum.expand(*leading, 5))


def test_singular_values_of_float32_are_found_in_float64():
    matrix = gaussian(6, 4).float()
    assert svdvals(matrix).dtype == torch.float64
    torch.testing.assert_close(svdvals(matrix), torch.linalg.svdvals(matrix.double()), rtol=1e-14, atol=0)


def test_singular_values_carry_no_graph():
    assert not svdvals(gaussian(3, 3).requires_grad_()).requires_grad


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_matrix_that_is_not_finite_has_nan_for_singular_values_and_its_neighbours_have_theirs(poison):
    matrices = gaussian(4, 5, 3)
    matrices[2, 0, 0] = poison
    found = svdvals(matrices)
    assert found[2].isnan().all()
    for lane in (0, 1, 3):
        torch.testing.assert_close(found[lane], torch.linalg.svdvals(matrices[lane]))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((8, 4, 2), 4), ((3, 3), 1), ((5,), 1), ((1, 1e-12), 1e12), ((1, 0), math.inf)],
)
def test_the_condition_is_the_first_value_over_the_last(numbers, expected):
    assert condition(values(*numbers)) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 5, 64])
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_k_equal_values_have_effective_and_stable_rank_k(k, size):
    spectrum = torch.cat([torch.full((k,), size), torch.zeros(7)]).double()
    assert effective_rank(spectrum) == pytest.approx(k)
    assert stable_rank(spectrum) == pytest.approx(k)
    assert numerical_rank(spectrum, (64, 71), torch.float64) == k


def test_the_effective_rank_of_three_to_one_is_four_over_three_to_the_three_quarters():
    assert effective_rank(values(3, 1)) == pytest.approx(4 / 3**0.75)


def test_the_effective_rank_of_a_geometric_spectrum_is_its_entropys_exponential():
    # shares 2^-i in the limit: entropy Σ i 2^-i log 2 = 2 log 2
    assert effective_rank(2.0 ** -torch.arange(1, 60).double()) == pytest.approx(4.0)


def test_the_stable_rank_weighs_by_energy():
    assert stable_rank(values(2, 1, 1)) == pytest.approx(1.5)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float64, 4), (torch.float32, 2)])
def test_the_numerical_rank_counts_what_the_precision_can_tell_from_zero(dtype, expected):
    spectrum = values(1, 1e-4, 1e-6, 1e-12, 1e-16)  # thresholds for 64 rows: 7.6e-6 and 1.4e-14
    assert numerical_rank(spectrum, (64, 5), dtype) == expected
    matrix = lowrank(64, 5, spectrum)
    assert numerical_rank(svdvals(matrix), (64, 5), torch.float64) == torch.linalg.matrix_rank(matrix)


def test_a_nan_lane_stays_nan_and_leaves_the_others_alone():
    spectra = torch.stack([values(2, 1), values(math.nan, math.nan), values(1, 1)])
    for measure, expected in [
        (condition, (2, 1)),
        (stable_rank, (1.25, 2)),
        (lambda v: numerical_rank(v, (2, 2), torch.float64), (2, 2)),
        (effective_rank, (3 / 2 ** (2 / 3), 2)),
    ]:
        found = measure(spectra)
        assert found[1].isnan()
        assert found[[0, 2]].tolist() == pytest.approx(expected)


def test_the_zero_matrix_has_numerical_rank_zero_and_no_other_rank():
    zero = values(0, 0)
    assert numerical_rank(zero, (2, 2), torch.float64) == 0
    assert condition(zero).isnan()
    assert effective_rank(zero).isnan()
    assert stable_rank(zero).isnan()
