"""LoRTA: counts of parameters, the CP form of the update, and gradients summed over the layers that share."""

import pytest
import torch
from by_hand import gaussian, seeded

from bench.engine import Block, Settings
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import LoRA, LoRTA
from problems import Stack

F64 = torch.float64


def count(method, shape, layers):
    params = method.init(shape, layers=layers)
    return sum(tensor.numel() for name, tensor in params.items() if name not in method.frozen)


def published(r, d, heads, layers, matrices):
    """r (d + d/H + H + L + M) of the five-way tensor over (d, d/H, heads, layers, matrices)."""
    return r * (d + d // heads + heads + layers + matrices)


@pytest.mark.parametrize(("m", "n", "layers", "r"), [(6, 6, 4, 2), (9, 4, 3, 3), (4, 9, 12, 1), (32, 32, 4, 8)])
def test_a_stack_takes_r_times_both_sides_and_the_layers_where_lora_takes_both_sides_for_every_layer(m, n, layers, r):
    assert count(LoRTA(r), (m, n), layers) == r * (m + n + layers)
    assert count(LoRA(r), (m, n), layers) == layers * r * (m + n)


@pytest.mark.parametrize(("d", "layers", "r"), [(6, 4, 2), (32, 12, 8)])
def test_that_is_the_papers_count_less_the_modes_over_heads_and_matrices(d, layers, r):
    without_modes = published(r, d, heads=1, layers=layers, matrices=1) - 2 * r  # one head, one matrix: factors of ones
    assert count(LoRTA(r), (d, d), layers) == without_modes


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_the_update_is_a_cp_decomposition_over_layers_rows_and_columns(shape, alpha):
    method = LoRTA(3, alpha=alpha)
    a, c, b = gaussian(2, 2, shape[0], 3), gaussian(2, 2, 5, 3, seed=1), gaussian(2, 2, 3, shape[1], seed=2)
    weight = method.weight({"left": a, "core": c, "right": b}).dense()
    expected = torch.einsum("skir,sklr,skrj->sklij", a, c, b) * (1 if alpha is None else 2)
    torch.testing.assert_close(weight, expected)
    unfolded = weight.movedim(-3, -1).flatten(-2)  # (m, n L): every unfolding of the tensor has rank r
    assert (torch.linalg.matrix_rank(unfolded) == 3).all()


def test_a_run_is_gradient_descent_on_the_shared_factors_by_hand():
    problem, lr = Stack(shape=(6, 5), ranks=(1, 2, 3), share="both"), 0.05
    block = Block([problem.draw(s, dtype=F64) for s in (0, 1)], LoRTA(3), SGD(), [0, 1], [lr], Settings(30, dtype=F64))
    a, c, b = (block.params[name][1, 0].clone().requires_grad_() for name in ("left", "core", "right"))
    block.run()
    target = problem.draw(1, dtype=F64).target
    for _ in range(30):
        loss = 0.5 * (torch.einsum("ir,lr,rj->lij", a, c, b) - target).square().sum()
        grads = torch.autograd.grad(loss, (a, c, b))
        with torch.no_grad():
            for tensor, grad in zip((a, c, b), grads, strict=True):
                tensor -= lr * grad
    for name, tensor in (("left", a), ("core", c), ("right", b)):
        torch.testing.assert_close(block.params[name][1, 0], tensor.detach(), rtol=1e-10, atol=1e-12)


def test_it_fits_layers_that_share_their_spaces_and_cannot_fit_others():
    # M_l = U diag(c_l) Vᵀ is LoRTA's own form; without it the widest target alone is within reach of rank 4
    losses = {}
    for share in ("both", "nothing"):
        problem = Stack(shape=(12, 10), ranks=(1, 2, 4), share=share)
        block = Block([problem.draw(0, dtype=F64)], LoRTA(4), Adam(), [0], [0.02], Settings(1500, dtype=F64))
        curve = block.run().curves["relative_error"][:, 0, 0]
        losses[share] = float(curve[-1])
    assert losses["both"] < 1e-2
    assert losses["nothing"] > 0.2


def test_laws_of_the_start_are_those_of_the_authors():
    params = LoRTA(6).init((400, 30), layers=500, generator=seeded(), dtype=F64)
    for name, bound in (("left", 6**-0.5), ("core", 1.0)):
        assert 0.99 * bound < params[name].abs().max() <= bound
        assert float(params[name].var()) == pytest.approx(bound**2 / 3, rel=0.1)
    assert not params["right"].any()


def test_a_scale_that_is_not_above_zero_is_refused():
    with pytest.raises(InputError, match=r"^alpha="):
        LoRTA(alpha=0)
