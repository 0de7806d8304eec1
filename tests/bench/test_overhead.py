"""What surrounds the steps: composing, counting seconds, drawing side by side."""

import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.plugins.sweeper import Sweeper

from bench import cli, composing, plots, process
from bench.cli import main
from bench.composing import covering, decisive
from bench.overhead import Timing, share_outside
from bench.plots.sweep import panels
from bench.runs import columns, joined
from bench.store import Store
from bench.stored import spread
from linalg import InputError

QUICK = ["steps=5", "lr.count=2", "lr.extend=0", "seeds.tune=1", "seeds.report=1", "shape=[8,6]", "rank=2", "parameterization=lora"]


def test_the_covering_shows_every_override_and_grows_as_the_sum_not_the_product():
    axes = [[f"{key}={i}" for i in range(count)] for key, count in (("a", 9), ("b", 6), ("c", 3))]
    batch = list(itertools.product(*axes))
    chosen = covering(batch)
    assert set(itertools.chain(*chosen)) == set(itertools.chain(*axes))
    assert chosen[0] == batch[0]
    assert len(chosen) == 9 + 6 + 3 - 2
    assert covering([]) == []


def test_few_jobs_are_composed_in_advance_and_hydras_own_check_is_put_back(monkeypatch):
    before, composed = Sweeper.validate_batch_is_legal, []
    monkeypatch.setattr(composing, "compose", lambda sweeper, job: composed.append(job))
    monkeypatch.setattr(composing, "built", lambda axis, config: None)
    batch = [("a=1", "b=1"), ("a=1", "b=2"), ("a=2", "b=1"), ("a=2", "b=2")]
    with composing.checked_in_advance() as seen:
        Sweeper.validate_batch_is_legal(None, batch)
    assert composed == [("a=1", "b=1"), ("a=1", "b=2"), ("a=2", "b=1")]
    assert len(batch) == 4
    assert seen.count == 3
    assert Sweeper.validate_batch_is_legal is before


def test_refused_crossings_leave_a_batch_before_it_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(cli, "job", lambda config: ran.append(config.parameterization["_target_"]))
    main([*QUICK[:-2], "parameterization=flora,lora", "optimizer=torch", "rank=2,3"])
    assert ran == ["parameterizations.lora.LoRA"] * 2
    assert capsys.readouterr().err.count("cannot train parameterization=flora: it merges") <= 2


def test_what_decides_an_entry_is_its_choice_its_options_and_what_is_shared():
    job = ("optimizer=adam", "rank=3", "+optimizer.eps=1e-4", "parameterization=lora", "steps=7", "shape=[3,4]")
    assert decisive(job, "optimizer") == ("optimizer", "optimizer=adam", "rank=3", "+optimizer.eps=1e-4")
    assert decisive(job, "parameterization") == ("parameterization", "rank=3", "parameterization=lora")
    assert decisive(job, "problem") == ("problem", "shape=[3,4]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["problem=hilbert,hilbrt", "optimizer=sgd,adam"], "problem=hilbrt: must be one of"),
        (["problem=matrix_factorization,hilbert", "problem.kind=uniform,gaussian"], "problem.kind: no such key"),
        (["optimizer=adam,sgd", "optimizer.betas=[0.9,0.99]"], "optimizer.betas: no such key"),
    ],
)
def test_a_bad_value_of_a_sweep_is_named_before_any_cell_runs(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*QUICK, *arguments]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert Store(tmp_path / "results").keys() == []


def test_a_sweep_keeps_what_its_command_took(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "results")
    with pytest.raises(InputError, match="sweep=sweep: was not timed"):
        share_outside(store)
    started = time.time()
    assert main([*QUICK, "problem=hilbert,matrix_factorization"]) == 0
    wall = time.time() - started
    kept = share_outside(store)
    provenance = [store.provenance(path.name) for path in store.runs.iterdir()]
    steps = sum(each["step_seconds"] for each in provenance)
    assert kept["steps"] == pytest.approx(steps)
    assert kept["probes"] == pytest.approx(sum(each["probe_seconds"] for each in provenance))
    assert (kept["ran"], kept["workers"]) == (2, 1)
    phases = sum(kept[name] for name in ("start", "composing", "cells", "figures"))
    assert 0.9 * phases <= kept["wall"] <= wall
    assert phases == pytest.approx(kept["wall"], rel=0.2)
    assert kept["share"] == pytest.approx(1 - steps / kept["wall"])
    assert main([*QUICK, "problem=hilbert,matrix_factorization,linear_regression"]) == 0
    assert share_outside(store, "sweep")["ran"] == 1, "cells that were there already are not counted"


