"""What every rule on lanes owes: a lane in a block steps as it does alone, and a lost one leaves the others be."""

from itertools import product

import torch
from by_hand import gaussian, seeded

from bench.lanes import Buffers, Lanes
from bench.runs import run
from linalg import Program
from parameterizations import Full, LoRA, Step
from problems import MatrixFactorization, Stack

SEEDS, RATES = 2, 3
SIZES = {"tall": (6, 4), "wide": (3, 7), "bias": (4,)}
STACK = {"tall": (3, 6, 4), "bias": (3, 5)}


def _gradients(sizes, step):
    """(SEEDS, RATES, ...) by name; of full rank, so that no basis is left to rounding."""
    return {
        name: gaussian(SEEDS, RATES, *size, seed=100 * step + i) * (1 + step) ** -0.5
        for i, (name, size) in enumerate(sizes.items())
    }


def _walk(rule, sizes, steps, lost=None, reset_at=None):
    """(seeds, rates, ...) by name after steps of a block as the engine lays it out."""
    lr = torch.tensor([0.003, 0.01, 0.02]).double().expand(SEEDS, -1).contiguous()
    buffers = Buffers(Lanes({name: torch.empty(size) for name, size in sizes.items()}, (SEEDS, RATES)), lr, rule, {"bias": 0.5})
    for i, (name, tensor) in enumerate(buffers.params.items()):
        tensor.copy_(gaussian(SEEDS, 1, *sizes[name], seed=7 + i))
    at, program = Step(generators=[seeded(50 + seed) for seed in range(SEEDS)]), Program()
    buffers.record(program, at, {})
    for at.step in range(steps):
        for name, grad in _gradients(sizes, at.step).items():
            buffers.grads[name].copy_(grad)
            if lost is not None and at.step > 1:
                buffers.grads[name][lost] = torch.nan
        program()
        if at.step == reset_at:
            buffers.state.reset("tall")
    return buffers.params, lr


def assert_block_steps_as_lanes_alone(rule, steps=7, tolerance=1e-10, reset_at=None):
    for sizes in (SIZES, STACK):
        together, lr = _walk(rule, sizes, steps, reset_at=reset_at)
        for seed, rate in product(range(SEEDS), range(RATES)):
            alone = {name: gaussian(SEEDS, 1, *size, seed=7 + i)[seed, 0] for i, (name, size) in enumerate(sizes.items())}
            state = rule.init(alone, {"bias": 0.5})
            at = Step(generators=[seeded(50 + seed)])
            for at.step in range(steps):
                grads = {name: grad[seed, rate].clone() for name, grad in _gradients(sizes, at.step).items()}
                rule.update(alone, grads, state, float(lr[seed, rate]), at)
                if at.step == reset_at:
                    state.reset("tall")
            for name, tensor in alone.items():
                torch.testing.assert_close(together[name][seed, rate], tensor, rtol=tolerance, atol=tolerance)


def assert_a_lost_lane_leaves_the_rest(rule, steps=7, is_lost=True):
    lost = (1, 2)
    for sizes in (SIZES, STACK):
        whole, _ = _walk(rule, sizes, steps)
        beside, _ = _walk(rule, sizes, steps, lost=lost)
        for name, tensor in whole.items():
            assert not is_lost or not beside[name][lost].isfinite().any()
            kept = torch.ones(SEEDS, RATES, dtype=torch.bool)
            kept[lost] = False
            assert torch.equal(beside[name][kept], tensor[kept])


def assert_runs(rule, lr, steps=60, fall=0.7):
    """Descends through the engine on both rectangles, a stack and both precisions, with a hopeless rate beside."""
    problems = (
        (MatrixFactorization((7, 5)), "float32"),
        (MatrixFactorization((5, 7)), "float64"),
        (Stack((6, 5), (1, 2)), "float32"),
    )
    for (problem, dtype), method in product(problems, (LoRA(rank=2), Full())):
        lanes = run(problem, method, rule, lr=[lr, 1e30], seeds=2, steps=steps, probes="all", dtype=dtype).lanes
        good = lanes[lanes.lr == lr]
        assert (good.status == "ok").all()
        assert (good.final_loss < fall * good.initial_loss).all(), (problem, method, dtype, good.final_loss, good.initial_loss)


class Walk:
    """A torch optimizer by hand on given gradients, beside a rule of ours on one lane."""

    def __init__(self, rule, cls, lr, shapes, **options):
        self.ours = {name: gaussian(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
        self.theirs = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in self.ours.items()}
        self.rule, self.lr, self.state = rule, lr, rule.init(self.ours)
        self.twin = cls(list(self.theirs.values()), lr=lr, **options)

    def step(self, step, grads):
        for name, grad in grads.items():
            self.theirs[name].grad = grad.clone()
        self.twin.step()
        self.rule.update(self.ours, grads, self.state, self.lr, step)

    def go(self, steps, tolerance, seed=1000):
        """On random gradients that shrink and have a mean of their own."""
        means = {name: gaussian(*tensor.shape, seed=seed - 1 - i) for i, (name, tensor) in enumerate(self.ours.items())}
        for step in range(steps):
            noise = {name: gaussian(*mean.shape, seed=seed + len(means) * step + i) for i, (name, mean) in enumerate(means.items())}
            self.step(step, {name: (means[name] + noise[name]) / (1 + step) for name in means})
            for name, tensor in self.ours.items():
                torch.testing.assert_close(tensor, self.theirs[name].detach(), rtol=tolerance, atol=tolerance)
