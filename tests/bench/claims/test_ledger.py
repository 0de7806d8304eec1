"""Verdicts follow from intervals, every claim is whole, and the ledger's figures can be traced to lanes."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from bench import claims as ledger
from bench import config
from bench.cell import Cell, LearningRates
from bench.claims import Evidence, Figure, Finding, _command, _ledger, claims
from bench.claims._claim import (
    CONDITION,
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    NOT_RUN,
    VERDICTS,
    against,
    by_bound,
    by_problem,
    claim,
    median_of,
    one,
    settled,
    told,
)
from bench.cli import main
from bench.stats import Interval
from bench.store import TABLES, Store
from bench.stored import StoredCell
from linalg import InputError
from optimizers import SGD
from parameterizations import Full, LoRA
from problems import Hilbert, MatrixFactorization

SEEDS = tuple(range(100, 110))


def keep(store, *cells):
    for cell in cells:
        store.save(cell.key, cell, cell.run(), time.time(), time.process_time())
    return [cell.key for cell in cells]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An experiment of two problems and two methods, with ten reporting seeds."""
    store = Store(tmp_path_factory.mktemp("ledger"))
    rates = LearningRates(values=(0.1, 1.0))
    cells = [
        Cell(problem, method, SGD(), rates, (0, 1), SEEDS, 40, probes="none")
        for problem in (MatrixFactorization(shape=(8, 6), kind="low_rank", rank=2), Hilbert(shape=(8, 6)))
        for method in (LoRA(2), Full())
    ]
    store.write_sweep("tiny", keep(store, *cells), [], "")
    return store


@pytest.fixture
def evidence(store):
    return Evidence.of(store, ["tiny"])


@claim("T1", "Full training ends lower than LoRA.", source="this test", matched="two rates", experiments="tiny")
def full_is_lower(evidence):
    return by_problem(evidence.study, "full + sgd", "lora + sgd")


@claim("T2", "One is two.", source="this test", matched="nothing")
def one_is_two(evidence):
    return by_bound([evidence.measured_figure("distance", lambda seed: 1 + seed / 1000)], 0.5, "It is not.")


@pytest.fixture
def two_claims(monkeypatch):
    known = {"tests.T1": full_is_lower, "tests.T2": one_is_two}
    monkeypatch.setattr(_command, "claims", lambda: known)
    return known


@pytest.mark.parametrize(
    ("verdicts", "claimed", "expected"),
    [
        (["better", "better"], "better", HOLDS),
        (["better", "worse"], "better", CONDITION),
        (["better", "inconclusive"], "better", CONDITION),
        (["equal", "worse"], "better", FAILS),
        (["inconclusive", "worse"], "better", INCONCLUSIVE),
        (["equal", "equal"], "equal", HOLDS),
        (["better", "better"], "equal", FAILS),
    ],
)
def test_a_verdict_follows_from_those_of_the_problems(verdicts, claimed, expected):
    assert settled(dict(enumerate(verdicts)), claimed) == expected


def test_words_say_where_it_is_how():
    assert told({"a": "better", "b": "worse", "c": "better"}) == "better on a, c; worse on b."


@pytest.mark.parametrize(
    ("interval", "expected"),
    [(Interval(0.1, 0.0, 0.2), HOLDS), (Interval(0.9, 0.6, 1.2), FAILS), (Interval(0.5, 0.4, 0.6), INCONCLUSIVE)],
)
def test_a_bound_is_kept_by_the_whole_interval_or_not_at_all(interval, expected):
    assert by_bound([Figure("x", interval, 10)], 0.5, "").verdict == expected
    if expected == FAILS:
        assert by_bound([Figure("x", interval, 10), Figure("y", Interval(0, 0, 0), 10)], 0.5, "").verdict == FAILS


def test_a_finding_has_a_known_verdict_and_a_figure():
    with pytest.raises(ValueError, match="must be one of holds"):
        Finding("proved", "")
    with pytest.raises(ValueError, match="needs a figure"):
        Finding(HOLDS, "")
    assert Finding(NOT_RUN, "it is about a language model").figures == ()


