"""The ways in which a block's memory is stepped, each against the rule's own `update`, one lane and one tensor at a time."""

import math
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from by_hand import seeded

from bench.lanes import Buffers, Lanes
from linalg import Program
from optimizers import SGD, Adagrad, Adam, AdamW, Momentum, Optimizer, RMSprop, Torch
from optimizers.adam import LARGE
from parameterizations import Step

SHAPE = (2, 3)


@dataclass(frozen=True)
class Normalized(Optimizer):
    """A rule that is not elementwise: along the gradient of unit length, at a rate that falls with the step."""

    def step_tensor(self, param, grad, state, name, lr, step):
        norm = grad.square().sum(tuple(range(2, grad.ndim)), keepdim=True).sqrt()
        param.sub_(grad / norm * lr / (1 + step))


RULES = [
    SGD(),
    SGD(weight_decay=0.1),
    SGD(momentum=0.9, nesterov=True),
    Momentum(),
    Adam(),
    Adam(betas=(0.5, 0.7), eps=1e-3),
    Adam(weight_decay=0.1),
    AdamW(weight_decay=0.3),
    RMSprop(),
    RMSprop(momentum=0.5),
    Adagrad(weight_decay=0.1),
    Normalized(),
    Torch("torch.optim.NAdam"),
]
SMALL = {"left": (6, 2), "right": (2, 5), "bias": (4,)}
BIG = {"left": (130, 40), "right": (8, 400), "bias": (33,)}


def started(rule, sizes, rates=None, dtype=torch.float64):
    """Buffers with random parameters, the rates of their lanes, and what draws a step's gradients."""
    lr = torch.tensor([0.003, 0.01, 0.02], dtype=dtype).expand(SHAPE).contiguous()
    lanes = Lanes({name: torch.empty(size) for name, size in sizes.items()}, SHAPE)
    buffers = Buffers(lanes, lr, rule, rates or {})
    generator = seeded(1)
    for tensor in buffers.params.values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=dtype))
    return buffers, lr, generator


def check(rule, sizes, rates=None, outer=(), steps=5, reset_at=None, dtype=torch.float64):
    """Step a block and, beside it, every lane on its own."""
    buffers, lr, generator = started(rule, sizes, rates, dtype)
    lanes = list(product(range(SHAPE[0]), range(SHAPE[1])))
    alone = {lane: {name: tensor[lane].clone() for name, tensor in buffers.params.items()} for lane in lanes}
    states = {lane: rule.init(alone[lane], rates) for lane in lanes}
    pieces = {
        name: (torch.empty(*SHAPE, sizes[name][0], 1, dtype=dtype), torch.empty(*SHAPE, 1, sizes[name][1], dtype=dtype))
        for name in outer
    }
    at, program = Step(), Program()
    buffers.record(program, at, pieces)
    for at.step in range(steps):
        for name, place in buffers.grads.items():
            if name in pieces:
                for piece in pieces[name]:
                    piece.copy_(torch.randn(piece.shape, generator=generator, dtype=dtype))
            else:
                place.copy_(torch.randn(place.shape, generator=generator, dtype=dtype))
        program()
        for lane in lanes:
            grads = {name: place[lane].contiguous() for name, place in buffers.grads.items()}
            grads |= {name: column[lane] @ row[lane] for name, (column, row) in pieces.items()}
            rule.update(alone[lane], grads, states[lane], float(lr[lane]), at)
        if at.step == reset_at:
            buffers.state.reset("right")
            for state in states.values():
                state.reset("right")
            program = Program()
            buffers.record(program, at, pieces)
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    for lane in lanes:
        for name, tensor in alone[lane].items():
            torch.testing.assert_close(buffers.params[name][lane], tensor, rtol=tolerance, atol=tolerance)
    return buffers


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("sizes", [SMALL, BIG], ids=["small", "big"])
@pytest.mark.parametrize("rates", [None, {"left": 0.3}], ids=["plain", "multiplied"])
def test_a_block_steps_as_every_lane_alone(rule, sizes, rates):
    check(rule, sizes, rates)


@pytest.mark.parametrize("rule", [rule for rule in RULES if not isinstance(rule, Torch)], ids=repr)
@pytest.mark.parametrize("sizes", [SMALL, BIG], ids=["small", "big"])
@pytest.mark.parametrize("rates", [None, {"left": 0.3}], ids=["plain", "multiplied"])
@pytest.mark.parametrize("outer", [("left",), ("left", "right")])
def test_outer_products_are_the_gradients_they_stand_for(rule, sizes, rates, outer):
    check(rule, sizes, rates, outer)


@pytest.mark.parametrize("rule", [Adam(), Momentum(), RMSprop()], ids=repr)
@pytest.mark.parametrize("sizes", [SMALL, BIG], ids=["small", "big"])
@pytest.mark.parametrize("outer", [(), ("left",)])
def test_moments_that_start_anew_have_a_count_of_their_own(rule, sizes, outer):
    check(rule, sizes, outer=outer, reset_at=2)


def test_float32_lanes_step_as_alone_to_rounding():
    for sizes in (SMALL, BIG):
        check(Adam(), sizes, dtype=torch.float32)


def test_each_way_is_taken_where_it_is_meant():
    def calls(rule, sizes, outer=()):
        buffers, _, _ = started(rule, sizes)
        program = Program()
        pieces = {
            name: (torch.ones(*SHAPE, sizes[name][0], 1).double(), torch.ones(*SHAPE, 1, sizes[name][1]).double()) for name in outer
        }
        buffers.record(program, Step(), pieces)
        return len(program.operations)

    assert sum(map(math.prod, SMALL.values())) < LARGE <= sum(map(math.prod, BIG.values()))
    assert calls(Adam(), SMALL) == 1  # all as one
    assert calls(Adam(), BIG) == 1 + 6  # a count, then lane by lane
    assert calls(Adam(), BIG, ["left"]) == 1 + 6 * 2  # with the lane's outer product before
    assert calls(SGD(), BIG) == 1
    assert calls(SGD(), BIG, ["left"]) == 3  # rates into the column, a product of rank one, the rest


def test_rates_are_taken_up_when_they_change():
    for rule, sizes in ((SGD(), SMALL), (Adam(), BIG), (Normalized(), SMALL)):
        buffers, lr, _ = started(rule, sizes, {"bias": 0.5})
        program = Program()
        buffers.record(program, Step(), {})
        buffers.set_rates(lr * 0)
        before = {name: tensor.clone() for name, tensor in buffers.params.items()}
        for place in buffers.grads.values():
            place.fill_(1.0)
        program()
        assert all(torch.equal(tensor, before[name]) for name, tensor in buffers.params.items())
        buffers.set_rates(lr)
        program()
        assert not any(torch.equal(tensor, before[name]) for name, tensor in buffers.params.items())
