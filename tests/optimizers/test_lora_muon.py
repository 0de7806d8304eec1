"""Each half of the step has singular values lr / 2; the path of the weight does not depend on how it is factored or scaled."""

import pytest
import torch
from factor_pairs import TARGET, check_lanes, factors, farthest, refactored, walk

from bench.runs import run
from linalg import InputError, polar_factor
from optimizers import Adam, LoRAMuon, Muon
from parameterizations import Full, LoRA, OPLoRA
from problems import MatrixFactorization


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_step_is_the_steepest_in_the_spectral_norm_on_each_side(scale):
    start, lr = factors(), 0.1
    left, right = start["left"], start["right"]
    gradient = scale * left @ right - TARGET
    after, _ = walk(LoRAMuon(momentum=0, ridge=0), start, lr, steps=1, scale=scale)
    rows, columns = torch.linalg.qr(right.mT).Q, torch.linalg.qr(left).Q
    for move, projected in (
        (scale * (after["left"] - left) @ right, gradient @ rows @ rows.mT),
        (scale * left @ (after["right"] - right), columns @ columns.mT @ gradient),
    ):
        u, _, vt = torch.linalg.svd(projected)
        torch.testing.assert_close(move, -lr / 2 * u[:, :2] @ vt[:2])


def test_the_factors_do_not_matter_where_to_adam_and_muon_they_do():
    start = factors()
    for ridge, within in ((0.0, 1e-11), (1e-5, 1e-3)):
        rule = LoRAMuon(ridge=ridge)
        assert farthest(walk(rule, start, 0.1, 20)[1], walk(rule, refactored(start), 0.1, 20)[1]) < within
    for rule in (Adam(), Muon()):
        assert farthest(walk(rule, start, 0.1, 20)[1], walk(rule, refactored(start), 0.1, 20)[1]) > 0.1


def test_the_scale_does_not_matter():
    start = factors()
    scaled = {"left": start["left"] / 3, "right": start["right"]}
    assert farthest(walk(LoRAMuon(), start, 0.1)[1], walk(LoRAMuon(), scaled, 0.1, scale=3.0)[1]) < 1e-12


def test_the_momentum_is_a_mean_of_gradients():
    start, rule = factors(), LoRAMuon(momentum=0.8)
    state = rule.init(start)
    ones = {name: torch.ones_like(tensor) for name, tensor in start.items()}
    for step in range(3):
        rule.update(start, ones, state, 0.0, step)
    torch.testing.assert_close(state["left"]["momentum"], torch.full((6, 2), 1 - 0.8**3).double())


def test_decay_is_that_of_the_weight():
    start, rule, lr, decay = factors(), LoRAMuon(weight_decay=0.5), 0.2, 0.5
    weight = start["left"] @ start["right"]
    zeros = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    rule.update(start, zeros, rule.init(start), torch.tensor(lr).double(), 0)
    torch.testing.assert_close(start["left"] @ start["right"], (1 - lr * decay) * weight)


def test_with_decay_a_factor_moves_by_its_step_over_what_is_kept():
    start, lr, decay = factors(), 0.2, 0.5
    plain, decayed = (walk(LoRAMuon(momentum=0, weight_decay=value), start, lr, steps=1)[0] for value in (0.0, decay))
    kept = (1 - lr * decay) ** 0.5
    for name, tensor in start.items():
        torch.testing.assert_close(decayed[name], kept * tensor + (plain[name] - tensor) / kept)


def test_from_zero_the_weight_moves_by_half_the_rate():
    start = factors()
    start["left"].zero_()
    after, weights = walk(LoRAMuon(ridge=0), start, 0.1, steps=1)
    assert torch.equal(after["right"], start["right"])
    torch.testing.assert_close(torch.linalg.svdvals(weights[0])[:2], torch.tensor([0.05, 0.05]).double())


def test_the_sign_of_a_matrix_is_that_of_its_range():
    low = factors()["left"] @ factors()["right"]
    u, _, vt = torch.linalg.svd(low)
    found = polar_factor(torch.stack([low, 0 * low, torch.nan * low]))
    torch.testing.assert_close(found[0], u[:, :2] @ vt[:2])
    assert not found[1].any()
    assert found[2].isnan().all()


def test_lanes():
    check_lanes(LoRAMuon(weight_decay=0.1), 0.1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(12, 20), (24, 16)])
def test_a_run_comes_near_the_best_loss_and_counts_its_memory(shape, dtype):
    options = {"lr": 0.05, "seeds": 2, "steps": 300, "schedule": "linear", "dtype": dtype}
    found = run(MatrixFactorization(shape=shape), LoRA(rank=3, alpha=6.0), LoRAMuon(), **options)
    assert (found.lanes.final_loss < found.lanes.floor * 1.01).all()
    assert found.cost["state_bytes"] == 3 * sum(shape) * (8 if dtype == "float64" else 4)


def test_what_it_takes():
    assert LoRAMuon().supports(LoRA()) is None
    for other in (Full(), OPLoRA()):
        assert "two factors" in LoRAMuon().supports(other)
    for options, key in (({"momentum": 1.0}, "momentum"), ({"ridge": -1}, "ridge"), ({"weight_decay": -1}, "weight_decay")):
        with pytest.raises(InputError, match=f"^{key}="):
            LoRAMuon(**options)
