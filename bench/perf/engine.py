"""This suite's engine, by its public entry points alone."""

from collections.abc import Iterator

import numpy as np

from bench.blocks import block_bytes, cut_blocks, working_set
from bench.engine import Block
from bench.perf.cells import Cell
from bench.perf.work import Work, clock, count
from bench.process import prepare
from linalg import FactoredMatrix


class Engine(Work):
    """Blocks as `bench.runs.run` cuts them, without its probes."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        lane, seed = working_set(cell.instances[0], cell.method, cell.rule, cell.settings(1))
        self.blocks = list(cut_blocks(cell.seeds, cell.rates, lane, block_bytes(cell.device), seed))

    def lanes_of(self, block: tuple[slice, slice]) -> int:
        return count(block)

    def build(self, block: tuple[slice, slice], steps: int) -> Block:
        cell, (by_seed, by_rate) = self.cell, block
        seeds = list(range(cell.seeds))[by_seed]
        built = Block(cell.instances[by_seed], cell.method, cell.rule, seeds, cell.lrs[by_rate], cell.settings(steps))
        built.find_gradients(0)  # what is set up at the first call is no part of a step, as what JAX compiles is not
        return built

    def advance(self, built: Block, steps: int) -> float:
        started = clock(self.cell.device)
        for step in range(steps):
            built.find_gradients(step)
            built.step()
        return clock(self.cell.device) - started

    def weights(self, built: Block) -> np.ndarray:
        weight = built.weight()
        exact = FactoredMatrix(tuple(factor.detach().double() for factor in weight.factors), scale=weight.scale).dense()
        return exact.reshape(-1, *weight.shape).cpu().numpy()


def start(device: str) -> None:
    """Set the process up."""
    prepare()


def works(cell: Cell, contestant: str) -> Iterator[Work]:
    yield Engine(cell)
