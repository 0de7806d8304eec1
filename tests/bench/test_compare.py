"""Two methods, or two folders, on the same seeds: the table, and the words under it."""

import dataclasses
import time

import numpy as np
import pytest

from bench.cell import Cell, LearningRates
from bench.cli import main
from bench.compare import of_folders, of_methods, summary
from bench.packed import opened, pack
from bench.store import Store
from bench.stored import StoredCell
from bench.study import Study
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import Full, LoRA
from problems import Hilbert, MatrixCompletion, MatrixFactorization

RATES = LearningRates(values=(0.03, 0.3))
PROBLEMS = (MatrixFactorization(shape=(8, 6), kind="low_rank", rank=2), Hilbert(shape=(8, 6)))
METHODS = ((LoRA(2), SGD()), (LoRA(2), Adam()), (Full(), SGD()))


def keep(store, cell, result=None):
    store.save(cell.key, cell, result or cell.run(), time.time(), time.process_time())


def cells():
    for problem in PROBLEMS:
        for parameterization, optimizer in METHODS:
            yield Cell(problem, parameterization, optimizer, RATES, (0, 1), tuple(range(100, 110)), 30, probes="none")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("compare"))
    for cell in cells():
        keep(store, cell)
    return store


@pytest.fixture(scope="module")
def study(store):
    return Study.of(StoredCell(store, key) for key in store.keys())  # noqa: SIM118 - a store is no dictionary


def test_a_row_holds_the_medians_and_the_ratios_of_paired_seeds(study):
    rows = of_methods(study, "lora + sgd", "full + sgd", "final_loss")
    assert [row.problem for row in rows] == study.problems
    for row in rows:
        a, b = (study.cells[row.problem, method].reported.sort_values("seed")["final_loss"] for method in row.sides)
        assert row.medians == (np.median(a), np.median(b))
        np.testing.assert_allclose(row.logs, np.log10(a.to_numpy() / b.to_numpy()))


def test_a_parameterization_stands_for_the_optimizer_that_tuning_prefers(study):
    for row in of_methods(study, "lora", "full", "final_loss"):
        tuned = {
            method: study.cells[row.problem, method].tuned.groupby("lr")["score"].median().min()
            for method in ("lora + sgd", "lora + adam")
        }
        assert row.sides == (min(tuned, key=tuned.get), "full + sgd")


def test_a_method_against_itself_is_equal(study):
    rows = of_methods(study, "lora + adam", "lora + adam", "remaining")
    assert {row.comparison.verdict for row in rows} == {"equal"}
    assert "they are equal" in "\n".join(summary(rows, "a", "b"))


def test_words_say_how_many_problems_and_which_side(study):
    rows = of_methods(study, "full + sgd", "lora + sgd", "final_loss")
    rows = [dataclasses.replace(row, logs=np.full(10, -1.0), costs=(np.ones(10), np.full(10, 10.0))) for row in rows]
    said = summary(rows, "full", "lora")
    assert said[0] == "full against lora: better on 2, of 2."
    assert said[1] == "Over all: cost ratio 0.1 [0.1, 0.1] (interquartile mean): full is better."
    assert said[2] == "A run of full beats a run of lora with probability 1 [1, 1]."


def test_few_seeds_are_called_a_look(study):
    rows = of_methods(study, "full + sgd", "lora + sgd", "final_loss")
    short = [dataclasses.replace(row, logs=row.logs[:5], costs=(row.costs[0][:5], row.costs[1][:5])) for row in rows]
    assert "5 reporting seeds are for a look" in summary(short, "a", "b")[-1]
    assert "look" not in summary(rows, "a", "b")[-1]


def test_two_folders_are_compared_cell_by_cell(store, tmp_path):
    after = Store(tmp_path)
    for cell in list(cells())[:2]:
        result = cell.run()
        reported = result.lanes["role"] == "report"
        result.lanes.loc[reported, "final_loss"] *= 3
        keep(after, cell, result)
    rows = of_folders(store, after, "final_loss")
    assert len(rows) == 2
    assert all(row.comparison.verdict == "better" for row in rows), "lower before"
    np.testing.assert_allclose(rows[0].comparison.ratio.value, 1 / 3)
    with pytest.raises(InputError, match="no cell of one has the settings"):
        of_folders(store, Store(tmp_path / "empty"), "final_loss")


def test_a_packed_store_answers_what_the_store_answers(store, tmp_path):
    packed = pack(store, {"sweep": store.keys()}, tmp_path, curves=store.keys()[:1])
    assert opened(tmp_path).keys() == store.keys() == opened(tmp_path).sweep()[1]
    for key in store.keys():  # noqa: SIM118 - a store is no dictionary
        assert packed.config(key) == store.config(key)
        assert packed.summary(key) == store.summary(key)
        assert packed.provenance(key) == store.provenance(key)
        lanes = store.load(key, "lanes").astype(object)
        assert packed.load(key, "lanes").astype(object)[list(lanes)].equals(lanes)
        assert set(packed.load(key, "lanes")) == set(lanes)
    curves = store.load(store.keys()[0], "curves")
    kept = packed.load(store.keys()[0], "curves")
    assert len(kept) == (curves["role"] == "report").sum() > 0
    assert not len(packed.load(store.keys()[1], "curves"))
    assert all(row.comparison.verdict == "equal" for row in of_folders(store, packed, "remaining"))


def test_a_packed_cell_has_the_measures_of_its_own_problem(tmp_path):
    store = Store(tmp_path / "results")
    for problem in (Hilbert(shape=(8, 6)), MatrixCompletion(shape=(8, 6))):
        keep(store, Cell(problem, LoRA(2), SGD(), RATES, (0, 1), (100, 101), 30))
    packed = pack(store, {"sweep": store.keys()}, tmp_path / "packed", store.keys())
    for cell in (StoredCell(packed, key) for key in store.keys()):  # noqa: SIM118 - a store is no dictionary
        there = StoredCell(store, cell.key)
        assert (cell.held_out, cell.validated) == (there.held_out, there.validated)
        assert set(cell.curves) == set(there.curves)
    assert sorted(StoredCell(packed, key).held_out for key in packed.keys()) == [False, True]  # noqa: SIM118


def test_the_command_prints_a_table_and_a_verdict(store, capsys):
    assert main(["compare", "lora + adam", "full + sgd", "--results", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert "hilbert" in said
    assert "matrix_factorization" in said
    assert "lora + adam against full + sgd:" in said
    assert main(["compare", str(store.root), str(store.root), "--measure", "headline"]) == 0
    assert "equal within 5 % on 6, of 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lora", "nothing"], "nothing: must be a method or a parameterization with results: full + sgd; lora + adam; lora + sgd"),
        (["lora", "full", "--measure", "beauty"], "--measure='beauty': must be one of"),
        (["lora", "full", "--results", "nowhere"], "--results=nowhere: holds no results"),
    ],
)
def test_bad_input_gets_one_line(store, capsys, arguments, said):
    where = [] if "--results" in arguments else ["--results", str(store.root)]
    assert main(["compare", *arguments, *where]) == 2
    assert said in capsys.readouterr().err
