"""JAX: all steps in one compiled loop over vmapped lanes, with the rates of a seed sharing its target."""

import time
from collections.abc import Iterator
from functools import partial, reduce
from operator import matmul
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.perf.cells import LARGE, Cell, is_gathered
from bench.perf.loop import dense_target
from bench.perf.work import Work, chain, clock, count
from optimizers import Adam
from problems._completion import Completion

SIZES = (16, 4, 1)  # lanes of a block that are tried beside all of them
LARGE_SIZES = (4, 1)  # where a few weights fill a core's cache: there 16 has lost, or won by 3 %; all has won
Arrays = dict[str, Any]


class Scan(Work):
    """Blocks of one size, compiled once.

    Args:
        size: lanes of a block: all, or a divisor of the rates of a seed.
        gram: take gradients by the engine's algebra instead of `jax.grad` of the loss.
    """

    def __init__(self, cell: Cell, size: int, gram: bool) -> None:
        super().__init__(cell)
        seeds, rates = (cell.seeds, cell.rates) if size == cell.lanes else (1, size)
        self.blocks = [
            (slice(seed, seed + seeds), slice(rate, rate + rates))
            for seed in range(0, cell.seeds, seeds)
            for rate in range(0, cell.rates, rates)
        ]
        self.gathers = gram and is_gathered(cell)
        gradient = partial(engine_gradient if gram else jax.grad(loss, argnums=1), cell)
        jitted = jax.jit(partial(advance, cell, gradient), donate_argnums=(0,))
        state, lr, data = self.build(self.blocks[0], 1)
        started = time.perf_counter()
        self.compiled = jitted.lower(state, lr, data, 1).compile()
        self.compile_seconds = time.perf_counter() - started

    def lanes_of(self, block: tuple[slice, slice]) -> int:
        return count(block)

    def build(self, block: tuple[slice, slice], steps: int) -> list[Any]:
        cell, (by_seed, by_rate) = self.cell, block
        rates = by_rate.stop - by_rate.start
        params = {}
        for name in cell.start[0]:
            seeds = np.stack([tensors[name].cpu().numpy() for tensors in cell.start[by_seed]])
            params[name] = jnp.asarray(np.repeat(seeds[:, None], rates, axis=1))
        moments = {name: [jnp.zeros_like(param) for _ in cell.rule.moments] for name, param in params.items()}
        lr = jnp.asarray(np.broadcast_to(cell.lrs[by_rate], (by_seed.stop - by_seed.start, rates)), dtype=cell.dtype)
        targets = [self.target(seed) for seed in range(by_seed.start, by_seed.stop)]
        data = {name: jnp.asarray(np.stack([target[name] for target in targets])) for name in targets[0]}
        return [(params, moments, jnp.zeros((), jnp.int32)), lr, data]

    def target(self, seed: int) -> dict[str, np.ndarray]:
        """What the loss of a seed is made of."""
        target, mask, scale = dense_target(self.cell, seed)
        if mask is None:
            return {"target": target.cpu().numpy()}
        scale_array = np.asarray(scale, dtype=self.cell.dtype)
        if not self.gathers:
            return {"target": target.cpu().numpy(), "mask": mask.cpu().numpy(), "scale": scale_array}
        instance = self.cell.instances[seed]
        assert isinstance(instance, Completion)
        row, column = np.divmod(instance.observed.cpu().numpy().astype(np.int32), self.cell.n)
        return {"row": row, "column": column, "values": instance.values.cpu().numpy(), "scale": scale_array}

    def advance(self, built: list[Any], steps: int) -> float:
        state, lr, data = built
        jax.block_until_ready(state)
        started = clock(self.cell.device)
        built[0] = jax.block_until_ready(self.compiled(state, lr, data, steps))
        return clock(self.cell.device) - started

    def weights(self, built: list[Any]) -> np.ndarray:
        params = {name: np.asarray(param, dtype=np.float64) for name, param in built[0][0].items()}
        lanes = np.ndindex(*next(iter(params.values())).shape[:2])
        own = [{name: param[lane] for name, param in params.items()} for lane in lanes]
        return np.stack([reduce(matmul, chain(self.cell, lane, lambda x: np.maximum(x, 0))) for lane in own])


