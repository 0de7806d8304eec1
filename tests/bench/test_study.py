"""Cells are lined up by problem and method, seeds in pairs, and what breaks the protocol is found before it is reported."""

import dataclasses
import time

import numpy as np
import pandas as pd
import pytest

from bench import audit
from bench.cell import Cell, CellResult, LearningRates
from bench.store import Store
from bench.stored import StoredCell
from bench.study import Study
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import Full, LoRA
from problems import Hilbert, MatrixFactorization

TARGET = MatrixFactorization(shape=(8, 6), kind="low_rank", rank=2)
RATES = LearningRates(values=(0.03, 0.3, 1e6))  # the last one diverges


def cell(problem=TARGET, parameterization=LoRA(2), optimizer=SGD(), **settings):  # noqa: B008 - frozen
    defaults = {"lr": RATES, "tune": (0, 1), "report": (100, 101, 102), "steps": 20, "probes": "none"}
    return Cell(problem, parameterization, optimizer, **{**defaults, **settings})


def kept(store: Store, cell: Cell, result: CellResult | None = None) -> StoredCell:
    store.save(cell.key, cell, result or cell.run(), time.time(), time.process_time())
    return StoredCell(store, cell.key)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_methods_are_named_by_the_settings_in_which_they_differ(store):
    cells = [
        kept(store, each)
        for each in (
            cell(),
            cell(parameterization=LoRA(3)),
            cell(optimizer=SGD(momentum=0.9)),
            cell(optimizer=Adam()),
            cell(problem=dataclasses.replace(TARGET, rank=1)),
            cell(problem=Hilbert(shape=(8, 6)), steps=30),
        )
    ]
    study = Study.of(cells)
    assert study.problems == ["hilbert", "matrix_factorization, rank=1", "matrix_factorization, rank=2"]
    assert set(study.methods) == {
        "lora, rank=2 + sgd, momentum=0",
        "lora, rank=3 + sgd, momentum=0",
        "lora, rank=2 + sgd, momentum=0.9",
        "lora, rank=2 + adam",
    }, "other problems' steps are no part of a method's name"
    assert study.methods_on("hilbert") == ["lora, rank=2 + sgd, momentum=0"]
    assert study.shared(["lora, rank=2 + sgd, momentum=0"]) == study.problems
    assert study.shared(["lora, rank=2 + sgd, momentum=0", "lora, rank=3 + sgd, momentum=0"]) == ["matrix_factorization, rank=2"]


def test_steps_are_part_of_a_name_where_one_problem_has_several(store):
    study = Study.of([kept(store, cell()), kept(store, cell(steps=30))])
    assert study.methods == ["lora, steps=20 + sgd", "lora, steps=30 + sgd"]


def test_cells_that_differ_in_nothing_worth_naming_are_told_apart(store):
    study = Study.of([kept(store, cell()), kept(store, cell(probes="basic"))])
    assert len(study.cells) == 2
    assert all(method.startswith("lora + sgd, ") for method in study.methods)


def test_costs_come_by_seed_and_divergence_stays_infinite(store):
    result = cell().run()
    lanes = result.lanes
    lost = (lanes.role == "report") & (lanes.seed == 101)
    lanes.loc[lost, ["status", "remaining", "score", "final_loss"]] = ["diverged", np.inf, np.inf, np.inf]
    study = Study.of([kept(store, cell(), result)])
    costs = study.costs("matrix_factorization", "lora + sgd")
    assert list(costs.index) == [100, 101, 102]
    assert np.isinf(costs[101])
    assert np.isfinite(costs[[100, 102]]).all()
    with pytest.raises(InputError, match=r"measure='nothing': must be one of .*remaining"):
        study.costs("matrix_factorization", "lora + sgd", "nothing")


def test_where_every_rate_diverged_every_reporting_seed_counts_as_diverged(store):
    study = Study.of([kept(store, cell(lr=LearningRates(values=(1e6, 1e7))))])
    for measure in ("remaining", "headline", "steps_to_1e-02"):
        costs = study.costs("matrix_factorization", "lora + sgd", measure)
        assert list(costs.index) == [100, 101, 102]
        assert np.isinf(costs).all()


def test_pairs_share_their_seeds_or_are_refused(store):
    cells = [kept(store, each) for each in (cell(), cell(parameterization=Full()), cell(optimizer=Adam(), report=(100, 101, 103)))]
    study = Study.of(cells)
    a, b = study.pairs("matrix_factorization", "lora + sgd", "full + sgd", "final_loss")
    lanes = [each.reported.sort_values("seed")["final_loss"].to_numpy() for each in cells[:2]]
    assert np.array_equal(a, lanes[0])
    assert np.array_equal(b, lanes[1])
    with pytest.raises(InputError, match=r"seeds.report: .*101, 102.*101, 103.*pairs need the same"):
        study.pairs("matrix_factorization", "lora + sgd", "lora + adam")


def test_sound_cells_pass_the_audit(store):
    audit.check([kept(store, cell()), kept(store, cell(lr=LearningRates(values=(1e6, 1e7))))])


def planted(result: CellResult, what: str) -> CellResult:
    """The result with one error in it."""
    lanes, summary = result.lanes.copy(), dict(result.summary)
    reported = lanes.role == "report"
    if what == "rate chosen on reporting seeds":
        other = next(rate for rate in summary["grid"] if rate != summary["chosen_lr"])
        summary["chosen_lr"] = other
        lanes.loc[reported, "lr"] = other
    elif what == "one seed at another rate":
        lanes.loc[reported & (lanes.seed == 100), "lr"] = 0.03 if summary["chosen_lr"] != 0.03 else 0.3
    elif what == "unpaired seed":
        lanes.loc[reported & (lanes.seed == 102), "seed"] = 107
    elif what == "reporting seed dropped":
        lanes = lanes[~(reported & (lanes.seed == 102))]
    elif what == "diverged tuning lanes dropped":
        lanes = lanes[(lanes.status == "ok") | (lanes.seed == 0)]
    elif what == "infinity made finite":
        lanes.loc[lanes.status == "diverged", "score"] = 1.0
    elif what == "loss of the diverged made finite":
        lanes.loc[lanes.status == "diverged", "final_loss"] = 1.0
    elif what == "score missing":
        lanes.loc[reported & (lanes.seed == 101), "score"] = np.nan
    return dataclasses.replace(result, lanes=lanes, summary=summary)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("rate chosen on reporting seeds", "the tuning seeds' best is"),
        ("one seed at another rate", "are reported, but tuning chose"),
        ("unpaired seed", r"seeds \[100, 101, 107\] are reported"),
        ("reporting seed dropped", r"seeds \[100, 101\] are reported"),
        ("diverged tuning lanes dropped", "was tuned on seeds"),
        ("infinity made finite", "finite score"),
        ("loss of the diverged made finite", "finite loss"),
        ("score missing", "no score"),
    ],
)
def test_a_planted_error_is_found(store, what, said):
    result = cell().run()
    assert (result.lanes.status == "diverged").any()
    with pytest.raises(InputError, match=said):
        audit.check([kept(store, cell(), planted(result, what))])


def test_a_rate_reported_although_all_diverged_is_found(store):
    hopeless = cell(lr=LearningRates(values=(1e6, 1e7)))
    result = hopeless.run()
    extra = result.lanes.iloc[:1].assign(role="report", seed=100)
    result = dataclasses.replace(result, lanes=pd.concat([result.lanes, extra]))
    with pytest.raises(InputError, match="every rate diverged"):
        audit.check([kept(store, hopeless, result)])
