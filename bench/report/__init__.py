"""The report: a folder that opens from disk in any browser. Every number is worked out here; the page draws, filters, sorts."""

import argparse
import json
import shutil
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from bench import audit
from bench.report import data
from bench.report.costs import CostTable
from bench.report.numbers import script
from bench.store import Store
from bench.store import write as write_text
from bench.stored import StoredCell
from bench.study import Study

__all__ = ["folder_of", "main", "write"]


def write(store: Store, keys: Sequence[str], folder: Path, name: str) -> Path:
    """Write the report of finished cells into a folder, over an earlier report there.

    Args:
        keys: of the cells.
        name: the sweep's, for the title.

    Returns:
        The page to open.

    Raises:
        InputError: where a cell breaks the protocol (see `bench.audit`); nothing is written then.
    """
    cells = [StoredCell(store, key) for key in sorted(set(keys))]
    audit.check(cells)
    table = CostTable(Study.of(cells))
    pieces = folder / "data"
    pieces.mkdir(parents=True, exist_ok=True)
    for old in pieces.glob("problem-*.js"):
        old.unlink()
    write_text(pieces / "overview.js", script("overview", data.overview(table, name, failures(store))))
    write_text(pieces / "across.js", script("across", data.profiles(table)))
    for i, problem in enumerate(table.study.problems):
        write_text(pieces / f"problem-{i}.js", script(f"problem-{i}", data.problem_data(table.study, problem)))
    with as_file(files("bench.report") / "page") as page:
        shutil.copytree(page, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))
    return folder / "index.html"


def folder_of(store: Store, name: str) -> Path:
    """Where a sweep's report goes unless told otherwise."""
    return store.root / "report" / name


def failures(store: Store) -> dict[str, str]:
    """What cells that raised left, by their keys."""
    found = {}
    for path in sorted((store.root / "failures").glob("*.json")):
        found[path.stem] = f"it failed: {' '.join(str(json.loads(path.read_text())['error']).split())}"
    return found


def main(arguments: list[str]) -> int:
    """Write a sweep's report, a folder with an index.html that opens from disk, and print the page's path."""
    from bench.cli import stored_sweep

    parser = argparse.ArgumentParser(prog="python -m bench report", description=main.__doc__)
    parser.add_argument("--out", default=None, help="the folder to write (default: <results>/report/<sweep>)")
    name, store, keys = stored_sweep(parser, arguments)
    out = parser.parse_args(arguments).out
    print(write(store, keys, Path(out) if out else folder_of(store, name), name))
    return 0
