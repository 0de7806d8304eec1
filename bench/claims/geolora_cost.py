"""What a step of GeoLoRA costs, beside AdaLoRA's."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.claims._claim import FAILS, HOLDS, SEEDS, Evidence, Finding, at_most, claim, typical, worst
from bench.claims._geolora import PAPER, in_all
from linalg.random import gaussian, generator
from optimizers import Adam, GeoLoRA
from parameterizations import SVD, AdaLoRA, Step

LEDGER = "geolora"


def updates(size: int, rank: int, coefficient_steps: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """One period of GeoLoRA's updates, and as many of AdaLoRA's with Adam, all from gradients that are given."""
    draw = generator(size + rank, "cost")
    shape, steps = (size, size), coefficient_steps + 1
    ours, rule = (
        SVD(rank).init(shape, generator=draw, dtype=torch.float32, device="cpu"),
        GeoLoRA(coefficient_steps=coefficient_steps),
    )
    method = AdaLoRA(rank, start=rank)
    theirs, adam = method.init(shape, generator=draw, dtype=torch.float32, device="cpu"), Adam()
    grads, moved = (
        {name: 1e-3 * gaussian(*x.shape, generator=draw).float() for name, x in each.items()} for each in (ours, theirs)
    )
    state, other = rule.init(ours), adam.init(theirs)
    at = Step(500, 1000)  # while the budget falls

    def geolora() -> None:
        for step in range(steps):
            rule.update(ours, grads, state, 1e-3, step)

    def adalora() -> None:
        for _ in range(steps):
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in theirs.items()}
            penalty = method.penalty(leaves)
            assert penalty is not None
            own = torch.autograd.grad(penalty, [leaves["left"], leaves["right"]])
            total = moved | {"left": moved["left"] + own[0], "right": moved["right"] + own[1]}
            with torch.no_grad():
                adam.update(theirs, total, other, 1e-3, 0)
                method.after_step(theirs, total, other, at)

    return geolora, adalora


def seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@claim(
    "h",
    "GeoLoRA's updates take less time than AdaLoRA's.",
    source=f"{PAPER}, abstract: faster than AdaLoRA; restated for the updates alone (dossier, section 6h)",
    matched="one n x n weight, one rank r for both, float32, one thread, this machine; forward and backward passes left out",
)
def updates_are_faster(evidence: Evidence) -> Finding:
    figures, found = [], {}
    for size, rank in ((768, 8), (768, 32), (4096, 8), (4096, 32)):
        for coefficient_steps in (1, 10, 100):
            ours, theirs = updates(size, rank, coefficient_steps)
            with one_thread():
                seconds(ours), seconds(theirs)
                ratios = [statistics.median(seconds(ours) / seconds(theirs) for _ in range(3)) for _ in SEEDS]
            where = f"n = {size}, r = {rank}, c = {coefficient_steps}"
            figures.append(typical(evidence, f"seconds, GeoLoRA / AdaLoRA, {where}", ratios))
            found[where] = at_most(figures[-1], 1)
    verdict = in_all(found)
    slower = "; ".join(where for where, fast in found.items() if fast is False)
    return Finding(verdict, f"Over a period of c + 1 steps; ten repeats, in turn. Slower at: {slower or 'none'}.", tuple(figures))


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Keeps the number of entries of the largest tensor that any operation gives."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


@claim(
    "h_memory",
    "A GeoLoRA step needs one gradient, and nothing as large as the weight.",
    source=f"{PAPER}, algorithm 1: one forward and one backward pass; memory is the dossier's (section 6h)",
    matched="one augmentation, one coefficient step and one truncation; 768 x 512, rank 8, random bases and gradients",
)
def needs_one_gradient(evidence: Evidence) -> Finding:
    def asked() -> Tensor:
        raise AssertionError("a second gradient was asked for")

    largest = []
    for seed in SEEDS:
        draw = generator(seed, "cost")
        params = SVD(8).init((768, 512), generator=draw, dtype=torch.float32, device="cpu")
        grads = {name: gaussian(*tensor.shape, generator=draw).float() for name, tensor in params.items()}
        rule, counted = GeoLoRA(coefficient_steps=1), Largest()
        state = rule.init(params)
        with counted:
            for step in range(2):
                rule.update(params, grads, state, 1e-3, Step(step, 2, closure=lambda lane: asked(), gradient=asked))  # type: ignore[arg-type,return-value]  # stubs
        largest.append(counted.entries / (768 * 512))
    figure = worst(evidence, "entries of the largest tensor over those of the weight", largest)
    # [U, G V] of 2r columns is the largest that the algorithm needs
    verdict = HOLDS if at_most(figure, 2 * 8 / 512) else FAILS
    return Finding(verdict, "Bound: m x 2r, the size of [U, G V]. No other gradient is asked for.", (figure,))