def test_a_figure_is_the_median_of_the_reporting_lanes_and_knows_them(evidence):
    study = evidence.study
    figure = median_of(study, "hilbert", "full + sgd", "final_loss")
    cell = study.cells["hilbert", "full + sgd"]
    assert figure.value.value == np.median(cell.reported["final_loss"])
    assert figure.cells == (cell.key,)
    assert figure.seeds == 10
    comparison, ratio = against(study, "full + sgd", "lora + sgd", study.problems, "final_loss")
    assert ratio.value == comparison.ratio
    assert set(ratio.cells) == {cell.key for cell in study.cells.values()}


def test_one_method_is_one(evidence):
    assert one(evidence.study.where(parameterization="full")) == "full + sgd"
    assert one(evidence.study.where(parameterization__rank=2)) == "lora + sgd"
    with pytest.raises(InputError, match="one method was meant"):
        one(evidence.study)


def test_an_experiment_without_results_is_named(store):
    with pytest.raises(InputError, match="experiment=missing: has no results"):
        Evidence.of(store, ["missing"])


def test_evidence_that_breaks_the_protocol_is_refused(store, tmp_path):
    other = Store(tmp_path)
    cell = Cell(Hilbert(shape=(8, 6)), Full(), SGD(), LearningRates(values=(0.1, 1.0)), (0, 1), SEEDS, 40, probes="none")
    result = cell.run()
    result.lanes.loc[(result.lanes.role == "report") & (result.lanes.seed == 103), "seed"] = 3
    other.save(cell.key, cell, result, time.time(), time.process_time())
    other.write_sweep("tiny", [cell.key], [], "")
    with pytest.raises(InputError, match=r"are reported, not \[100"):
        Evidence.of(other, ["tiny"])


def test_the_ledger_holds_what_was_settled_and_every_figure_can_be_traced(store, tmp_path, two_claims, capsys):
    where = ["--results", str(store.root), "--out", str(tmp_path)]
    assert main(["claims", "--stored", *where]) == 0
    page = (tmp_path / "CLAIMS.md").read_text()
    for name, each in two_claims.items():
        assert f"## {name}" in page
        assert each.sentence in page
    entries = json.loads((tmp_path / "claims.json").read_text())
    assert entries["tests.T2"]["verdict"] == FAILS
    figure = entries["tests.T1"]["figures"][0]
    capsys.readouterr()
    assert main(["claims", "--trace", "tests.T1", "tests.T2", *where]) == 0
    said = capsys.readouterr().out
    for key in figure["cells"]:
        lanes = StoredCell(store, key).reported
        assert f"{key} at rate" in said
        assert f"103:{lanes.set_index('seed').loc[103, 'remaining']:.4g}" in said
    assert "105:1.105" in said


def test_settling_one_claim_again_keeps_the_others(store, tmp_path, two_claims):
    where = ["--results", str(store.root), "--out", str(tmp_path)]
    assert main(["claims", "--stored", *where]) == 0
    before = (tmp_path / "CLAIMS.md").read_text()
    assert main(["claims", "--stored", "tests.T2", *where]) == 0
    assert (tmp_path / "CLAIMS.md").read_text() == before
    assert main(["claims", "--stored", "--results", str(tmp_path), "--out", str(tmp_path)]) == 0, "from what is packed alone"
    assert (tmp_path / "CLAIMS.md").read_text() == before


