"""Settling claims and writing the ledger: CLAIMS.md, its data, and the cells behind them."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims import VERDICTS, Claim, Evidence, Figure, Finding
from bench.claims._claim import NOT_RUN
from bench.packed import MARK, Packed, pack, unpack
from bench.plots import save
from bench.plots.style import house_style
from bench.stats import Interval
from bench.store import Store, write, write_table

DRAWN = ("default",)  # sweeps that the README speaks of, packed with their curves
ALSO = (*DRAWN, "movielens")  # and without
STARTS = "scaled_pretraining_"  # sweeps whose curves say how good a model is before it trains
NO_GPU = "No GPU was at hand: every cell ran on a CPU, and models of `make scaled size=full` are not judged."
DATA, PAGE, MEASURED = "claims.json", "CLAIMS.md", "measured.parquet"


def settle(name: str, claim: Claim, store: Store) -> tuple[Finding, Evidence]:
    """What comes out of a claim, from its experiments' cells in a store.

    Raises:
        InputError: where an experiment has no results there, unless it takes hours, or they break the protocol.
    """
    if claim.scaled and (missing := [each for each in claim.experiments if not whole(store, each)]):
        said = f"It takes hours, and {' and '.join(missing)} have not run: `python -m bench claims {name} --kept` does it."
        return Finding(NOT_RUN, said), Evidence({})
    evidence = Evidence.of(store, claim.experiments)
    with house_style():
        return claim.settle(evidence), evidence


def whole(store: Store, experiment: str) -> bool:
    """Whether all cells of an experiment are finished."""
    planned, finished = store.sweeps().get(experiment, {"keys": []})["keys"], store.sweep(experiment)[1]
    return 0 < len(planned) == len(finished)


def entry(claim: Claim, finding: Finding, drawings: Iterable[str]) -> dict[str, Any]:
    """A claim and what came out, as plain data."""
    described = {name: getattr(claim, name) for name in ("sentence", "source", "matched", "revised")}
    figures = [{**asdict(figure), "value": list(figure.value)} for figure in finding.figures]
    return {
        **described,
        "experiments": list(claim.experiments),
        "verdict": finding.verdict,
        "said": finding.said,
        "figures": figures,
        "drawings": sorted(drawings),
    }


def figures_of(entry: Mapping[str, Any]) -> list[Figure]:
    """The figures of an entry, as they were."""
    return [Figure(**{**each, "value": Interval(*each["value"]), "cells": tuple(each["cells"])}) for each in entry["figures"]]


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a ledger by name; none where there is no ledger."""
    path = folder / DATA
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def publish(folder: Path, store: Store, settled: Mapping[str, tuple[Claim, Finding, Evidence]], known: Sequence[str]) -> None:
    """Write what was settled into a folder, beside what it holds already of other claims.

    Args:
        store: where the experiments' cells are.
        known: the names of all claims, in their order; entries of others are dropped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = read(folder)
    for name, (claim, finding, evidence) in settled.items():
        with house_style():
            for stem, drawing in evidence.drawings.items():
                save(drawing, folder / "figures" / stem)
        entries[name] = entry(claim, finding, evidence.drawings)
    entries = {name: entries[name] for name in known if name in entries}
    write(folder / DATA, json.dumps(entries, indent=1))
    write_measured(folder / MEASURED, {name: evidence.measured for name, (_, _, evidence) in settled.items()}, entries)
    keep_cells(folder, store, [*(name for entry in entries.values() for name in entry["experiments"]), *ALSO])
    cells = Packed(folder)
    keys = cells.keys()
    edges = [key for key in keys if (found := cells.summary(key))["trials"] > 1 and not found["bracketed"]]
    write(folder / PAGE, page(entries, {str(cells.config(key)["device"]) for key in keys}, edges))


def write_measured(path: Path, measured: Mapping[str, Mapping[tuple[str, int], float]], known: Iterable[str]) -> None:
    """A row a measurement without a sweep: claim, what, seed, value."""
    columns = ["claim", "measure", "seed", "value"]
    rows = [(name, *key, value) for name, values in measured.items() for key, value in values.items()]
    table = pd.DataFrame(rows, columns=columns)
    if path.is_file():
        before = pd.read_parquet(path)
        kept = before["claim"].isin(list(known)) & ~before["claim"].isin(list(measured))
        table = pd.concat([before.loc[kept], table]) if kept.any() else table
    write_table(path, table.sort_values(columns[:3]).reset_index(drop=True), small=True)


def keep_cells(folder: Path, store: Store, experiments: Iterable[str]) -> None:
    """Pack the experiments' cells: from the store where it has them, else as they are packed already."""
    before = Packed(folder) if (folder / MARK).is_file() else None
    sweeps: dict[str, list[str]] = {}
    for name in dict.fromkeys(experiments):
        fresh = store.sweep(name)[1] if name in store.sweeps() else []
        kept = fresh or (before.sweep(name)[1] if before is not None and name in before.sweeps() else [])
        if kept:
            sweeps[name] = kept
    drawn = [key for name, keys in sweeps.items() if with_curves(name) for key in keys]
    pack(Layered(store.root, store, before) if before is not None else store, sweeps, folder, drawn)


def with_curves(experiment: str) -> bool:
    """Whether an experiment's cells are packed with their curves."""
    return experiment in DRAWN or experiment.startswith(STARTS)


