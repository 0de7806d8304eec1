"""SoRA's proximal step: the argmin that it should be, and where the authors' three assignments differ from it."""

import pytest
import torch
from by_hand import gaussian, seeded

from bench.engine import Block, Settings
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import SoRA, Step
from parameterizations.sora import sequential, soft
from problems import LinearRegression, Stack

F64 = torch.float64
GRID = torch.arange(-4000, 4001, dtype=F64) / 1000


@pytest.mark.parametrize("threshold", [0.25, 1.0])
def test_the_soft_threshold_minimizes_the_proximal_objective(threshold):
    for gate in gaussian(40, seed=1):
        objective = 0.5 * (GRID - gate).square() + threshold * GRID.abs()
        assert abs(float(soft(gate, threshold) - GRID[objective.argmin()])) <= 5.01e-4  # half a cell of the grid


def test_the_authors_differ_from_it_exactly_between_one_threshold_and_two():
    gate, threshold = GRID, 1.0
    differs = soft(gate, threshold) != sequential(gate, threshold)
    assert torch.equal(differs, (gate.abs() >= 1) & (gate.abs() < 2))
    inside = (gate.abs() > 1) & (gate.abs() < 2)
    assert not sequential(gate[inside], threshold).any()
    assert sequential(torch.tensor([1.5, 2.5]), threshold).tolist() == [0, 1.5]


@pytest.mark.parametrize("proximal", ["soft", "authors"])
@pytest.mark.parametrize("layers", [None, 4])
def test_each_lane_is_thresholded_at_its_own_rate_times_xi(proximal, layers):
    method = SoRA(3, xi=2.0, proximal=proximal)
    gate = gaussian(2, 3, *(() if layers is None else (layers,)), 3)
    lr = torch.tensor([[0.01, 0.1, 0.3], [0.5, 0.2, 0.0]], dtype=F64)
    params = {"gate": gate.clone()}
    method.after_step(params, {}, {}, Step(lr=lr))
    rule = soft if proximal == "soft" else sequential
    for seed in range(2):
        for rate in range(3):
            assert torch.equal(params["gate"][seed, rate], rule(gate[seed, rate], 2.0 * float(lr[seed, rate])))


def test_a_run_is_proximal_gradient_descent_by_hand():
    # the L1 norm acts once: through the threshold, and not through the loss
    problem, method, lr = Stack(shape=(6, 5), ranks=(1, 3)), SoRA(3, alpha=6.0, xi=0.5), 0.05
    block = Block([problem.draw(0, dtype=F64)], method, SGD(), [0], [lr], Settings(20, dtype=F64))
    left, gate, right = (block.params[name][0, 0].clone().requires_grad_() for name in ("left", "gate", "right"))
    target = problem.draw(0, dtype=F64).target
    block.run()
    for _ in range(20):
        loss = 0.5 * (2 * left @ torch.diag_embed(gate) @ right - target).square().sum()
        grads = torch.autograd.grad(loss, (left, gate, right))
        with torch.no_grad():
            for tensor, grad in zip((left, gate, right), grads, strict=True):
                tensor -= lr * grad
            gate.copy_(torch.nn.functional.softshrink(gate, lr * 0.5))
    for name, tensor in (("left", left), ("gate", gate), ("right", right)):
        torch.testing.assert_close(block.params[name][0, 0], tensor.detach(), rtol=1e-10, atol=1e-12)


def test_more_l1_closes_more_gates():
    open_gates = []
    for xi in (0.0, 0.1, 1.0):
        block = Block([Stack().draw(0)], SoRA(9, xi=xi), Adam(), [0], [0.03], Settings(500))
        block.run()
        open_gates.append((block.params["gate"] != 0).sum().item())
    assert open_gates[0] == 36
    assert open_gates[0] > open_gates[1] > open_gates[2] > 0


def test_a_closed_gate_takes_its_direction_out_of_the_export():
    method = SoRA(3)
    params = {**method.init((6, 5), generator=seeded(), dtype=F64), "left": gaussian(6, 3)}
    params["gate"][1] = 0
    a, b = method.export(params)
    keep = [0, 2]
    torch.testing.assert_close(b[:, keep] @ a[keep], method.weight(params).dense())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_it_trains_on_inputs_too(dtype):
    block = Block(
        [LinearRegression(shape=(7, 9), rank=2).draw(0, dtype=dtype)], SoRA(4), Adam(), [0], [0.01], Settings(300, dtype=dtype)
    )
    loss = block.run().curves["loss"][:, 0, 0]
    assert loss[-1] < 0.2 * loss[0]


def test_it_starts_from_gaussian_gates_a_uniform_a_and_nothing_in_b():
    params = SoRA(300).init((400, 500), generator=seeded(), dtype=F64)
    gate = params["gate"]
    assert abs(float(gate.mean())) < 4 / 300**0.5  # four standard errors
    assert float(gate.std()) == pytest.approx(1, abs=4 / 600**0.5)
    assert not params["left"].any()
    assert float(params["right"].abs().max()) == pytest.approx(500**-0.5, rel=1e-3)
    assert float(params["right"].std()) == pytest.approx((3 * 500) ** -0.5, rel=0.01)


@pytest.mark.parametrize(("options", "key"), [({"xi": -1}, "xi"), ({"alpha": 0}, "alpha"), ({"proximal": "hard"}, "proximal")])
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        SoRA(**options)
