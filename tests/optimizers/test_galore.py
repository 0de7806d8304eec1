"""GaLore beside pytorch_optimizer's, whose SVD is in float32 and whose steps count from 1, and beside the authors' loop."""

import pytest
import torch
from by_hand import gaussian
from lanes_alone import Walk, assert_a_lost_lane_leaves_the_rest, assert_block_steps_as_lanes_alone, assert_runs
from pytorch_optimizer import GaLore as Twin

from linalg import InputError
from optimizers import GaLore
from optimizers.galore import leading_vectors


class Grouped(Twin):
    """The twin takes a rank by its groups alone."""

    def __init__(self, params, lr, rank, scale, **options):
        group = {"params": params, "rank": rank, "scale": scale, "update_proj_gap": 1000, "projection_type": "std"}
        super().__init__([group], lr=lr, **options)


@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.9), "eps": 1e-2}, {"weight_decay": 0.2}])
def test_it_walks_with_its_twin_while_the_basis_stays(options):
    shapes = {"tall": (6, 3), "wide": (3, 5), "square": (4, 4)}
    Walk(GaLore(rank=2, scale=0.5, **options), Grouped, 0.05, shapes, rank=2, scale=0.5, **options).go(40, 1e-4)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_it_is_the_authors_loop(shape):
    grads, weight, lr = gaussian(20, *shape, seed=3), gaussian(*shape), 0.05
    rule, params = GaLore(rank=2, interval=6, weight_decay=0.1), {"w": weight.clone()}
    state, average, square = rule.init(params), 0.0, 0.0
    for step, grad in enumerate(grads):
        rule.update(params, {"w": grad}, state, lr, step)
        if step % 6 == 0:
            u, _, vh = torch.linalg.svd(grad, full_matrices=False)
        low = grad @ vh[:2].T if shape[0] >= shape[1] else u[:, :2].T @ grad
        average, square = 0.9 * average + 0.1 * low, 0.999 * square + 0.001 * low**2
        direction = average / (square**0.5 + 1e-6)
        back = direction @ vh[:2] if shape[0] >= shape[1] else u[:, :2] @ direction
        weight = weight - lr * (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1)) * 0.25 * back
        weight = weight - lr * 0.1 * weight
    torch.testing.assert_close(params["w"], weight, rtol=1e-10, atol=1e-10)


def test_every_basis_adds_its_rank_to_the_weights():
    rule, params = GaLore(rank=2, interval=5), {"w": torch.zeros(12, 9).double()}
    state = rule.init(params)
    for step, grad in enumerate(gaussian(20, 12, 9)):
        rule.update(params, {"w": grad}, state, 0.1, step)
        assert torch.linalg.matrix_rank(params["w"], rtol=1e-9) == min(9, 2 * (1 + step // 5))


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_the_state_is_a_basis_of_the_smaller_side_and_two_moments_of_the_larger(shape):
    params = {"w": torch.zeros(shape).double()}
    assert GaLore(rank=3).state_bytes(GaLore(rank=3).init(params)) == 8 * (20 * 3 + 2 * 30 * 3)
    assert GaLore(rank=50).state_bytes(GaLore(rank=50).init(params)) == 8 * (20 * 20 + 2 * 30 * 20)


def test_the_basis_keeps_the_most_of_the_gradient_and_a_lost_one_is_lost_alone():
    matrix = gaussian(2, 7, 5)
    matrix[1, 0, 0] = torch.nan
    found = leading_vectors(matrix, 2)
    values = torch.linalg.svdvals(matrix[0])
    torch.testing.assert_close((matrix[0] @ found[0]).square().sum(), values[:2].square().sum())
    assert found[1].isnan().all()


def test_lanes():
    assert_block_steps_as_lanes_alone(GaLore(rank=2, interval=3, weight_decay=0.1))
    assert_block_steps_as_lanes_alone(GaLore(rank=2, interval=3), reset_at=3)
    assert_a_lost_lane_leaves_the_rest(GaLore(rank=2, interval=3))


def test_it_runs():
    assert_runs(GaLore(rank=2, interval=10), 0.1)


@pytest.mark.parametrize("options", [{"rank": 0}, {"interval": 0}, {"scale": 0}, {"betas": (1.0, 0.9)}, {"eps": 0}])
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}="):
        GaLore(**options)
