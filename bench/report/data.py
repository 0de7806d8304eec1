"""A study as plain data for the page: an overview, and for each problem a file of its own that is read when it is looked at."""

from collections.abc import Mapping
from typing import Any

from bench import catalogue
from bench.config import rebuilt
from bench.labels import written
from bench.plots.sensitivity import starting_value
from bench.report.across import across
from bench.report.answers import answers, window_record
from bench.report.commands import command
from bench.report.costs import COMPARED, MEASURES, ORACLES, STEPS, CostTable
from bench.report.curves import curves_of, divergence, quantities, sensitivity_of, spectrum_of, view
from bench.report.looks import looks
from bench.report.numbers import plain
from bench.report.samples import samples_of
from bench.stored import StoredCell
from bench.study import Study
from linalg import InputError

CODES = {"best": "b", "better": "+", "equal": "=", "inconclusive": "~", "worse": "-", "unpaired": "u", "none": "n"}
HEADLINES = {  # the first that a problem has
    "final_test_rmse": "test RMSE",
    "final_test_error": "test error",
    "final_mmd": "MMD of samples",
    "final_rouge_l_shortfall": "100 - ROUGE-L",
    "final_test_perplexity": "test perplexity",
    "final_test_loss": "test loss",
}


def overview(table: CostTable, name: str, failures: Mapping[str, str]) -> dict[str, Any]:
    """What the page needs to open: names, looks, answers, and of every cell the figures with their intervals.

    Args:
        name: the sweep's.
        failures: messages by the key of a cell that raised.
    """
    study = table.study
    windows = {place: window_record(cell) for place, cell in study.cells.items()}
    return plain(
        {
            "sweep": name,
            "measures": measures(),
            "oracles": ORACLES,
            "problems": [problem_record(table, problem, windows) for problem in study.problems],
            "methods": [method_record(study, method) for method in study.methods],
            "cells": cell_columns(table, windows),
            "absent": absent(study, failures),
        }
    )


def measures() -> list[dict[str, Any]]:
    """What the overview can show, and what an infinite value of it means."""
    steps = [
        {"id": measure, "words": f"steps until {percent(measure)} of the excess loss is left", "infinite": "never"}
        for measure in STEPS
    ]
    return [
        {"id": "headline", "words": "error (the problem's own headline)", "infinite": "diverged"},
        {"id": "remaining", "words": "share of the excess loss that is left", "infinite": "diverged"},
        *steps,
        {"id": "window", "words": "window of good rates, decades", "infinite": ""},
    ]


def percent(measure: str) -> str:
    """`1 %` for steps_to_1e-02, `1e-6` for what has too many zeros."""
    fraction = float(measure.removeprefix("steps_to_"))
    return f"{100 * fraction:.6g} %" if fraction >= 1e-4 else f"{fraction:.0e}".replace("e-0", "e-")