def test_the_share_is_what_evenly_spread_steps_leave_of_the_wall_time():
    assert Timing(wall=100, steps=170, workers=2).share == pytest.approx(0.15)
    assert Timing(wall=10, steps=10, workers=1).share == 0
    assert Timing().share == 0


def test_a_process_knows_its_age():
    before = process.age()
    time.sleep(0.1)
    assert 0.08 <= process.age() - before < 5
    assert before >= time.process_time() * 0.5 or before > 1


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    results = tmp_path_factory.mktemp("swept")
    axes = ["problem=hilbert,matrix_factorization", "optimizer=sgd,adam,momentum", "probes=all"]
    assert main([*QUICK, *axes, f"results={results}"]) == 0
    return Store(Path(results))


def test_figures_drawn_side_by_side_are_those_of_one_process(swept):
    pytest.importorskip("joblib")
    figures = list(plots.FIGURES)
    drawn = {
        processes: {path.name: path.read_bytes() for path in plots.draw(swept, f"by-{processes}", swept.keys(), figures, processes)}
        for processes in (1, 2)
    }
    assert list(drawn[1]) == list(drawn[2])
    assert len(drawn[1]) == 3 * 6 * 2
    assert drawn[1] == drawn[2]


@pytest.mark.parametrize("processes", [1, 2, 3, 40])
def test_figures_are_cut_into_even_shares_in_their_order(processes):
    wanted = [(optimizer, figure) for optimizer in ("adam", "momentum", "sgd") for figure in plots.FIGURES]
    shares = plots.cut(wanted, processes)
    assert len(shares) == processes
    assert [each for share in shares for each in share] == wanted
    weights = [sum(3 if figure == "condition" else 1 for _, figure in share) for share in shares]
    assert max(weights) <= sum(weights) / processes + 3


def test_panels_are_equally_large_and_stay_clear_of_each_other_and_of_the_edge(swept):
    with plots.house_style():
        for name, module in plots.FIGURES.items():
            for figure in module("sgd", panels(swept, swept.keys())["sgd"]).values():
                places = [axes.get_position() for axes in figure.axes]
                assert np.ptp([[place.width, place.height] for place in places], axis=0) == pytest.approx(0, abs=1e-12), name
                boxes = [axes.get_tightbbox() for axes in figure.axes]
                width, height = figure.get_size_inches() * figure.dpi
                for box in boxes:
                    assert box.x0 >= 0, name
                    assert box.y0 >= 0, name
                    assert box.x1 <= width, name
                    assert box.y1 <= height, name
                for one, other in itertools.combinations(boxes, 2):
                    assert one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0, name


def test_a_table_is_spread_as_pandas_would():
    table = pd.DataFrame({"lane": [3, 3, 1, 1], "step": [0, 5, 5, 0], "loss": [1.0, np.inf, np.nan, 4.0]})
    steps, values = spread(table, "lane", "step", "loss")
    expected = table.pivot(index="lane", columns="step", values="loss")
    assert list(steps) == list(expected.columns)
    np.testing.assert_array_equal(values, expected.to_numpy())


def test_blocks_with_different_probes_make_one_table_in_order():
    keys = {"lane": np.array([[2, 3]]), "lr": np.array([[0.1, 1.0]])}
    late = columns(keys, {"step": np.array([0, 5]), "loss": np.array([[[1.0, 2.0], [3.0, 4.0]]])})
    early = columns(
        {"lane": np.array([[0]]), "lr": np.array([[0.1]])}, {"step": np.array([0, 5]), "loss": 7.0, "rank": np.ones((1, 1, 2))}
    )
    table = joined([late, early], ["lane", "step"])
    assert table["lane"].tolist() == [0, 0, 2, 2, 3, 3]
    assert table["step"].tolist() == [0, 5] * 3
    assert table["loss"].tolist() == [7, 7, 1, 2, 3, 4]
    assert table["rank"].isna().tolist() == [False, False, True, True, True, True]


def test_tables_are_read_as_pandas_reads_them(swept):
    for key in swept.keys()[:2]:
        for table in ("curves", "lanes", "spectra"):
            pd.testing.assert_frame_equal(swept.load(key, table), pd.read_parquet(swept.folder(key) / f"{table}.parquet"))
