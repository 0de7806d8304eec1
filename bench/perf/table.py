"""Rows of measurements: kept whole after every cell, and printed."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bench.perf.cells import Cell, flops, state_bytes, update_bytes
from bench.perf.contest import Timing
from bench.perf.limits import TRIADS
from bench.perf.limits import bandwidth as bandwidth_of
from bench.perf.worker import MODULES
from bench.store import replacing, write

KEYS = ("problem", "observed", "parameterization", "optimizer", "m", "n", "rank", "lanes", "dtype", "device")
OTHERS = tuple(name for name in MODULES if name != "engine")
COLUMNS = (
    *KEYS,
    *(f"{name}_us" for name in MODULES),
    *(f"{name}_ratio" for name in OTHERS),
    *(f"{name}_block" for name in MODULES if name != "loop"),
    *(f"{name}_compile_seconds" for name in MODULES if name.startswith("jax")),
    *("arithmetic_us", "bandwidth_us", "bound", "fraction"),
    *(f"{name}_mb" for name in MODULES),
    "core_share",
)
CAPTION = """jax_gram: JAX given the engine's algebra; * where that is no other than jax. blocks: lanes of engine/jax/jax_gram.
compile: jax's, not in its time. limit: the larger of arithmetic (a) and bandwidth (b). MB: engine/loop/jax/jax_gram, a block at
its peak. ! something else took more than a tenth of the core, and some of its cache: times are too long."""
LEAST_SHARE = 0.9
SAME_MACHINE = ("cpu", "cores", "gpu", "python", "torch", "jax")  # rows of one table come from one of these


def row(cell: Cell, timings: Mapping[str, Timing], limits: Mapping[str, float]) -> dict[str, Any]:
    """A cell's line: µs a lane-step, each over the engine's, blocks, compilation, limits, memory.

    `fraction` is the larger of the two limits over the engine's time; `core_share` is the lowest of the contestants', see
    `Timing`. Where the engine has no algebra of its own, `jax_gram` repeats `jax`.
    """
    known = asdict(cell) | {"problem": cell.problem, "lanes": cell.lanes}
    arithmetic = 1e6 * flops(cell) / limits[f"gemm_{cell.dtype}"]
    bandwidth = 1e6 * update_bytes(cell) / bandwidth_of(limits, state_bytes(cell))
    found: dict[str, Any] = {key: known[key] for key in KEYS}
    found |= {"arithmetic_us": arithmetic, "bandwidth_us": bandwidth}
    found["bound"] = "arithmetic" if arithmetic > bandwidth else "bandwidth"
    timings = {**timings, "jax_gram": timings["jax"]} if "jax" in timings and "jax_gram" not in timings else timings
    for name, timing in timings.items():
        found[f"{name}_us"], found[f"{name}_mb"], found[f"{name}_block"] = timing.us, timing.mb, timing.block
        found[f"{name}_compile_seconds"] = timing.compile_seconds
        if "engine" in timings:
            found[f"{name}_ratio"] = timing.us / timings["engine"].us
    if "engine" in timings:
        found["fraction"] = max(arithmetic, bandwidth) / timings["engine"].us
    found["core_share"] = min(timing.share for timing in timings.values())
    return {name: found.get(name) for name in COLUMNS}


class Rows:
    """A CSV file of rows, one a cell, written whole every time.

    Args:
        path: the file; what it holds stays, each row until its cell is measured again.
        fresh: forget what it holds.
    """

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path = path
        kept = not fresh and path.is_file()
        self.frame = pd.read_csv(path) if kept else pd.DataFrame(columns=list(COLUMNS))

    def add(self, line: Mapping[str, Any]) -> None:
        before = {tuple(old[key] for key in KEYS): old for old in self.frame.to_dict("records")}
        before[tuple(line[key] for key in KEYS)] = dict(line)
        self.frame = pd.DataFrame(list(before.values()), columns=list(COLUMNS))
        with replacing(self.path) as partial:
            self.frame.to_csv(partial, index=False, float_format="%.5g")


def machine(device: str, limits: Mapping[str, float]) -> dict[str, Any]:
    """What the figures were measured on; no names of hosts or folders."""
    try:
        jax_version: str | None = version("jax")
    except PackageNotFoundError:
        jax_version = None
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "jax": jax_version,
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "gemm_gflops": {name.removeprefix("gemm_"): round(rate / 1e9, 1) for name, rate in limits.items() if "gemm" in name},
        "bandwidth_gbs": {f"{size >> 20} MiB": round(limits[f"triad_{size}"] / 1e9, 1) for size in TRIADS},
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def keep_machine(folder: Path, found: Mapping[str, Any]) -> bool:
    """Write `machine.json`; whether an earlier one says the same machine and versions."""
    path = folder / "machine.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    write(path, json.dumps(found, indent=1))
    return all(before.get(key) == found[key] for key in SAME_MACHINE)


def show(rows: pd.DataFrame, console: Console | None = None) -> None:
    """The table for reading."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    table = Table(
        title="µs a lane-step of the engine, and how many times that the others take",
        caption=CAPTION,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("cell", no_wrap=True)
    for column in ("lanes", "engine µs", "loop", "jax", "jax_gram", "blocks", "compile s", "limit µs", "of it", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    shown = None
    for _, line in rows.iterrows():
        names = ("engine", "jax", "jax_gram")
        same = line["jax_us"] == line["jax_gram_us"]
        if (head := (line["problem"], line["observed"])) != shown:
            shown = head
            table.add_row(f"[bold]{head[0]}" + ("" if head[1] == 1 else f", {head[1]:.0%} observed"))
        table.add_row(
            f"  {line['parameterization']} {line['optimizer']} {line['m']}x{line['n']} r{line['rank']} {line['dtype']}",
            number(line["lanes"], "d"),
            number(line["engine_us"]) + "!" * bool(line["core_share"] < LEAST_SHARE),
            number(line["loop_ratio"], "x"),
            number(line["jax_ratio"], "x"),
            number(line["jax_gram_ratio"], "x") + "*" * same,
            "/".join(number(line[f"{name}_block"], "d") for name in names),
            number(line["jax_compile_seconds"]),
            f"{number(max(line['arithmetic_us'], line['bandwidth_us']))} {line['bound'][0]}",
            "" if pd.isna(line["fraction"]) else f"{line['fraction']:.0%}",
            "/".join(number(line[f"{name}_mb"], "d") for name in MODULES),
        )
    console.print(table)


def number(value: float, kind: str = "g") -> str:
    """Three digits, a whole number (`d`) or a multiple (`x`); a dash for what was not measured."""
    if pd.isna(value):
        return "-"
    if kind == "d":
        return f"{value:.0f}"
    digits = f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return digits + "x" * (kind == "x")
