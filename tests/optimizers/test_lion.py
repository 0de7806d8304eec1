"""Lion beside pytorch_optimizer's, and what the sign makes of a step."""

import pytest
import torch
from by_hand import gaussian
from lanes_alone import Walk, assert_a_lost_lane_leaves_the_rest, assert_block_steps_as_lanes_alone, assert_runs
from pytorch_optimizer import Lion as Twin

from linalg import InputError
from optimizers import Lion


@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.8)}, {"weight_decay": 0.2}])
def test_it_walks_with_its_twin(options):
    Walk(Lion(**options), Twin, 0.01, {"left": (6, 2), "right": (2, 5), "bias": (4,)}, **options).go(60, 1e-13)


def test_every_entry_moves_by_the_rate():
    params = {"w": gaussian(5, 4)}
    before, state = params["w"].clone(), Lion().init(params)
    for step in range(5):
        Lion().update(params, {"w": gaussian(5, 4, seed=step) * 10.0**step}, state, 0.1, step)
        torch.testing.assert_close((params["w"] - before).abs(), torch.full((5, 4), 0.1).double())
        before = params["w"].clone()


def test_lanes():
    assert_block_steps_as_lanes_alone(Lion(weight_decay=0.1), tolerance=1e-13)
    assert_a_lost_lane_leaves_the_rest(Lion(), is_lost=False)  # torch takes the sign of NaN for 0


def test_it_runs():
    assert_runs(Lion(), 0.01)


@pytest.mark.parametrize("options", [{"betas": (0.9,)}, {"betas": (0.9, 2)}, {"weight_decay": -1}])
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}="):
        Lion(**options)
