"""How a process of the suite is set up, before its first run."""

import contextlib
import ctypes
import gc
import os
import time
from functools import cache
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names for its two limits


@cache
def prepare() -> None:
    """One thread, no subnormal numbers, freed memory kept, and what is there by now out of the garbage collector's sight.

    Small-matrix regions stall when OpenMP spreads them over cores; cells do the spreading. Subnormals (below 1e-38 in
    float32) cost a hundred times a normal number and decide nothing. Memory that glibc gives back after every temporary
    is paid for again in page faults. The modules' own hundred thousand objects take 0.1 s to go through, which joblib's
    workers do after every job.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
    gc.collect()
    gc.freeze()


def age() -> float:
    """Seconds since this process was started, imports included; its processor time where the system does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.process_time()
