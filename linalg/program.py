"""A fixed sequence of operations on fixed memory: laid out once, run at every step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

UNROLLED = 8192  # entries from which sums along a matrix's rows are three times faster alone than in one of MKL's batches


class Program:
    """Operations in the order in which they were recorded; a call runs them all.

    What records an operation gets the memory of its result at once, and its content whenever the program has run. Views
    and shapes are worked out while recording, so that a run is one call into torch for each operation, and nothing is
    allocated: on small matrices the rest costs as much as the arithmetic.
    """

    def __init__(self) -> None:
        self.operations: list[Callable[[], Any]] = []
        self.memory: list[Tensor] = []
        self.fixed = True  # whether every run makes the same calls into torch, with the same numbers
        self._capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None
        self._warm_up = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self) -> None:
        if self._replay is not None:
            self._replay()
            return
        if self._capture is not None:
            self._warm_up -= 1
            if self._warm_up < 0:
                self._replay = self._capture(self._run)
                self._replay()
                return
        self._run()

    def _run(self) -> None:
        for operation in self.operations:
            operation()

    def capture(self, capture: Callable[[Callable[[], None]], Callable[[], None]], warm_up: int = 3) -> None:
        """After so many runs as they are, let `capture` turn the operations into one call, if every run makes the same ones.

        Args:
            capture: is handed a function that makes the calls, and gives one that repeats them; see `cuda_graph`.
        """
        if self.fixed:
            self._capture, self._warm_up = capture, warm_up

    @property
    def bytes(self) -> int:
        """What results take for which no memory was given."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.memory)

    def empty(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Memory for a result; leading dimensions lie in the order of those of `like`, where it has as many."""
        lead = _order(like) if like.ndim == len(shape) else list(range(len(shape) - 2))
        order = [*lead, *range(len(lead), len(shape))]
        stored = like.new_empty([shape[dim] for dim in order])
        self.memory.append(stored.permute([order.index(dim) for dim in range(len(shape))]))
        return self.memory[-1]

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Record a call that does the same to the same memory at every run."""
        self.operations.append(partial(function, *args, **kwargs))

    def decide(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Record a call that may do something else at every run, such as what depends on the step."""
        self.fixed = False
        self.do(function, *args, **kwargs)

    def copy(self, x: Tensor) -> Tensor:
        """Record a copy of x in rows."""
        self.memory.append(x.new_empty(x.shape))
        self.do(self.memory[-1].copy_, x)
        return self.memory[-1]

    def matmul(self, a: Tensor, b: Tensor, out: Tensor | None = None, *, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
        """Record out ← alpha a @ b + beta out for a (..., p, q), b (..., q, s) and out (..., p, s), new if not given.

        Leading dimensions broadcast to out's. `out` lies row by row or column by column in each matrix.

        Where one operand is shared, with a dimension of 1 where out has K (all rates of a seed work against one target),
        the other's K matrices are made one tall matrix: a single GEMM a seed.
        """
        if out is None:
            lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            like = a if a.shape[:-2].numel() >= b.shape[:-2].numel() else b
            out = self.empty(like, (*lead, a.shape[-2], b.shape[-1]))
        order = _order(out)
        if order != sorted(order):  # as they lie in memory
            a, b = (x[(None,) * (out.ndim - x.ndim)] for x in (a, b))
            a, b, place = (x.permute(*order, -2, -1) for x in (a, b, out))
            self._multiply(a, b, place, alpha, beta)
        else:
            self._multiply(a, b, out, alpha, beta)
        return out

    def _multiply(self, a: Tensor, b: Tensor, out: Tensor, alpha: float, beta: float) -> None:
        if out.stride(-1) != 1 and out.shape[-1] > 1:
            a, b, out = b.mT, a.mT, out.mT
        lanes = out.shape[-3] if out.ndim > 2 else 1
        if lanes > 1 and _shared(a) and not _shared(b):
            transposed = self.empty(out, out.mT.shape)
            self._multiply(b.mT, a.mT, transposed, alpha, 0.0)
            self.do(torch.add, transposed.mT, out, alpha=beta, out=out) if beta else self.do(out.copy_, transposed.mT)
            return
        if lanes > 1 and _shared(b) and not _shared(a):
            a = a if _stacked(a) else self.copy(a)
            a, out = a.flatten(-3, -2), out.view(*out.shape[:-3], -1, out.shape[-1])
            b = b.squeeze(-3) if b.ndim > 2 else b
        if out.shape[-1] == 1:
            a, b, out = b.mT, a.mT, out.mT  # MKL's batches are faster with the vector on the left
        lead = out.shape[:-2]
        a, b = (self._one_batch(x.expand(*lead, *x.shape[-2:])) for x in (a, b))
        out = out.view(-1, *out.shape[-2:])
        sums_along_rows = out.shape[-2] == 1 and b.stride(-1) != 1
        if len(out) == 1 or (sums_along_rows and b[0].numel() >= UNROLLED and b.device.type == "cpu"):
            for one in zip(a, b, out, strict=True):
                self._call(*one, alpha, beta)
        else:
            self._call(a, b, out, alpha, beta)

    def _call(self, a: Tensor, b: Tensor, out: Tensor, alpha: float, beta: float) -> None:
        plain, adding = (torch.mm, torch.addmm) if out.ndim == 2 else (torch.bmm, torch.baddbmm)
        if (alpha, beta) == (1, 0):
            self.do(plain, a, b, out=out)
        else:
            self.do(adding, out, a, b, alpha=alpha, beta=beta, out=out)

    def _one_batch(self, x: Tensor) -> Tensor:
        """(batch, p, q) of x (..., p, q), copied where no strides say it."""
        try:
            return x.view(-1, *x.shape[-2:])
        except RuntimeError:
            return self.copy(x).view(-1, *x.shape[-2:])


def _order(x: Tensor) -> list[int]:
    """The leading dimensions of matrices (..., p, q) from the one that memory is farthest apart in; those of one stay in front."""
    return sorted(range(x.ndim - 2), key=lambda dim: (x.shape[dim] > 1, -x.stride()[dim]))


def _shared(x: Tensor) -> bool:
    return x.ndim < 3 or x.shape[-3] == 1


def _stacked(x: Tensor) -> bool:
    """Whether the matrices of the last leading dimension lie one below the other."""
    return x.stride(-3) == x.shape[-2] * x.stride(-2)


def cuda_graph(run: Callable[[], None]) -> Callable[[], None]:
    """The calls that `run` makes on the current CUDA device as one graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