def take_cells(folder: Path, store: Store, experiments: Iterable[str]) -> int:
    """Put the experiments' cells that a ledger holds, whole, into the store; returns how many these are."""
    if not (folder / MARK).is_file():
        return 0
    packed = Packed(folder)
    found = {
        key
        for name in experiments
        if name in packed.sweeps()
        for key in packed.sweep(name)[1]
        if not with_curves(name) or len(packed.load(key, "curves"))
    }
    unpack(packed, sorted(found), store)
    return len(found)


@dataclass(frozen=True)
class Layered(Store):
    """A store that looks into another where it lacks a cell; for `pack`."""

    first: Store
    second: Store

    def _of(self, key: str) -> Store:
        return self.first if self.first.done(key) else self.second

    def load(self, key: str, table: str) -> pd.DataFrame:
        return self._of(key).load(key, table)

    def summary(self, key: str) -> dict[str, Any]:
        return self._of(key).summary(key)

    def provenance(self, key: str) -> dict[str, Any]:
        return self._of(key).provenance(key)

    def config(self, key: str) -> dict[str, Any]:
        return self._of(key).config(key)


def page(entries: Mapping[str, Mapping[str, Any]], devices: Collection[str], edges: Collection[str] = ()) -> str:
    """CLAIMS.md: how many claims came out how, a line each, then each in full.

    Args:
        devices: those that its cells ran on.
        edges: the cells whose best learning rate is the first or the last that was tried.
    """
    verdicts = [entry["verdict"] for entry in entries.values()]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in VERDICTS if each in verdicts)
    lines = [
        "# The ledger of claims",
        "",
        "What papers say, restated as something that this suite measures, and what came out. `python -m bench claims` writes this",
        "page and runs the experiments that are missing; `python -m bench claims --trace NAME` prints the lanes behind a claim.",
        "Intervals are 95 % bootstrap intervals over seeds, paired where two methods are compared. Ratios are of costs: below 1",
        "the first is better. How rates are chosen and what is reported: [the protocol](../../docs/protocol.md).",
        "",
        "On another processor the last digits differ, and with them runs that are chaotic. Seconds are of one run on one machine:",
        "their intervals are over its repeats, and the medians of the next run are up to a quarter away.",
        "",
        *([NO_GPU, ""] if devices == {"cpu"} else []),
        f"{len(entries)} claims: {counts}.",
        "",
        "| claim | sentence | verdict |",
        "|---|---|---|",
    ]
    lines += [f"| [{name}](#{anchor(name)}) | {entry['sentence']} | {entry['verdict']} |" for name, entry in entries.items()]
    for name, entry in entries.items():
        lines += ["", *section(name, entry, edges)]
    return "\n".join(lines) + "\n"


def anchor(name: str) -> str:
    """The address that a page gives to a heading."""
    return name.lower().replace(".", "").replace(" ", "-")


def section(name: str, entry: Mapping[str, Any], edges: Collection[str] = ()) -> list[str]:
    """A claim in full; `edges` as in `page`."""
    runs = [f"`python -m bench experiment={each}`" for each in entry["experiments"]]
    lines = [
        f"## {name}",
        f"**{entry['sentence']}** ({entry['source']})",
        "",
        f"**{entry['verdict'].capitalize()}.** {entry['said']}",
        "",
        f"* matched: {entry['matched']}",
        f"* experiment: {', '.join(runs) or f'`python -m bench claims {name}` measures it without a sweep'}",
    ]
    if entry["revised"]:
        lines.append(f"* changed after a first look at results: {entry['revised']}")
    figures = figures_of(entry)
    if outside := sorted({key for figure in figures for key in figure.cells} & set(edges)):
        lines.append(f"* the best rate is at the edge of those tried: {', '.join(outside)}")
    if figures:
        lines += ["", "| figure | value [95 %] | seeds |", "|---|---|---|"]
        lines += [f"| {figure.name} | {figure} | {figure.seeds} |".replace("|W", "\\|W") for figure in figures]
    lines += [f"\n![{each}](figures/{each}.svg)" for each in entry["drawings"]]
    return lines


def trace(name: str, entry: Mapping[str, Any], folder: Path) -> list[str]:
    """The lanes, or the measurements, behind each figure of a claim."""
    store = Packed(folder)
    lines = [f"{name}: {entry['verdict']}. {entry['said']}"]
    measured = pd.read_parquet(folder / MEASURED)
    for figure in figures_of(entry):
        lines += ["", f"{figure.name}: {figure}"]
        for key in figure.cells:
            lanes = store.load(key, "lanes")
            lanes = lanes.loc[lanes["role"] == "report"] if (lanes["role"] == "report").any() else lanes
            rate = store.summary(key)["chosen_lr"]
            if figure.measure in lanes:
                pairs = zip(lanes["seed"], lanes[figure.measure], strict=True)
                values = " ".join(f"{seed}:{value:.4g}" for seed, value in pairs)
            else:
                values = f"all {len(lanes)} lanes"
            lines.append(f"  {key} at rate {rate}: {values}" if rate else f"  {key}: every rate diverged in tuning")
        own = measured.loc[(measured["claim"] == name) & (measured["measure"] == figure.measure)]
        if len(own):
            lines.append("  " + " ".join(f"{seed}:{value:.4g}" for seed, value in zip(own["seed"], own["value"], strict=True)))
    return lines
