"""What the tests of rules for factor pairs share: ½ ‖s L R - M‖² on lanes, by hand."""

import torch
from by_hand import gaussian

from parameterizations import Step

TARGET = gaussian(6, 5, seed=40)
GAUGE = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)


def factors(*leading, m=6, n=5, r=2, seed=0):
    return {"left": gaussian(*leading, m, r, seed=seed + 1), "right": gaussian(*leading, r, n, seed=seed + 2)}


def refactored(params, gauge=GAUGE):
    """The same product in other factors."""
    return {"left": params["left"] @ torch.linalg.inv(gauge), "right": gauge @ params["right"]}


def weight_gradient(params, target=TARGET, scale=1.0):
    return scale * params["left"] @ params["right"] - target


def gradients(params, target=TARGET, scale=1.0):
    gradient = weight_gradient(params, target, scale)
    return {"left": scale * gradient @ params["right"].mT, "right": scale * params["left"].mT @ gradient}


def walk(rule, params, lr, steps=10, target=TARGET, scale=1.0, rates=None):
    """The factors at the end and the weights (steps, ..., m, n) on the way, from a copy of `params`."""
    params = {name: tensor.clone() for name, tensor in params.items()}
    state, weights = rule.init(params, rates, scale), []
    for step in range(steps):
        at = Step(step, gradient=lambda: weight_gradient(params, target, scale))
        rule.update(params, gradients(params, target, scale), state, lr, at)
        weights.append(scale * params["left"] @ params["right"])
    return params, torch.stack(weights)


def farthest(one, other):
    """The largest distance between two paths of weights."""
    return float((one - other).norm(dim=(-2, -1)).max())


def check_lanes(rule, lr):
    """Lanes of stacks equal separate runs at rates of their own, whatever becomes of one of them."""
    rates = lr * torch.tensor([[0.1, 0.5, 1.0], [0.7, 0.2, 0.9]], dtype=torch.float64)
    start = factors(2, 3, 4)
    start["left"][0, 0] = 0.0  # LoRA's start
    params, together = walk(rule, start, rates)
    for lane in [(0, 0, 0), (0, 2, 1), (1, 1, 3)]:
        alone, weights = walk(rule, {name: tensor[lane] for name, tensor in start.items()}, float(rates[lane[:2]]))
        torch.testing.assert_close(together[:, *lane], weights, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(params["right"][lane], alone["right"], rtol=1e-8, atol=1e-9)
    start["left"][0, 1] = torch.nan
    start["right"][1, 2] = torch.inf
    _, beside = walk(rule, start, rates)
    healthy = torch.ones(2, 3, dtype=torch.bool)
    healthy[0, 1] = healthy[1, 2] = False
    assert torch.equal(beside[:, healthy], together[:, healthy])
    assert not beside[0, ~healthy].isfinite().all(-1).all(-1).any()


def iterations(rule, target, lr, start, tolerance=1e-6, most=5000):
    """Steps to a relative error; infinite where `most` do not do."""
    params = {name: tensor.clone() for name, tensor in start.items()}
    state = rule.init(params)
    for step in range(most):
        gradient = weight_gradient(params, target)
        if gradient.norm() < tolerance * target.norm():
            return step
        at = Step(step, gradient=lambda: weight_gradient(params, target))
        rule.update(params, gradients(params, target), state, lr, at)
    return float("inf")