@pytest.mark.parametrize("curves", [True, False])
def test_a_study_goes_on_from_the_cells_that_the_ledger_holds(store, tmp_path, two_claims, monkeypatch, curves):
    def part(name):
        return tmp_path / name

    assert main(["claims", "--stored", "--results", str(store.root), "--out", str(part("ledger"))]) == 0
    before = (part("ledger") / "CLAIMS.md").read_text()
    if curves:  # a claim reads them, and they were not packed
        monkeypatch.setattr(_ledger, "DRAWN", ("tiny",))
    run = []

    def sweep(overrides):
        run.extend(overrides)
        there = Store(part("elsewhere"))
        assert len(there.keys()) == (0 if curves else 4)
        there.write_sweep("tiny", store.sweep("tiny")[1], [], "")
        return 2 if curves else 0

    options = ["--kept", "tests.T1", "--results", str(part("elsewhere")), "--out", str(part("ledger"))]
    if curves:
        with pytest.raises(InputError, match="did not finish"):
            _command.main(options, sweep)
        return
    assert _command.main(options, sweep) == 0
    assert "experiment=tiny" in run
    assert (part("ledger") / "CLAIMS.md").read_text() == before
    key = store.sweep("tiny")[1][0]
    for table in ("config", "summary", "provenance"):
        assert getattr(Store(part("elsewhere")), table)(key) == getattr(store, table)(key)


@pytest.mark.parametrize(("planned", "finished", "run"), [(4, 4, True), (4, 3, False), (0, 0, False)])
def test_an_experiment_of_hours_counts_when_all_its_cells_are_finished(store, tmp_path, planned, finished, run):
    part, keys = Store(tmp_path), store.sweep("tiny")[1]
    for key in keys[:finished]:
        part.put(
            key,
            store.config(key),
            {name: store.load(key, name) for name in TABLES},
            store.summary(key),
            store.provenance(key),
        )
    part.write_sweep("scaled_tiny", keys[:planned], [], "")

    @claim("T3", "Full training ends lower.", source="this test", matched="two rates", experiments="scaled_tiny")
    def lower(evidence):
        return by_problem(evidence.study, "full + sgd", "lora + sgd")

    found, _ = _ledger.settle("tests.T3", lower, part)
    assert (found.verdict != NOT_RUN) == run
    assert run or "scaled_tiny have not run: `python -m bench claims tests.T3 --kept`" in found.said


def test_the_page_says_where_no_gpu_was():
    assert _ledger.NO_GPU in _ledger.page({}, {"cpu"})
    assert _ledger.NO_GPU not in _ledger.page({}, {"cpu", "cuda"})


def test_an_unknown_claim_and_one_not_settled_are_named(tmp_path, capsys):
    assert main(["claims", "nobody.C1"]) == 2
    assert "nobody.C1: must be a claim or a file of claims: general.adam" in capsys.readouterr().err
    assert main(["claims", "--trace", "general.adam", "--out", str(tmp_path)]) == 2
    assert "holds no verdict on it" in capsys.readouterr().err


# The study's language models: five reporting seeds, as docs/protocol.md says.
A_MINUTE_A_LANE = ("scaled_text", "scaled_pretraining_text", "scaled_language", "scaled_pretraining_language")


@pytest.mark.parametrize("name", claims())
def test_every_claim_is_whole(name):
    found = claims()[name]
    assert found.sentence.endswith(".")
    assert found.source
    assert found.matched
    for experiment in found.experiments:
        assert experiment in config.experiments()
        text = (Path(config.__file__).parent / "conf" / "experiment" / f"{experiment}.yaml").read_text()
        least = 5 if experiment.startswith(A_MINUTE_A_LANE) else 10
        assert max(map(int, re.findall(r"(?:report|tune): (\d+)", text))) >= least, "too few seeds behind a claim"


def test_verdicts_are_the_five():
    assert VERDICTS == ("holds", "holds with a condition", "does not hold", "inconclusive", "not run")
    assert ledger.VERDICTS is VERDICTS
    assert _ledger.anchor("op_lora.C5") == "op_lorac5"


def test_general_claims_come_first_and_numbers_count_as_numbers():
    names = ["op_lora.C10", "op_lora.C2", "general.adam", "op_lora.C2/b", "geolora.a"]
    assert sorted(names, key=ledger._place) == ["general.adam", "geolora.a", "op_lora.C2", "op_lora.C2/b", "op_lora.C10"]
    found = [name for name in claims() if name.startswith("op_lora.C")]
    assert found == sorted(found, key=lambda name: int(name.removeprefix("op_lora.C")))
