"""Many finished cells in a few files, small enough for git: what `results/reference` is."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bench.store import PICTURES, Store, write, write_table
from linalg import InputError

TABLES = ("lanes", "curves", "spectra", PICTURES)
MARK = "cells.parquet"
PARTS = ("config", "summary", "provenance", "columns")  # what it says of a cell; the last, of its tables


@dataclass(frozen=True)
class Packed(Store):
    """A store to read from: `cells.parquet` with each cell's configuration, summary and provenance as JSON, and one parquet file
    for each kind of table, with the cell's key in a column and the columns of all cells. It answers what `Store` answers;
    nothing is run into it.
    """

    @cached_property
    def _cells(self) -> dict[str, dict[str, Any]]:
        table = pd.read_parquet(self.root / MARK)
        return {row["key"]: {name: json.loads(row[name]) for name in PARTS} for _, row in table.iterrows()}

    @cached_property
    def _tables(self) -> dict[str, dict[str, pd.DataFrame]]:
        found = {}
        for name in TABLES:
            path = self.root / f"{name}.parquet"
            table = pd.read_parquet(path) if path.is_file() else pd.DataFrame({"key": []})
            found[name] = {
                str(key): part.drop(columns="key").reset_index(drop=True) for key, part in table.groupby("key", sort=False)
            }
        return found

    def done(self, key: str) -> bool:
        return key in self._cells

    def keys(self) -> list[str]:
        return sorted(self._cells)

    def load(self, key: str, table: str) -> pd.DataFrame:
        found = self._tables[table].get(key)
        return pd.DataFrame() if found is None else found[self._cells[key]["columns"][table]]  # others have more

    def summary(self, key: str) -> dict[str, Any]:
        return dict(self._cells[key]["summary"])

    def provenance(self, key: str) -> dict[str, Any]:
        return dict(self._cells[key]["provenance"])

    def config(self, key: str) -> dict[str, Any]:
        return dict(self._cells[key]["config"])

    def sweeps(self) -> dict[str, dict[str, Any]]:
        path = self.root / "sweeps.json"
        return dict(json.loads(path.read_text())) if path.is_file() else {}


def opened(folder: str | Path) -> Store:
    """The store in a folder, of either kind.

    Raises:
        InputError: where there is none.
    """
    root = Path(folder)
    if (root / MARK).is_file():
        return Packed(root)
    if not (root / "runs").is_dir():
        raise InputError(f"--results={folder}: holds no results; it must be a folder that a sweep wrote, or results/reference")
    return Store(root)


def pack(store: Store, sweeps: Mapping[str, Iterable[str]], folder: Path, curves: Iterable[str] = ()) -> Packed:
    """Write the cells of some sweeps into a few files.

    Args:
        sweeps: finished cells by the name of their sweep.
        curves: the cells whose reporting seeds' curves and spectra are kept, too; lanes are kept of all.
    """
    keys, drawn = sorted({key for several in sweeps.values() for key in several}), set(curves)
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, dict[str, list[str]]] = {key: {} for key in keys}
    for name in TABLES:
        tables = []
        for key in keys:
            if name != "lanes" and key not in drawn:
                continue
            table = store.load(key, name)
            if name != "lanes" and len(table):
                table = table.loc[table["role"] == "report"]
            if len(table):
                columns[key][name] = sorted(table)
                tables.append(table.assign(key=key))
        if name == PICTURES and not tables:
            (folder / f"{name}.parquet").unlink(missing_ok=True)
            continue
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"key": []})
        write_table(folder / f"{name}.parquet", table[sorted(table)], small=True)  # in one order, wherever the cells come from
    cells = []
    for key in keys:
        parts = {name: getattr(store, name)(key) for name in PARTS[:-1]} | {"columns": columns[key]}
        cells.append({"key": key} | {name: json.dumps(part) for name, part in parts.items()})
    write_table(folder / MARK, pd.DataFrame(cells), small=True)
    record = {name: {"keys": sorted(several), "figures": [], "signature": "", "timing": None} for name, several in sweeps.items()}
    write(folder / "sweeps.json", json.dumps(record, indent=1))
    return Packed(folder)


def unpack(packed: Packed, keys: Iterable[str], store: Store) -> None:
    """Put packed cells into a store that lacks them, so that sweeps find them finished; of tables that were not packed, nothing."""
    for key in keys:
        if not store.done(key):
            tables = {name: packed.load(key, name) for name in TABLES}
            if not len(tables[PICTURES]):
                del tables[PICTURES]
            store.put(key, packed.config(key), tables, packed.summary(key), packed.provenance(key))
