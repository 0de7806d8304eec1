"""What this machine can do at most on one thread: matrix products and moving memory."""

from collections.abc import Callable, Mapping

import torch

from bench.perf.work import clock
from bench.runs import DTYPES

SHAPES = ((512, 512, 512), (1024, 1024, 1024), (16, 512, 512), (160, 512, 512))  # m, k, n of products
TRIADS = (1 << 20, 4 << 20, 16 << 20, 64 << 20, 1200 << 20)  # bytes of its arrays: from a core's own cache to far beyond every one
REPEATS = 7
LEAST_SECONDS = 0.01  # of a timing


def measure(device: str) -> dict[str, float]:
    """Operations a second by dtype (`gemm_float32`, `gemm_float64`), and bytes a second by working set (`triad_1048576`, ...)."""
    rates = {f"gemm_{dtype}": max(gemm(shape, dtype, device) for shape in SHAPES) for dtype in DTYPES}
    return rates | {f"triad_{size}": triad(size, device) for size in TRIADS}


def bandwidth(limits: Mapping[str, float], working_set: int) -> float:
    """Bytes a second at most while going over that many bytes again and again: what was measured at the next smaller size."""
    return limits[f"triad_{max((size for size in TRIADS if size <= working_set), default=TRIADS[0])}"]


def gemm(shape: tuple[int, int, int], dtype: str, device: str) -> float:
    """Floating-point operations a second of a product."""
    m, k, n = shape
    left, right = (torch.randn(size, dtype=DTYPES[dtype], device=device) for size in ((m, k), (k, n)))
    out = left @ right
    return 2 * m * k * n / best_seconds(lambda: torch.mm(left, right, out=out), device)


def triad(size: int, device: str) -> float:
    """Bytes a second of a = b + s c, two reads and a write; that a write first fetches its line is not counted."""
    entries = size // 12
    a, b, c = (torch.ones(entries, device=device) for _ in range(3))
    return 12 * entries / best_seconds(lambda: torch.add(b, c, alpha=0.5, out=a), device)


def best_seconds(act: Callable[[], object], device: str) -> float:
    """The fastest of a few timings, each of as many calls as take a while."""
    calls, best = 1, float("inf")
    for _ in range(REPEATS):
        started = clock(device)
        for _ in range(calls):
            act()
        seconds = (clock(device) - started) / calls
        best, calls = min(best, seconds), max(calls, int(LEAST_SECONDS / seconds))
    return best
