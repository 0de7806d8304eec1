"""What is measured: one problem, parameterization and optimizer at one size, and the least that a step of it must do."""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise, product

from bench.engine import Settings, initial_tensors
from bench.runs import DTYPES
from optimizers import SGD, Adam, Optimizer
from parameterizations import Deep, DeepLoRA, LoRA, OPLoRA, Parameterization, Params
from problems import Instance, MatrixCompletion, MatrixFactorization, Problem
from problems._completion import DENSE_ABOVE

METHODS, RULES = ("lora", "op_lora", "deep_lora", "deep"), ("sgd", "adam")
SEEDS, RATES = 8, 16
DEPTH, HIDDEN, EMBEDDING = 3, 32, 128  # of deep and deep_lora; of op_lora
OUTER_RATE = 0.3  # of deep_lora
LANE_BYTES, STEP_SECONDS = 512 << 20, 0.06  # what the lanes of a cell may take together: memory, and time a step
TYPICAL_FLOPS = {"float32": 60e9, "float64": 30e9}  # a second; only to guess how long a step takes
LARGE = 512 * 512  # entries of a weight above which its singular vectors take longer than its steps
EPS = {"float32": 1e-2, "float64": 1e-8}
RANKS = {32: 4, 100: 10, 512: 16, 1024: 16}
HIGHEST_RATE = {("op_lora", "sgd"): 1e-3, ("op_lora", "adam"): 1e-3}  # above, the generator's first steps overshoot


