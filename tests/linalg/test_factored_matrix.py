from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import torch
from by_hand import gaussian, lowrank
from hypothesis import given, settings
from hypothesis import strategies as st

from linalg import FactoredMatrix, InputError, condition, numerical_rank

CHAINS = {
    "one tall factor": (7, 4),
    "one wide factor": (4, 7),
    "thin": (40, 2, 30),
    "square and thin": (24, 3, 24),
    "thick": (5, 9, 4),
    "as wide as the matrix": (6, 6, 6),
    "three factors, narrow first": (9, 2, 5, 8),
    "three factors, narrow last": (9, 5, 2, 8),
    "five factors": (30, 6, 3, 4, 5, 28),
    "a row": (1, 1, 6),
    "a column": (6, 1, 1),
}
LEADING = [(), (3,), (2, 3)]


def chain(widths, leading=(), seed=0):
    return tuple(gaussian(*leading, p, q, seed=seed + i) for i, (p, q) in enumerate(pairwise(widths)))


def product(factors, scale=1.0):
    return scale * reduce(np.matmul, [factor.numpy() for factor in factors])


def assert_all_forms_agree(weight, expected_update, base, x):
    expected = torch.as_tensor(expected_update)
    left, right = weight.pair()
    parts = weight.parts
    torch.testing.assert_close(left @ right, expected)
    torch.testing.assert_close(weight.update(), expected)
    torch.testing.assert_close(parts[0] if len(parts) == 1 else parts[0] @ parts[1], expected)
    dense = expected if base is None else base + expected
    torch.testing.assert_close(weight.dense(), dense)
    torch.testing.assert_close(weight.apply(x), x @ dense.mT)
    values = np.linalg.svd(expected.numpy(), compute_uv=False)
    torch.testing.assert_close(weight.svdvals("update"), torch.as_tensor(values[..., : weight.rank].copy()), rtol=1e-7, atol=1e-10)
    assert np.all(values[..., weight.rank :] < 1e-10 * values[..., :1])
    values = np.linalg.svd(dense.numpy(), compute_uv=False)
    kept = weight.rank if base is None else min(weight.shape)
    torch.testing.assert_close(weight.svdvals(), torch.as_tensor(values[..., :kept].copy()), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("widths", CHAINS.values(), ids=CHAINS)
def test_every_form_of_a_chain_is_the_same_matrix(widths, leading, has_base, scale):
    factors, (m, n) = chain(widths, leading), (widths[0], widths[-1])
    base = gaussian(*leading, m, n, seed=50) if has_base else None
    weight = FactoredMatrix(factors, base, scale)
    assert weight.shape == (m, n)
    assert_all_forms_agree(weight, product(factors, scale), base, gaussian(*leading, 5, n, seed=60))


@given(
    widths=st.lists(st.integers(1, 7), min_size=2, max_size=6),
    leading=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    has_base=st.booleans(),
    scale=st.sampled_from([1.0, -2.0, 0.1]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_chain_is_one_matrix_in_every_form(widths, leading, has_base, scale):
    factors, (m, n) = chain(widths, leading), (widths[0], widths[-1])
    base = gaussian(*leading, m, n, seed=50) if has_base else None
    assert_all_forms_agree(FactoredMatrix(factors, base, scale), product(factors, scale), base, gaussian(*leading, 3, n, seed=60))


def test_leading_dimensions_broadcast_over_seeds_and_rates():
    left, right, base = gaussian(3, 4, 9, 2), gaussian(3, 1, 2, 7, seed=1), gaussian(3, 1, 9, 7, seed=2)
    weight = FactoredMatrix((left, right), base)
    expected = torch.einsum("skmr,sarn->skmn", left, right)
    torch.testing.assert_close(weight.update(), expected)
    torch.testing.assert_close(weight.dense(), expected + base)
    x = gaussian(3, 4, 5, 7, seed=3)
    torch.testing.assert_close(weight.apply(x), torch.einsum("skbn,skmn->skbm", x, expected + base))
    assert weight.svdvals().shape == (3, 4, 7)
    assert weight.svdvals("update").shape == (3, 4, 2)


@pytest.mark.parametrize("widths", CHAINS.values(), ids=CHAINS)
def test_the_pair_is_cut_at_the_narrowest_place(widths):
    weight = FactoredMatrix(chain(widths))
    left, right = weight.pair()
    inner = min(widths[1:-1], default=min(widths[0], widths[-1]))
    assert left.shape == (widths[0], inner)
    assert right.shape == (inner, widths[-1])
    assert weight.rank == min(widths)


@pytest.mark.parametrize("widths", CHAINS.values(), ids=CHAINS)
def test_the_rank_is_what_a_random_chain_reaches(widths):
    weight = FactoredMatrix(chain(widths))
    values = torch.linalg.svdvals(weight.update())
    assert numerical_rank(values, weight.shape, torch.float64) == weight.rank


def test_a_gradient_through_the_parts_reaches_every_factor():
    for widths in [(40, 2, 2, 30), (5, 9, 4), (6, 3)]:
        factors = [factor.requires_grad_() for factor in chain(widths)]
        target = gaussian(widths[0], widths[-1], seed=9)
        weight = FactoredMatrix(tuple(factors), scale=0.5)
        update = weight.parts[0] if len(weight.parts) == 1 else weight.parts[0] @ weight.parts[1]
        through_parts = torch.autograd.grad((update * target).sum(), factors)
        written_out = torch.autograd.grad((0.5 * reduce(torch.matmul, factors) * target).sum(), factors)
        torch.testing.assert_close(through_parts, written_out)


def test_a_thin_chain_is_differentiated_through_its_pair_and_a_thick_one_through_the_update():
    assert len(FactoredMatrix(chain((40, 2, 30))).parts) == 2
    assert len(FactoredMatrix(chain((8, 6, 8))).parts) == 1
    assert len(FactoredMatrix(chain((40, 30))).parts) == 1


def pair_of_spectrum(m, n, values, arrangement):
    """Factors of lowrank(m, n, values): the spectrum shared, or all on one side, behind a rotation that hides it."""
    left = torch.linalg.qr(gaussian(m, len(values), seed=1)).Q
    right = torch.linalg.qr(gaussian(n, len(values), seed=2)).Q.mT
    turn = torch.linalg.qr(gaussian(len(values), len(values), seed=3)).Q
    power = {"shared": 0.5, "all on the left": 1.0, "all on the right": 0.0}[arrangement]
    return left * values**power @ turn, turn.mT @ (values ** (1 - power))[:, None].mul(right)


@pytest.mark.parametrize("arrangement", ["shared", "all on the left", "all on the right"])
@pytest.mark.parametrize("shape", [(60, 60), (90, 20), (20, 90)])
@pytest.mark.parametrize(
    ("kappa", "dtype", "tolerance"),
    [(1e6, torch.float64, 1e-6), (1e10, torch.float64, 1e-3), (1e5, torch.float32, 1e-2)],
)
def test_condition_numbers_of_a_pair_survive_where_gram_matrices_fail(kappa, dtype, tolerance, shape, arrangement):
    values = torch.logspace(0, -1, 8, base=kappa, dtype=torch.float64)
    left, right = pair_of_spectrum(*shape, values, arrangement)
    found = FactoredMatrix((left.to(dtype), right.to(dtype))).svdvals()
    dense = torch.linalg.svdvals(left @ right)[:8]
    assert found.dtype == torch.float64
    assert condition(found) == pytest.approx(kappa, rel=tolerance)
    assert condition(found) == pytest.approx(float(dense[0] / dense[-1]), rel=tolerance)
    torch.testing.assert_close(found, values, rtol=tolerance, atol=0)


def test_the_spectrum_of_float32_factors_is_that_of_the_numbers_they_hold():
    left, right = (part.float() for part in pair_of_spectrum(60, 50, torch.logspace(0, -5, 8, dtype=torch.float64), "shared"))
    exact = torch.linalg.svdvals(left.double() @ right.double())[:8]
    torch.testing.assert_close(FactoredMatrix((left, right)).svdvals(), exact, rtol=1e-9, atol=0)


def test_condition_numbers_of_a_long_chain_are_those_of_its_product():
    values = torch.logspace(0, -6, 6, dtype=torch.float64)
    third = torch.diag(values ** (1 / 3))
    turns = [torch.linalg.qr(gaussian(6, 6, seed=seed)).Q for seed in range(2)]
    left, right = torch.linalg.qr(gaussian(40, 6, seed=5)).Q, torch.linalg.qr(gaussian(30, 6, seed=6)).Q
    chain_of_three = (left @ third @ turns[0], turns[0].mT @ third @ turns[1], turns[1].mT @ third @ right.mT)
    torch.testing.assert_close(FactoredMatrix(chain_of_three).svdvals(), values, rtol=1e-6, atol=0)


def test_a_base_enters_the_weights_spectrum_and_not_the_updates():
    values = torch.tensor([3.0, 2.0], dtype=torch.float64)
    update = FactoredMatrix(pair_of_spectrum(9, 6, values, "shared"), torch.zeros(9, 6, dtype=torch.float64))
    torch.testing.assert_close(update.svdvals("update"), values)
    torch.testing.assert_close(update.svdvals()[:2], values)
    base = lowrank(9, 6, torch.ones(6), seed=4)
    only_base = FactoredMatrix((torch.zeros(9, 2).double(), torch.zeros(2, 6).double()), base)
    torch.testing.assert_close(only_base.svdvals(), torch.ones(6).double())
    torch.testing.assert_close(only_base.svdvals("update"), torch.zeros(2).double())


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("widths", [(30, 2, 20), (4, 6, 5), (6, 4), (9, 3, 4, 8)])
@pytest.mark.parametrize("of", ["weight", "update"])
@pytest.mark.parametrize("has_base", [False, True])
def test_a_lane_that_is_not_finite_does_not_spoil_its_neighbours(widths, of, has_base, poison):
    factors = chain(widths, (2, 3))
    base = gaussian(2, 3, widths[0], widths[-1], seed=7) if has_base else None
    alone = FactoredMatrix(factors, base).svdvals(of)
    factors[0][1, 1, 0, 0] = poison
    found = FactoredMatrix(factors, base).svdvals(of)
    assert found[1, 1].isnan().all()
    healthy = torch.ones(2, 3, dtype=torch.bool)
    healthy[1, 1] = False
    torch.testing.assert_close(found[healthy], alone[healthy])


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: FactoredMatrix(()), "factors"),
        (lambda: FactoredMatrix((torch.ones(3, 2), torch.ones(3, 2))), r"\(3, 2\)"),
        (lambda: FactoredMatrix((torch.ones(3, 2),), torch.ones(2, 3)), "base"),
        (lambda: FactoredMatrix((torch.ones(3, 2),)).svdvals("base"), "of='base'"),
    ],
)
def test_matrices_that_do_not_fit_are_refused_by_name(build, named):
    with pytest.raises(InputError, match=named):
        build()


def test_the_repr_shows_the_chain():
    text = repr(FactoredMatrix((torch.ones(4, 5, 2), torch.ones(4, 2, 3)), torch.ones(5, 3)))
    assert "base" in text
    assert "5x2 @ 2x3" in text
    assert "(4,)" in text
