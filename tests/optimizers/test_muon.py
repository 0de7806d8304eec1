"""Muon beside torch.optim's, and its step as the steepest descent in the spectral norm."""

import pytest
import torch
from by_hand import gaussian, lowrank
from lanes_alone import Walk, assert_a_lost_lane_leaves_the_rest, assert_block_steps_as_lanes_alone, assert_runs

from linalg import InputError, polar_factor
from optimizers import Muon
from optimizers.muon import newton_schulz

SHAPES = {"tall": (6, 3), "wide": (3, 5), "square": (4, 4)}
A, B, C = Muon().coefficients


@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False}, {"momentum": 0.5, "weight_decay": 0.2}, {"ns_steps": 3}, {"adjust_lr": "match_rms_adamw"}]
)
def test_it_walks_with_its_twin(options, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # torch's iteration in the precision of the rest
    theirs = {"weight_decay": 0.0} | {{"adjust_lr": "adjust_lr_fn"}.get(name, name): value for name, value in options.items()}
    Walk(Muon(**options), torch.optim.Muon, 0.02, SHAPES, **theirs).go(40, 1e-9)


def test_torch_as_shipped_differs_by_the_rounding_of_bfloat16():
    walk = Walk(Muon(), torch.optim.Muon, 1.0, {"w": (20, 20)}, weight_decay=0.0)
    before = walk.ours["w"].clone()
    walk.step(0, {"w": gaussian(20, 20, seed=9)})
    moved, theirs = walk.ours["w"] - before, walk.theirs["w"].detach() - before
    assert 0 < (moved - theirs).norm() < 0.05 * moved.norm()


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_newton_schulz_brings_the_singular_values_where_its_polynomial_does(shape):
    values = torch.logspace(0, -3, 20)
    matrix = lowrank(*shape, values)
    expected = values.double() / values.double().norm()
    for _ in range(5):
        expected = A * expected + B * expected**3 + C * expected**5
    found = newton_schulz(matrix, (A, B, C), 5, 1e-7)
    torch.testing.assert_close(torch.linalg.svdvals(found), expected.sort(descending=True).values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        polar_factor(found), polar_factor(matrix), rtol=1e-8, atol=1e-8
    )  # the singular vectors are the matrix's


def test_newton_schulz_ends_in_its_band():
    shares = torch.logspace(0, -2.4, 400, dtype=torch.float64)  # of the Frobenius norm
    for _ in range(5):
        shares = A * shares + B * shares**3 + C * shares**5
    assert 0.68 < shares.min() < 0.72
    assert 1.1 < shares.max() < 1.21


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_polar_is_the_steepest_direction_of_unit_spectral_norm(shape):
    matrix = gaussian(3, *shape, seed=3)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = polar_factor(matrix)
    torch.testing.assert_close(found, left @ right)
    torch.testing.assert_close((matrix * found).sum((-2, -1)), values.sum(-1))  # the nuclear norm, the dual of the spectral
    others = gaussian(500, *shape, seed=4)
    others = others / torch.linalg.matrix_norm(others, 2)[:, None, None]
    assert ((matrix[0] * others).sum((-2, -1)) < values[0].sum()).all()


def test_polar_leaves_out_what_is_zero_and_what_is_lost():
    low = lowrank(6, 5, torch.tensor([3.0, 0.1]))
    values = torch.linalg.svdvals(polar_factor(low))
    torch.testing.assert_close(values, torch.tensor([1.0, 1, 0, 0, 0]).double(), rtol=0, atol=1e-10)
    batch = torch.stack([low, torch.zeros(6, 5).double(), torch.full((6, 5), torch.inf).double()])
    found = polar_factor(batch)
    torch.testing.assert_close(found[0], polar_factor(low))
    assert not found[1].any()
    assert found[2].isnan().all()


@pytest.mark.parametrize("shape", [(30, 4), (4, 30)])
def test_a_step_has_the_spectral_norm_of_the_rate_times_the_adjustment(shape):
    for adjust_lr, factor in (("original", max(1, shape[0] / shape[1]) ** 0.5), ("match_rms_adamw", 0.2 * 30**0.5), ("none", 1.0)):
        rule, params = Muon(orthogonalize="polar", adjust_lr=adjust_lr), {"w": torch.zeros(shape).double()}
        rule.update(params, {"w": gaussian(*shape)}, rule.init(params), 0.1, 0)
        torch.testing.assert_close(torch.linalg.svdvals(params["w"]), torch.full((4,), 0.1 * factor).double())
        if adjust_lr == "match_rms_adamw":  # Adam's typical step
            assert params["w"].square().mean().sqrt().item() == pytest.approx(0.1 * 0.2)


def test_vectors_go_by_adamw_with_entries_as_large_as_in_a_matrix_of_one_column():
    rule = Muon(weight_decay=0.1)
    Walk(rule, torch.optim.AdamW, 0.02, {"bias": (5,)}, weight_decay=0.1).go(20, 1e-12)
    params = {"column": torch.zeros(50, 1).double(), "bias": torch.zeros(50).double()}
    grads = {"column": gaussian(50, 1), "bias": gaussian(50)}
    Muon(orthogonalize="polar").update(params, grads, Muon().init(params), 0.1, 0)
    for tensor in params.values():
        assert tensor.square().mean().sqrt().item() == pytest.approx(0.1)


def test_the_exact_polar_factor_forgets_how_the_gradient_is_scaled():
    results = []
    for scale in (1.0, 1e5):
        rule, params = Muon(orthogonalize="polar"), {"w": gaussian(5, 4)}
        state = rule.init(params)
        for step in range(10):
            rule.update(params, {"w": scale * gaussian(5, 4, seed=step)}, state, 0.1, step)
        results.append(params["w"])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("orthogonalize", ["newton_schulz", "polar"])
def test_lanes(orthogonalize):
    rule = Muon(orthogonalize=orthogonalize, weight_decay=0.1)
    assert_block_steps_as_lanes_alone(rule)
    assert_block_steps_as_lanes_alone(rule, reset_at=3)
    assert_a_lost_lane_leaves_the_rest(rule)


@pytest.mark.parametrize("orthogonalize", ["newton_schulz", "polar"])
def test_it_runs(orthogonalize):
    assert_runs(Muon(orthogonalize=orthogonalize), 0.02)


@pytest.mark.parametrize(
    "options",
    [{"momentum": 2}, {"orthogonalize": "qr"}, {"ns_steps": 0}, {"coefficients": (1, 2)}, {"eps": 0}, {"adjust_lr": "both"}],
)
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}="):
        Muon(**options)
