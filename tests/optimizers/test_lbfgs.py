"""L-BFGS beside torch.optim's, its inverse Hessian against the secant equation, its line search against Wolfe's conditions."""

import math

import pytest
import torch
from by_hand import gaussian
from lanes_alone import assert_runs

from linalg import InputError
from optimizers import LBFGS
from optimizers._inverse_hessian import descent, remember
from optimizers._line_search import Point, interpolate, strong_wolfe
from parameterizations import Flora, LoRA, Step

TARGET = gaussian(6, 5, seed=40)


def factors(*lanes):
    return {"left": gaussian(*lanes, 6, 2), "right": gaussian(*lanes, 2, 5, seed=1)}


def loss_of(params):
    return 0.5 * (params["left"] @ params["right"] - TARGET).square().sum((-2, -1))


def gradients(params):
    residual = params["left"] @ params["right"] - TARGET
    return {"left": residual @ params["right"].mT, "right": params["left"].mT @ residual}


def run(rule, params, lr, steps):
    """Ours in place on a copy, with the closure that a run gives."""
    params = {name: tensor.clone() for name, tensor in params.items()}

    def closure(lane):
        own = {name: tensor[lane][(None,) * len(lane)] for name, tensor in params.items()}
        return loss_of(own).sum(), gradients(own)

    state, at = rule.init(params), Step(steps=steps, closure=closure)
    for at.step in range(steps):
        rule.update(params, gradients(params), state, lr, at)
    return params


def run_twin(params, lr, steps, **options):
    leaves = [torch.nn.Parameter(tensor.clone()) for tensor in params.values()]
    twin = torch.optim.LBFGS(leaves, lr=lr, max_iter=1, tolerance_grad=0, tolerance_change=0, **options)

    def closure():
        twin.zero_grad()
        loss = loss_of(dict(zip(params, leaves, strict=True)))
        loss.backward()
        return loss

    for _ in range(steps):
        twin.step(closure)
    return dict(zip(params, (leaf.detach() for leaf in leaves), strict=True))


@pytest.mark.parametrize("history_size", [1, 4, 100])
@pytest.mark.parametrize("lr", [0.1, 0.5])
def test_it_walks_with_its_twin(history_size, lr):
    found = run(LBFGS(history_size, "none"), factors(), lr, 40)
    expected = run_twin(factors(), lr, 40, history_size=history_size)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("line_search", ["none", "strong_wolfe"])
