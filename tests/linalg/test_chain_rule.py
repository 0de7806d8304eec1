"""The recorded chain rule against autograd, for every chain that the parameterizations use and more."""

from itertools import pairwise

import pytest
import torch

from linalg import ChainRule, FactoredMatrix, Program

F64 = torch.float64
CHAINS = {  # widths p_1, ..., p_k+1
    "one": (6, 5),
    "thin": (30, 3, 40),
    "thin_tall": (60, 2, 20),
    "thick": (6, 5, 7),
    "deep": (6, 6, 6, 6),
    "deep_wide": (5, 5, 5, 9),
    "compressed": (40, 4, 4, 4, 4, 40),
    "bent": (30, 6, 3, 5, 40),
    "cut_left": (40, 3, 5, 40),
    "cut_right": (40, 5, 3, 40),
}


def chain(widths, lead=(2, 3), transposed=()):
    drawn = []
    for i, (rows, columns) in enumerate(pairwise(widths)):
        generator = torch.Generator().manual_seed(i)
        shape = (columns, rows) if i in transposed else (rows, columns)
        factor = torch.randn(*lead, *shape, generator=generator, dtype=F64)
        drawn.append(factor.mT if i in transposed else factor)
    return drawn


def loss_of(weight, target):
    """A loss that is not quadratic, so that an error in the parts cannot cancel."""
    return ((weight - target).square().sum() + 0.1 * (weight - target).pow(3).sum()) / 2


def recorded(factors, scale, target, wanted):
    """dL/dfactor by the recorded chain rule, given dL/dpart from autograd at the recorded parts."""
    places = [torch.empty_like(factor) if want else None for factor, want in zip(factors, wanted, strict=True)]
    program = Program()
    rule = ChainRule(FactoredMatrix(tuple(factors), None, scale), program, places)

    def gradient_of_parts():
        leaves = [part.detach().clone().requires_grad_() for part in rule.parts]
        weight = leaves[0] if len(leaves) == 1 else leaves[0] @ leaves[1]
        for place, gradient in zip(rule.part_cotangents, torch.autograd.grad(loss_of(weight, target), leaves), strict=True):
            if place is not None:
                place.copy_(gradient)

    program.do(gradient_of_parts)
    rule.pull_back()
    return program, places


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("transposed", [(), (0,), (1, 2)])
def test_every_factors_gradient_is_autograds(name, scale, transposed):
    widths = CHAINS[name]
    factors = chain(widths, transposed=transposed)
    target = torch.randn(2, 1, widths[0], widths[-1], dtype=F64, generator=torch.Generator().manual_seed(99))
    program, places = recorded(factors, scale, target, [True] * len(factors))
    for _ in range(2):  # the second time from other factors in the same memory
        program()
        leaves = [factor.detach().clone().requires_grad_() for factor in factors]
        expected = torch.autograd.grad(loss_of(FactoredMatrix(tuple(leaves), None, scale).dense(), target), leaves)
        for place, gradient in zip(places, expected, strict=True):
            torch.testing.assert_close(place, gradient, rtol=1e-9, atol=1e-9)
        for factor in factors:
            factor.mul_(0.7).add_(0.1)


@pytest.mark.parametrize("name", ["thin", "thick", "deep", "compressed", "bent"])
def test_factors_that_are_not_wanted_get_nothing_and_change_nothing(name):
    widths = CHAINS[name]
    factors = chain(widths)
    target = torch.randn(2, 1, widths[0], widths[-1], dtype=F64)
    everything, places = recorded(factors, 0.5, target, [True] * len(factors))
    everything()
    for mask in range(1, 2 ** len(factors) - 1):
        wanted = [bool(mask >> i & 1) for i in range(len(factors))]
        program, some = recorded(factors, 0.5, target, wanted)
        program()
        for want, place, reference in zip(wanted, some, places, strict=True):
            assert (place is not None) == want
            if want:
                torch.testing.assert_close(place, reference)


def test_a_frozen_factor_may_be_shared_by_the_rates():
    factors = chain((40, 4, 4, 40))
    factors[2] = factors[2][:, :1]
    target = torch.randn(2, 1, 40, 40, dtype=F64)
    program, places = recorded(factors, 1.0, target, [True, True, False])
    program()
    leaves = [factor.detach().clone().requires_grad_() for factor in factors]
    expected = torch.autograd.grad(loss_of(FactoredMatrix(tuple(leaves)).dense(), target), leaves)
    for place, gradient in zip(places[:2], expected[:2], strict=True):
        torch.testing.assert_close(place, gradient)


@pytest.mark.parametrize(("widths", "products"), [((64, 4, 64), 0), ((9, 9, 9, 9), 6), ((64, 4, 4, 4, 64), 6)])
def test_no_product_is_taken_twice(widths, products):
    factors = chain(widths, lead=())
    program = Program()
    rule = ChainRule(FactoredMatrix(tuple(factors)), program, [torch.empty_like(factor) for factor in factors])
    rule.pull_back()
    assert len(program.operations) == products


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_a_thin_pair_is_handed_through_without_a_copy(lead):
    left, right = chain((30, 3, 40), lead=lead)
    places = [torch.empty_like(left), torch.empty_like(right)]
    rule = ChainRule(FactoredMatrix((left, right)), Program(), places)
    assert [part.data_ptr() for part in rule.parts] == [left.data_ptr(), right.data_ptr()]
    assert [place.data_ptr() for place in rule.part_cotangents] == [place.data_ptr() for place in places]