def advance(cell: Cell, gradient: Any, state: Any, lr: Any, data: Arrays, steps: Any) -> Any:
    """`steps` updates of lanes (seeds, rates, ...) on data (seeds, ...)."""

    def step(params: Arrays, moments: Arrays, lr: Any, data: Arrays, count: Any) -> Any:
        grads = gradient(params, data)
        moved = {
            name: update(cell, param, grads[name], moments[name], lr * cell.method.rates.get(name, 1.0), count)
            for name, param in params.items()
        }
        return {name: param for name, (param, _) in moved.items()}, {name: moment for name, (_, moment) in moved.items()}

    lanes = jax.vmap(jax.vmap(step, in_axes=(0, 0, 0, None, None)), in_axes=(0, 0, 0, 0, None))

    def body(_: Any, state: Any) -> Any:
        params, moments, count = state
        return *lanes(params, moments, lr, data, count + 1), count + 1

    return lax.fori_loop(0, steps, body, state)  # a scan whose length is known when it runs: one compilation serves all


def update(cell: Cell, param: Any, grad: Any, moments: list[Any], lr: Any, count: Any) -> tuple[Any, list[Any]]:
    """SGD, or Adam as Kingma and Ba write it."""
    if cell.optimizer == "sgd":
        return param - lr * grad, moments
    assert isinstance(cell.rule, Adam)
    (beta1, beta2), eps = cell.rule.betas, cell.rule.eps
    first = beta1 * moments[0] + (1 - beta1) * grad
    second = beta2 * moments[1] + (1 - beta2) * grad * grad
    shares = ((1 - beta ** count.astype(jnp.float64)).astype(param.dtype) for beta in (beta1, beta2))  # float32 would cancel
    share1, share2 = shares
    return param - lr * (first / share1) / (jnp.sqrt(second / share2) + eps), [first, second]


def loss(cell: Cell, params: Arrays, data: Arrays) -> Any:
    """What a JAX user writes: half the squared residual of the dense weight, under the mask."""
    residual = reduce(matmul, chain(cell, params, jax.nn.relu)) - data["target"]
    if "mask" not in data:
        return 0.5 * jnp.sum(residual * residual)
    masked = residual * data["mask"]
    return 0.5 * data["scale"] * jnp.sum(masked * masked)


def engine_gradient(cell: Cell, params: Arrays, data: Arrays) -> Arrays:
    """The engine's algebra: the pair's gradients without the residual, pulled back through what made the pair."""
    (left, right), pull_back = jax.vjp(partial(pair, cell), params)
    if "row" in data:
        grads = gathered_gradients(left, right, data)
    else:
        target = data["target"]
        grads = left @ (right @ right.T) - target @ right.T, (left.T @ left) @ right - left.T @ target
    return pull_back(grads)[0]


def pair(cell: Cell, params: Arrays) -> tuple[Any, Any]:
    """Left (m, r) and right (r, n), cut where the chain is narrowest, as `FactoredMatrix.pair` does it."""
    factors = chain(cell, params, jax.nn.relu)
    inner = [factor.shape[1] for factor in factors[:-1]]
    cut = inner.index(min(inner)) + 1
    return reduce(lambda product, factor: factor @ product, reversed(factors[:cut])), reduce(matmul, factors[cut:])


def gathered_gradients(left: Any, right: Any, data: Arrays) -> tuple[Any, Any]:
    """Gradients from the observed entries alone: gathered rows, and sums by segment."""
    lefts, rights = left[data["row"]], right.T[data["column"]]
    residual = data["scale"] * (jnp.sum(lefts * rights, axis=1) - data["values"])
    grad_left = jax.ops.segment_sum(residual[:, None] * rights, data["row"], left.shape[0], indices_are_sorted=True)
    grad_right = jax.ops.segment_sum(residual[:, None] * lefts, data["column"], right.shape[1])
    return grad_left, grad_right.T


def start(device: str) -> None:
    """Both precisions, full accuracy of products, the one device."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_platforms", "cuda" if device.startswith("cuda") else "cpu")
    jax.devices()


def works(cell: Cell, contestant: str) -> Iterator[Work]:
    """One for each size of blocks."""
    large = cell.m * cell.n >= LARGE and cell.device == "cpu"
    smaller = [size for size in (LARGE_SIZES if large else SIZES) if size < cell.lanes and cell.rates % size == 0]
    for size in (cell.lanes, *smaller):
        yield Scan(cell, size, contestant == "jax_gram")
