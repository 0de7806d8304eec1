"""Adafactor beside torch.optim's, and where its factored moment is exact."""

import pytest
import torch
from by_hand import gaussian
from lanes_alone import Walk, assert_a_lost_lane_leaves_the_rest, assert_block_steps_as_lanes_alone, assert_runs

from linalg import InputError
from optimizers import Adafactor

SHAPES = {"left": (6, 2), "right": (2, 5), "bias": (4,)}


@pytest.mark.parametrize("lr", [0.02, 0.5, 3.0])  # the last above 1 / √t from the first step, the second from the fourth
@pytest.mark.parametrize(
    "options", [{}, {"d": 2.0, "beta2_decay": -0.5}, {"weight_decay": 0.1}, {"eps": (1e-2, 1e-1)}, {"eps": (1e-6, 10.0)}]
)
def test_it_walks_with_its_twin(options, lr):
    own = {name: value for name, value in options.items() if name != "eps"}
    own |= dict(zip(("eps1", "eps2"), options.get("eps", ()), strict=False))
    Walk(Adafactor(**own), torch.optim.Adafactor, lr, SHAPES, foreach=False, **options).go(30, 1e-11)


def test_the_moments_take_a_number_for_each_row_and_column():
    params = {"w": gaussian(30, 20)}
    assert Adafactor().state_bytes(Adafactor().init(params)) == (30 + 20) * 8
    assert Adafactor().state_bytes(Adafactor().init({"b": gaussian(30)})) == 30 * 8


@pytest.mark.parametrize(("lr", "relative_step", "length"), [(0.2, True, 0.2), (5.0, True, 1.0), (5.0, False, 5.0)])
def test_where_the_squared_gradient_is_of_rank_one_the_first_step_is_its_sign(lr, relative_step, length):
    signs = gaussian(7, 4, seed=1).sign()
    grad = signs * gaussian(7, 1, seed=2).exp() * gaussian(1, 4, seed=3).exp()
    params = {"w": gaussian(7, 4)}
    rule, before = Adafactor(scale_parameter=False, relative_step=relative_step), params["w"].clone()
    rule.update(params, {"w": grad}, rule.init(params), lr, 0)
    torch.testing.assert_close(params["w"], before - length * signs)


def test_the_step_is_in_proportion_to_the_weight_and_no_longer_than_d():
    for scale in (1e-6, 1.0, 100.0):
        params = {"w": scale * gaussian(7, 4)}
        before, size = params["w"].clone(), params["w"].square().mean().sqrt()
        Adafactor().update(params, {"w": gaussian(7, 4, seed=5)}, Adafactor().init(params), 0.1, 0)
        moved = (params["w"] - before).square().mean().sqrt()
        assert moved <= 0.1 * max(size, 1e-3) * (1 + 1e-9)
        assert moved > 0.05 * max(size, 1e-3)


def test_lanes():
    assert_block_steps_as_lanes_alone(Adafactor(weight_decay=0.1))
    assert_block_steps_as_lanes_alone(Adafactor(scale_parameter=False, relative_step=False), reset_at=3)
    assert_a_lost_lane_leaves_the_rest(Adafactor())


def test_it_runs():
    assert_runs(Adafactor(), 0.3)


@pytest.mark.parametrize(
    "options", [{"d": 0.5}, {"beta2_decay": 0.1}, {"eps1": -1}, {"eps2": -1}, {"weight_decay": -1}, {"scale_parameter": 2}]
)
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}="):
        Adafactor(**options)