def test_a_lane_in_a_block_steps_as_alone(line_search):
    rule, start = LBFGS(line_search=line_search), factors(2, 3)
    rates = torch.tensor([[0.1, 0.5, 0.3], [0.2, 0.4, 0.6]]).double()
    together = run(rule, start, rates, 8)
    for lane in ((i, k) for i in range(2) for k in range(3)):
        alone = run(rule, {name: tensor[lane] for name, tensor in start.items()}, float(rates[lane]), 8)
        for name, tensor in alone.items():
            torch.testing.assert_close(together[name][lane], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("line_search", ["none", "strong_wolfe"])
def test_a_lost_lane_leaves_the_rest(line_search):
    rule, start = LBFGS(line_search=line_search), factors(2, 2)
    whole = run(rule, start, torch.full((2, 2), 0.3).double(), 6)
    start["left"][1, 0] = torch.nan
    beside = run(rule, start, torch.full((2, 2), 0.3).double(), 6)
    kept = torch.tensor([[True, True], [False, True]])
    for name, tensor in whole.items():
        assert torch.equal(beside[name][kept], tensor[kept])
    assert beside["left"][1, 0].isnan().all()


def history_of(pairs, size=10, dtype=torch.float64):
    lanes, entries = pairs[0][0].shape[:-1], pairs[0][0].shape[-1]
    history = {name: torch.zeros(*lanes, size, entries, dtype=dtype) for name in ("steps", "changes")}
    history |= {"inverse": torch.zeros(*lanes, size).double(), "diagonal": torch.ones(lanes).double()}
    for step, change in pairs:
        history["step"] = step
        remember(history, change)
    return history


def test_the_inverse_hessian_takes_the_last_change_to_the_last_step():
    hessian = gaussian(8, 8) @ gaussian(8, 8).T + torch.eye(8)
    pairs = [(step, step @ hessian) for step in gaussian(5, 3, 8, seed=2)]
    found = descent(history_of(pairs), pairs[-1][1])
    torch.testing.assert_close(found, -pairs[-1][0], rtol=1e-9, atol=1e-9)


def test_the_two_loops_are_the_product_form():
    hessian = gaussian(6, 6) @ gaussian(6, 6).T + torch.eye(6)
    pairs = [(step, step @ hessian) for step in gaussian(4, 6, seed=2)]
    inverse = torch.eye(6).double() * (pairs[-1][0] @ pairs[-1][1]) / (pairs[-1][1] @ pairs[-1][1])
    for step, change in pairs:
        shear = torch.eye(6) - torch.outer(change, step) / (step @ change)
        inverse = shear.T @ inverse @ shear + torch.outer(step, step) / (step @ change)
    gradient = gaussian(6, seed=3)
    torch.testing.assert_close(descent(history_of(pairs), gradient), -inverse @ gradient, rtol=1e-8, atol=1e-8)


def test_a_pair_without_curvature_is_left_out_of_its_lane_alone():
    step, change = gaussian(2, 6), gaussian(2, 6)
    step[0], change[0] = torch.ones(6), -torch.ones(6)
    change[1] = step[1]
    history = history_of([(step, change)])
    assert not history["inverse"][0].any()
    assert history["inverse"][1, -1] > 0
    assert history["diagonal"].tolist() == [1.0, pytest.approx(1.0)]


LINES = [
    (lambda t: ((t - 3) ** 2, 2 * (t - 3)), 1e-3),
    (lambda t: (-t / (t * t + 2), (t * t - 2) / (t * t + 2) ** 2), 1e-3),
    (lambda t: ((t + 0.004) ** 5 - 2 * (t + 0.004) ** 4, 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3), 1e3),
    (lambda t: (math.inf, math.nan) if t >= 0.5 else (-10 * t - math.log(0.5 - t), -10 + 1 / (0.5 - t)), 1.0),
    (lambda t: (math.cos(3 * t) - t + 0.3 * t * t, -3 * math.sin(3 * t) - 1 + 0.6 * t), 10.0),
]


@pytest.mark.parametrize(("line", "first"), LINES)
def test_the_line_search_satisfies_both_of_wolfes_conditions(line, first):
    loss, slope = line(0.0)
    calls = []
    length = strong_wolfe(lambda t: calls.append(t) or line(t), first, loss, slope, curvature=0.5)
    assert len(calls) < 25
    found, derivative = line(length)
    assert found <= loss + 1e-4 * length * slope
    assert abs(derivative) <= 0.5 * abs(slope)


def test_interpolation_finds_the_minimum_of_a_cubic():
    def at(t):
        return Point(t, (t - 1) ** 2 * (t + 5), 2 * (t - 1) * (t + 5) + (t - 1) ** 2)

    for a, b in ((0.0, 3.0), (3.0, 0.0), (-1.0, 1.4), (0.9, 7.0)):
        assert interpolate(at(a), at(b)) == pytest.approx(1.0)
    assert interpolate(Point(0.0, 1.0, -1.0), Point(2.0, math.inf, math.nan)) == 1.0


def test_where_a_line_only_rises_it_stays():
    assert strong_wolfe(lambda t: (t, 1.0), 1.0, 0.0, -1.0) == 0.0  # a gradient that is wrong
    assert strong_wolfe(lambda t: (math.nan, math.nan), 1.0, 0.0, -1.0) == 0.0


def test_with_a_line_search_it_finds_the_best_approximation():
    start = {"left": 0.1 * gaussian(6, 2), "right": 0.1 * gaussian(2, 5, seed=1)}
    best = 0.5 * torch.linalg.svdvals(TARGET)[2:].square().sum()
    losses = [loss_of(run(LBFGS(), start, 1.0, steps)) for steps in (1, 5, 20, 60)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] - best < 1e-8


def test_starting_anew_forgets_every_pair():
    rule, params = LBFGS(line_search="none"), factors()
    state = rule.init(params)
    for step in range(4):
        rule.update(params, gradients(params), state, 0.1, step)
    state.reset("left")
    fresh = {name: tensor.clone() for name, tensor in params.items()}
    rule.update(params, gradients(params), state, 0.1, 4)
    rule.update(fresh, gradients(fresh), rule.init(fresh), 0.1, 0)
    assert all(torch.equal(params[name], fresh[name]) for name in params)


def test_it_keeps_its_pairs_and_says_what_it_cannot_train():
    rule = LBFGS(7)
    assert rule.state_bytes(rule.init(factors())) == 8 * ((2 * 7 + 2) * 22 + 7 + 1)
    assert rule.supports(LoRA()) is None
    assert "between them" in rule.supports(Flora())
    with pytest.raises(InputError, match="closure"):
        rule.update(factors(), gradients(factors()), rule.init(factors()), 0.1, 0)
    with pytest.raises(InputError, match=r"^rates"):
        rule.init(factors(), {"left": 0.5})
    with pytest.raises(InputError, match=r"^history_size="):
        LBFGS(0)
    with pytest.raises(InputError, match=r"^line_search="):
        LBFGS(line_search="armijo")


def test_it_runs():
    assert_runs(LBFGS(), 1.0, steps=8)
    assert_runs(LBFGS(line_search="none"), 0.5)
