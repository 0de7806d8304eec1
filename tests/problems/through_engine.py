"""A problem as the engine meets it: gradients of a block of lanes against autograd, and what a tuned method reaches."""

import torch
from by_hand import gradients

from bench.engine import Block, Settings
from bench.runs import run
from optimizers import SGD, Adam
from parameterizations import Flora, Full, LoRA

METHODS = {"a thin pair": LoRA(2), "a wide pair": LoRA(7), "a dense update": Full(), "bases of their own": Flora(2, interval=2)}


def assert_gradients_are_those_of(problem, loss, method, steps=3, seeds=(4, 9)):
    """The engine's gradients after some steps are autograd's of `loss(instance, W)` for every lane, which shares no code."""
    instances = [problem.draw(seed, dtype=torch.float64) for seed in seeds]
    block = Block(instances, method, SGD(), seeds, [0.05, 0.3, 0.1], Settings(steps, dtype=torch.float64, probes="none"))
    for step in range(steps):
        block.find_gradients(step)
        block.step()
    block.find_gradients(steps)
    for i, instance in enumerate(instances):
        for k in range(3):
            lane = {name: tensor[i, min(k, tensor.shape[1] - 1)] for name, tensor in block.params.items()}
            expected = gradients(method, lane, lambda weight, instance=instance: loss(instance, weight.dense()))
            for name, gradient in expected.items():
                assert gradient.abs().max() > 0
                torch.testing.assert_close(block.grads[name][i, k], gradient, rtol=1e-9, atol=1e-11)


def reached(problem, rank, rates=(0.003, 0.01, 0.03), seeds=6, steps=500, **options):
    """The relative error of every seed, by LoRA and Adam at the rate with the best median score."""
    lanes = run(problem, LoRA(rank), Adam(), lr=rates, seeds=seeds, steps=steps, probes="none", **options).lanes
    chosen = lanes.groupby("lr").score.median().idxmin()
    return lanes[lanes.lr == chosen].headline
