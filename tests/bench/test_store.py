"""What is finished stays: kills, full disks, two processes at once."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from bench.cell import Cell, LearningRates
from bench.store import BusyError, Store, write
from optimizers import SGD
from parameterizations import LoRA
from problems import MatrixFactorization

ROOT = Path(__file__).parent.parent.parent
SWEEP = [
    "problem=matrix_factorization",
    "parameterization=lora,full",
    "optimizer=sgd,adam",
    "shape=[8,6]",
    "rank=2",
    "steps=1500",
    "seeds.tune=2",
    "seeds.report=2",
    "lr.count=4",
    "lr.extend=1",
    "dtype=float64",
]


def start(results, *more, **options):
    """The sweep in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench", *SWEEP, f"results={results}", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=results.parent, env=environment, start_new_session=True, **pipes, **options)


def finished(results):
    """Tables of every finished cell by key."""
    store = Store(results)
    done = store.keys()
    return {key: {table: store.load(key, table) for table in ("curves", "lanes", "spectra")} for key in done}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    results = tmp_path_factory.mktemp("whole") / "results"
    process = start(results)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    cells = finished(results)
    assert len(cells) == 4
    return cells


def assert_same(cells, expected):
    assert cells.keys() == expected.keys()
    for key, tables in expected.items():
        for name, table in tables.items():
            pd.testing.assert_frame_equal(cells[key][name], table)
        lanes = cells[key]["lanes"]
        assert not lanes.duplicated(["role", "lr", "seed"]).any()


def test_killing_the_process_at_any_moment_loses_nothing_that_was_finished(uninterrupted, tmp_path):
    results, moments, kept = tmp_path / "results", random.Random(0), set()
    for _ in range(4):
        process = start(results)
        time.sleep(moments.uniform(2.0, 4.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done = set(Store(results).keys()) if results.exists() else set()
        assert kept <= done
        kept = done
    process = start(results)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same(finished(results), uninterrupted)
    assert not list(results.rglob(".*.parquet.*")), "a killed run's half-written files are gone once the cell is finished"


def test_two_processes_on_the_same_sweep_share_it(uninterrupted, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    both = [start(results), start(results)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert_same(finished(results), uninterrupted)
    folders = [path.name for path in (results / "runs").iterdir()]
    assert sorted(folders) == sorted(uninterrupted)


def test_a_disk_that_fills_up_gives_one_line_and_the_rest_is_kept(uninterrupted, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    results = tmp_path / "results"
    process = start(results, preexec_fn=limit)
    _, errors = process.communicate()
    assert process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "File too large" in last
    assert "Traceback" not in errors
    assert Store(results).keys() == []
    process = start(results)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same(finished(results), uninterrupted)


def small_cell():
    return Cell(
        MatrixFactorization(shape=(6, 5)), LoRA(2), SGD(), lr=LearningRates(0.1, 0.2, 2, extend=0), tune=(0,), report=(1,), steps=3
    )


def save(store, cell, key=None):
    store.save(key or cell.key, cell, cell.run(), time.time(), time.process_time())


def test_a_stored_cell_reads_back_as_it_was(tmp_path):
    store, cell = Store(tmp_path), small_cell()
    result = cell.run()
    store.save(cell.key, cell, result, time.time(), time.process_time())
    assert store.keys() == [cell.key]
    pd.testing.assert_frame_equal(store.load(cell.key, "curves"), result.curves)
    assert store.config(cell.key) == cell.describe()
    assert store.summary(cell.key)["chosen_lr"] == result.summary["chosen_lr"]
    provenance = json.loads((store.folder(cell.key) / "provenance.json").read_text())
    assert {"versions", "commit", "processor", "device", "threads", "wall_seconds", "cpu_seconds"} <= provenance.keys()
    assert {path.suffix for path in store.folder(cell.key).iterdir()} <= {".parquet", ".json", ".yaml", ""}


def test_a_cell_without_done_is_not_finished_and_its_remains_are_replaced(tmp_path):
    store, cell = Store(tmp_path), small_cell()
    save(store, cell)
    (store.folder(cell.key) / "DONE").unlink()
    (store.folder(cell.key) / ".lanes.parquet.123").write_text("half")
    assert not store.done(cell.key)
    assert store.keys() == []
    save(store, cell)
    assert store.done(cell.key)
    assert not (store.folder(cell.key) / ".lanes.parquet.123").exists()


def test_a_cell_is_replaced_whole_even_after_a_kill_in_the_middle(tmp_path):
    store, cell = Store(tmp_path), small_cell()
    save(store, cell)
    left_over = tmp_path / "partial" / f"{cell.key}.outdated"
    left_over.mkdir()
    (left_over / "lanes.parquet").write_text("old")
    save(store, cell)
    assert store.keys() == [cell.key]
    assert not list((tmp_path / "partial").iterdir())


def test_failures_are_kept_apart_and_go_away_with_success(tmp_path):
    store, cell = Store(tmp_path), small_cell()
    path = store.save_failure(cell.key, cell, RuntimeError("lost its way"))
    kept = json.loads(path.read_text())
    assert "lost its way" in kept["traceback"]
    assert kept["config"] == cell.describe()
    assert not store.done(cell.key)
    save(store, cell)
    assert not path.exists()


def test_a_cell_is_held_by_one_process_at_a_time(tmp_path):
    store = Store(tmp_path)
    with store.lock("cell", wait=False), pytest.raises(BusyError), store.lock("cell", wait=False):
        pass
    with store.lock("cell", wait=False):
        pass


def test_folders_of_two_machines_merge_by_copying(tmp_path):
    one, two, cell = Store(tmp_path / "one"), Store(tmp_path / "two"), small_cell()
    save(one, cell)
    save(two, cell, "another-cell")
    (one.runs / "another-cell").symlink_to(two.folder("another-cell"))
    assert one.keys() == sorted([cell.key, "another-cell"])


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    write(tmp_path / "note", "before")
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "note", "\ud800")
    assert (tmp_path / "note").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