@dataclass(frozen=True)
class Cell:
    """A problem, a parameterization and an optimizer on (m, n) weights of one rank, and how many lanes run it.

    Args:
        observed: fraction of observed entries; below 1 the problem is matrix completion.
        seeds, rates: lanes are their crossing.
        eps: Adam's.
    """

    parameterization: str
    optimizer: str
    m: int
    n: int
    rank: int
    dtype: str = "float32"
    device: str = "cpu"
    observed: float = 1.0
    seeds: int = SEEDS
    rates: int = RATES
    eps: float = 1e-8

    @property
    def problem(self) -> str:
        return "matrix_factorization" if self.observed == 1 else "matrix_completion"

    @property
    def name(self) -> str:
        share = "" if self.observed == 1 else f" {self.observed:.0%}"
        return f"{self.problem}{share} {self.parameterization} {self.optimizer} {self.m}x{self.n} r{self.rank} {self.dtype}"

    @property
    def lanes(self) -> int:
        return self.seeds * self.rates

    @property
    def lrs(self) -> list[float]:
        """Falling from the highest that nothing diverges at, two decades in sixteen."""
        highest = HIGHEST_RATE.get((self.parameterization, self.optimizer), {"sgd": 1e-1, "adam": 1e-2}[self.optimizer])
        return [highest * 10 ** (-2 * i / (RATES - 1)) for i in range(self.rates)]

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def method(self) -> Parameterization:
        made: dict[str, Parameterization] = {
            "lora": LoRA(rank=self.rank),
            "op_lora": OPLoRA(rank=self.rank, hidden=HIDDEN, embedding=EMBEDDING),
            "deep_lora": DeepLoRA(rank=self.rank, depth=DEPTH, outer_rate=OUTER_RATE),
            "deep": Deep(depth=DEPTH),
        }
        return made[self.parameterization]

    @property
    def rule(self) -> Optimizer:
        return {"sgd": SGD(), "adam": Adam(eps=self.eps)}[self.optimizer]

    @property
    def objective(self) -> Problem:
        shape = (self.m, self.n)
        return MatrixFactorization(shape) if self.observed == 1 else MatrixCompletion(shape, rank=4, observed=self.observed)

    def settings(self, steps: int) -> Settings:
        return Settings(steps, dtype=DTYPES[self.dtype], device=self.device, probes="none")

    @property
    def instances(self) -> list[Instance]:
        """One a seed, kept for the cells that share them."""
        return [_draw(self.objective, seed, self.dtype, self.device) for seed in range(self.seeds)]

    @property
    def start(self) -> list[Params]:
        """The initial tensors of each seed."""
        return [_start(self.objective, self.method, seed, self.dtype, self.device) for seed in range(self.seeds)]

    def sample(self, dtype: str) -> "Cell":
        """A few lanes to compare contestants by.

        In float32 Adam's eps is large: else it makes whole steps of gradients that are zero but for rounding.
        """
        seeds = 1 if self.m * self.n > LARGE else min(2, self.seeds)
        return replace(self, dtype=dtype, seeds=seeds, rates=min(2, self.rates), eps=EPS[dtype])

    def capped(self) -> "Cell":
        """As many lanes as fit in memory and in the time of a step: a power of two, so that blocks come out even."""
        moments = len(self.rule.moments)
        memory = LANE_BYTES // (trainable_entries(self) * self.itemsize * (3 + moments))
        time = int(STEP_SECONDS / (flops(self) / TYPICAL_FLOPS[self.dtype]))
        lanes = max(1, min(memory, time, self.lanes))
        lanes = self.lanes if lanes == self.lanes else 1 << (lanes.bit_length() - 1)
        rates = min(lanes, self.rates)
        return replace(self, seeds=lanes // rates, rates=rates)


@lru_cache(maxsize=512)
def _draw(problem: Problem, seed: int, dtype: str, device: str) -> Instance:
    return problem.draw(seed, dtype=DTYPES[dtype], device=device)


@lru_cache(maxsize=512)
def _start(problem: Problem, method: Parameterization, seed: int, dtype: str, device: str) -> Params:
    settings = Settings(1, dtype=DTYPES[dtype], device=device, probes="none")
    return initial_tensors(_draw(problem, seed, dtype, device), seed, method, settings)


def widths(cell: Cell) -> list[int]:
    """m, ..., n: the dimensions along the chain of factors."""
    m, n, rank = cell.m, cell.n, cell.rank
    if cell.parameterization == "deep":
        return [m, *[min(m, n)] * (DEPTH - 1), n]
    if cell.parameterization == "deep_lora":  # the longer side has half the rank more
        tall, wide = (min(rank + rank // 2 * (ours > other), ours) for ours, other in ((m, n), (n, m)))
        return [m, tall, *[rank] * (DEPTH - 1), wide, n]
    return [m, rank, n]


def is_thin(cell: Cell) -> bool:
    """Whether the engine takes gradients through the pair (see `FactoredMatrix.parts`)."""
    return 2 * (cell.m + cell.n) * min(widths(cell)) < cell.m * cell.n


def is_gathered(cell: Cell) -> bool:
    """Whether the engine works on the observed entries alone."""
    return cell.observed <= DENSE_ABOVE and is_thin(cell)


def has_other_algebra(cell: Cell) -> bool:
    """Whether the engine's gradient is another computation than that of autograd through the residual."""
    return is_gathered(cell) if cell.observed < 1 else is_thin(cell)


def trainable_entries(cell: Cell) -> int:
    """Numbers that a lane trains."""
    chain = widths(cell)
    if cell.parameterization == "op_lora":
        return EMBEDDING + HIDDEN * (EMBEDDING + 1) + (cell.m + cell.n) * cell.rank * (HIDDEN + 1)
    return sum(rows * columns for rows, columns in pairwise(chain))


def flops(cell: Cell) -> int:
    """Floating-point operations of the gradient of one lane, by the cheapest algebra that the engine knows.

    From the pair L (m, r), R (r, n), cut where the chain is narrowest, the loss costs
        2mr² + 2nr² twice and 2mnr twice    through RRᵀ and LᵀL, where the pair is thin and everything is observed,
        6mnr                                through the residual: a product forward, two back,
        6Nr                                 through N gathered entries.
    Every product that makes the pair out of the chain, and every layer of OP-LoRA's generator, costs itself forward and
    twice that back.
    """
    m, n, chain = cell.m, cell.n, widths(cell)
    r = min(chain[1:-1])
    cut = chain.index(r, 1, -1)
    if cell.observed == 1 and is_thin(cell):
        loss = 4 * m * n * r + 4 * (m + n) * r**2
    else:
        loss = 6 * (int(cell.observed * m * n) if is_gathered(cell) else m * n) * r
    left = sum(2 * chain[i - 1] * chain[i] * r for i in range(cut - 1, 0, -1))
    right = sum(2 * r * chain[i] * chain[i + 1] for i in range(cut + 1, len(chain) - 1))
    generator = 2 * HIDDEN * (EMBEDDING + (m + n) * r) if cell.parameterization == "op_lora" else 0
    return loss + 3 * (left + right + generator)


def update_bytes(cell: Cell) -> int:
    """What the update of one lane moves: SGD reads parameter and gradient and writes the parameter; Adam the moments as well."""
    return (3 + 2 * len(cell.rule.moments)) * trainable_entries(cell) * cell.itemsize


def state_bytes(cell: Cell) -> int:
    """What a lane keeps from step to step, parameters and moments: a step cannot do without any of it."""
    return (1 + len(cell.rule.moments)) * trainable_entries(cell) * cell.itemsize


def full(device: str) -> list[Cell]:
    """Every cell, those of a size together."""
    shapes = [(n, n, rank) for n, rank in RANKS.items()] + [(300, 100, 8)]
    cells = [
        Cell(method, rule, m, n, rank, dtype, device)
        for (m, n, rank), dtype, method, rule in product(shapes, DTYPES, METHODS, RULES)
    ]
    cells += [
        Cell(method, rule, 512, 512, RANKS[512], device=device, observed=observed)
        for observed, method, rule in product((0.2, 0.02), METHODS[:3], RULES)
    ]
    return [cell.capped() for cell in cells]


def quick(device: str) -> list[Cell]:
    """What a minute allows."""
    cells = [Cell("lora", "sgd", 100, 100, 10, device=device)]
    cells += [Cell(method, "adam", 100, 100, 10, device=device) for method in METHODS]
    cells += [Cell("lora", "sgd", 512, 512, 16, device=device)]
    return [cell.capped() for cell in cells]