def problem_record(table: CostTable, problem: str, windows: Mapping[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    study = table.study
    cells = {method: study.cells[problem, method] for method in study.methods_on(problem)}
    first = next(iter(cells.values()))
    entry = catalogue.entries("problem").get(first.summary["problem"])
    return {
        "name": problem,
        "about": catalogue.summary(entry).replace("`", "") if entry else "",
        "headline": headline(first),
        "measure": measure_of(first),
        "held_out": first.held_out,
        "validated": first.validated,
        "seeds": sorted({len(cell.config["seeds"]["report"]) for cell in cells.values()}),
        "answers": answers(table, problem, {method: windows[problem, method] for method in cells}),
    }


def headline(cell: StoredCell) -> str:
    """The error that the problem is reported by, in words."""
    return HEADLINES.get(f"final_{measure_of(cell)}", "relative error")


def measure_of(cell: StoredCell) -> str:
    """The same as the curves have it."""
    return next((column for column in HEADLINES if column in cell.lanes), "final_relative_error").removeprefix("final_")


def method_record(study: Study, method: str) -> dict[str, Any]:
    cell = next(cell for (_, each), cell in study.cells.items() if each == method)
    names = {axis: cell.summary[axis] for axis in ("parameterization", "optimizer")}
    return {"name": method, **names, **looks(study)[method]}


def cell_columns(table: CostTable, windows: Mapping[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Columns with an entry a cell: places of its problem and method, its key, medians with intervals, verdicts, its window."""
    study = table.study
    places = list(study.cells)
    best = {(problem, measure): table.best(problem, measure) for problem in study.problems for measure in COMPARED}
    columns: dict[str, Any] = {
        "problem": [study.problems.index(problem) for problem, _ in places],
        "method": [study.methods.index(method) for _, method in places],
        "key": [cell.key for cell in study.cells.values()],
        "lost": [divergence(cell)["diverged"] for cell in study.cells.values()],
        "seeds": [len(table.seeds(*place)) for place in places],
    }
    for measure in MEASURES:
        columns[measure] = [list(table.interval(*place, measure)) for place in places]
    for measure in COMPARED:
        verdicts = [table.verdict(problem, method, measure, best[problem, measure]) for problem, method in places]
        columns[f"verdict_{measure}"] = "".join(CODES[verdict] for verdict in verdicts)
    for name in ("chosen", "low", "high", "decades", "edge", "open_low", "open_high", "care"):
        columns[f"window_{name}" if name != "chosen" else "lr"] = [windows[place][name] for place in places]
    return columns


def absent(study: Study, failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """The crossings that have no cell, each with the reason where one is known."""
    found = []
    by_problem = {problem: next(cell for (each, _), cell in study.cells.items() if each == problem) for problem in study.problems}
    by_method = {method: next(cell for (_, each), cell in study.cells.items() if each == method) for method in study.methods}
    for i, problem in enumerate(study.problems):
        for j, method in enumerate(study.methods):
            if (problem, method) not in study.cells:
                config = {**by_method[method].config, "problem": by_problem[problem].config["problem"]}
                found.append({"problem": i, "method": j, "reason": reason(config, failures)})
    return found


def reason(config: dict[str, Any], failures: Mapping[str, str]) -> str:
    """Why a cell of this configuration is not there: it does not go together, or it raised; empty where nobody knows."""
    try:
        cell = rebuilt(config)
        catalogue.check_cell(cell.problem, cell.optimizer, cell.parameterization)
        return failures.get(cell.key, "")
    except InputError as error:
        return str(error)
    except (ImportError, OSError, TypeError, ValueError):  # a class, or a file, that this machine lacks
        return ""


def problem_data(study: Study, problem: str) -> dict[str, Any]:
    """All that is drawn and told of a problem, by the methods' places."""
    cells = {study.methods.index(method): study.cells[problem, method] for method in study.methods_on(problem)}
    curves = {i: curves_of(cell) for i, cell in cells.items()}
    spectra = {i: spectrum_of(cell, "value") for i, cell in cells.items()}
    targets = [spectrum_of(cell, "target") for i, cell in cells.items() if spectra[i]]
    drawn = quantities(list(curves.values()))
    sensitivity = {i: sensitivity_of(cell) for i, cell in cells.items()}
    data = plain(
        {
            "name": problem,
            "quantities": drawn,
            "curves": {each["id"]: {i: curve[each["id"]] for i, curve in curves.items() if each["id"] in curve} for each in drawn},
            "divergence": {i: divergence(cell) for i, cell in cells.items()},
            "seconds": {i: seconds_per_step(cell) for i, cell in cells.items()},
            "sensitivity": sensitivity,
            "sensitivity_view": view(list(sensitivity.values()), starting_value(list(cells.values()))),
            "spectra": {i: spectrum for i, spectrum in spectra.items() if spectrum},
            "spectra_view": view([each for each in [*spectra.values(), *targets] if each]),
            "target": max((each for each in targets if each), key=lambda each: len(each["x"]), default=None),
            "samples": samples_of(cells),
            "cells": {i: cell_data(cell) for i, cell in cells.items()},
        }
    )
    for cell in cells.values():
        for table in ("spectra", "pictures"):
            vars(cell).pop(table, None)  # those of a large sweep would fill memory
    return dict(data)


def seconds_per_step(cell: StoredCell) -> float | None:
    """The cell's mean: wall time of its step loops, tuning and reporting, over all steps of all its lanes."""
    lane_steps = cell.config["steps"] * len(cell.lanes)
    return cell.store.provenance(cell.key)["step_seconds"] / lane_steps if lane_steps else None


def cell_data(cell: StoredCell) -> dict[str, Any]:
    """What a cell's own page tells: settings, where the numbers came from, how to get them again, and every lane."""
    config = cell.config
    names = {axis: config[axis]["name"] for axis in catalogue.AXES}
    lanes = cell.lanes.drop(columns="lane")
    return {
        "key": cell.key,
        "settings": names | {path: written(path, value) for path, value in cell.settings.items()},
        "summary": {name: value for name, value in cell.summary.items() if name not in names},
        "provenance": cell.store.provenance(cell.key),
        "command": command(config),
        "lanes": {name: constant(lanes[name].tolist()) for name in lanes},
    }


def constant(values: list[Any]) -> Any:
    """The values, or the one in a list of its own where all are the same: most columns of many cells say `inf` or `ok` only."""
    return values[:1] if len(values) > 1 and all(value == values[0] or value != value != values[0] for value in values) else values


def profiles(table: CostTable) -> dict[str, Any]:
    return dict(plain(across(table)))
