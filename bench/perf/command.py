"""Measure the engine beside a plain torch loop and beside JAX.

python -m bench.perf                     every cell and both figures, at most 20 minutes
python -m bench.perf --quick             a few cells, about a minute
python -m bench.perf --cells 'op_lora'   the cells whose names match
"""

import argparse
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from bench.overhead import share_outside
from bench.perf import cells, figures, table
from bench.perf.cells import Cell
from bench.perf.contest import Contest, DisagreementError
from bench.perf.scaling import speed_up
from bench.perf.worker import WorkerError
from bench.progress import COLUMNS
from bench.store import Store
from linalg import InputError

DESCRIPTION = "Measure the speed of the engine beside a plain torch loop and beside JAX: all in 20 minutes, or --quick."
ROUNDS = {"full": 5, "quick": 3, "figures": 3}
INVALID, INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """0 where all was measured, 1 where contestants disagree or one died, 2 where nothing could be begun."""
    options = parser().parse_args(arguments)
    try:
        torch.empty(1, device=options.device)
        pattern = re.compile(options.cells)
    except (RuntimeError, AssertionError) as error:
        return complain(f"device={options.device}: cannot be used ({str(error).splitlines()[0]})", INVALID)
    except re.error as error:
        return complain(f"cells={options.cells!r}: not a regular expression ({error})", INVALID)
    chosen = cells.quick(options.device) if options.quick else cells.full(options.device)
    chosen = [cell for cell in chosen if pattern.search(cell.name)]
    if not chosen:
        return complain(f"cells={options.cells!r}: matches no cell", INVALID)
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = not options.quick and not options.cells if options.figures is None else options.figures
    try:
        with Contest(options.device) as contest:
            measure(contest, chosen, options, wanted)
    except (DisagreementError, WorkerError) as error:
        return complain(str(error), 1)
    except KeyboardInterrupt:
        return complain(f"interrupted; {options.output} keeps what was measured", INTERRUPTED)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m bench.perf", description=DESCRIPTION)
    made.add_argument("--quick", action="store_true", help="a few cells, about a minute")
    made.add_argument("--device", default="cpu", help="cpu, or cuda")
    made.add_argument("--cells", default="", metavar="REGEX", help="only cells whose names match")
    made.add_argument("--output", type=Path, default=Path("results/perf"), help="folder for table.csv, machine.json and figures")
    made.add_argument(
        "--results", type=Path, default=Path("results"), help="where `make bench` has left its sweep, for its overhead"
    )
    figures = "also against lanes and sizes, with figures (of a full run these are a part)"
    made.add_argument("--figures", action=argparse.BooleanOptionalAction, help=figures)
    return made


def complain(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def measure(contest: Contest, chosen: list[Cell], options: argparse.Namespace, with_figures: bool) -> None:
    """Limits, then the cells, then what the figures show; every row is kept at once."""
    if contest.missing:
        complain(f"jax: left out, its columns stay empty ({contest.missing}); pip install jax", 0)
    limits = contest.limits()
    same = table.keep_machine(options.output, table.machine(options.device, limits))
    lanes, sizes = (
        make(options.device, options.quick) if with_figures else [] for make in (figures.lane_cells, figures.size_cells)
    )
    stopwatch = Stopwatch(contest, limits, len(chosen) + len(lanes) + len(sizes))
    rows = table.Rows(options.output / "table.csv", fresh=not same)
    with stopwatch:
        for cell in chosen:
            stopwatch.check(cell)
            stopwatch.time(cell, rows, ROUNDS["quick" if options.quick else "full"])
        if with_figures:
            by_lanes, by_size = (table.Rows(options.output / f"{name}.csv", fresh=True) for name in ("lanes", "sizes"))
            for cell in lanes:
                stopwatch.time(cell, by_lanes, ROUNDS["figures"], without=("loop",) if cell.lanes > 1 else ())
            for cell in sizes:
                stopwatch.time(cell, by_size, ROUNDS["figures"])
            drawn = figures.draw_lanes(by_lanes.frame, options.output) + figures.draw_sizes(by_size.frame, options.output)
            complain("\n".join(str(path) for path in drawn), 0)
    table.show(rows.frame)
    for line in around(options):
        print(line)


def around(options: argparse.Namespace) -> list[str]:
    """What counts beside the steps: how much of `make bench` was none of them, and what a second core brings."""
    try:
        timing = share_outside(Store(options.results), "default")
        wall = f"make bench: {timing['share']:.0%} of {timing['wall']:.0f} s on {timing['workers']:.0f} processes"
        parts = f"probes {timing['probes'] / max(1, timing['workers']):.0f} s, figures {timing['figures']:.0f} s"
        lines = [f"{wall} were outside the step loop ({parts})"]
    except InputError:
        lines = [f"make bench: not timed in {options.results}; run it, and its share outside the step loop is printed here"]
    if options.device == "cpu" and not options.quick and (gain := speed_up()) is not None:
        lines.append(f"two processes on two cores: {gain:.2f} times the throughput of one")
    return lines


class Stopwatch:
    """Checks and times cells, and shows on stderr how far it is.

    Args:
        total: cells to come.
    """

    def __init__(self, contest: Contest, limits: dict[str, float], total: int) -> None:
        self.contest, self.limits = contest, limits
        console = Console(stderr=True)
        self.live = console.is_terminal
        self.progress = Progress(
            *COLUMNS, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True, disable=not self.live
        )
        self.task = self.progress.add_task("cells", total=total)
        self.checked: set[Cell] = set()
        self.lines: dict[Cell, dict[str, Any]] = {}

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def check(self, cell: Cell) -> None:
        """Whether the contestants agree, in float64 and in the cell's own precision."""
        self.progress.update(self.task, description=f"{cell.name}: agreement")
        for dtype in dict.fromkeys(("float64", cell.dtype)):
            sample = cell.sample(dtype)
            if sample not in self.checked:
                self.contest.check(sample)
                self.checked.add(sample)

    def time(self, cell: Cell, rows: table.Rows, rounds: int, without: Collection[str] = ()) -> None:
        """Time a cell, unless that was done for another table."""
        self.progress.update(self.task, description=cell.name)
        if cell not in self.lines:
            names = [name for name in self.contest.of(cell) if name not in without]
            self.lines[cell] = table.row(cell, self.contest.time(cell, rounds, names), self.limits)
            if not self.live:
                said = ", ".join(f"{name} {table.number(self.lines[cell][f'{name}_us'])}" for name in names)
                print(f"{cell.name}, {cell.lanes} lanes: {said} µs", file=sys.stderr, flush=True)
        rows.add(self.lines[cell])
        self.progress.advance(self.task)
