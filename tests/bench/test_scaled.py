"""The three sizes of the tasks in models: every sweep of them is one that runs, and the command ends with one table of all."""

import itertools
import json
import shlex
import sys
from pathlib import Path

import hydra
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bench import cli, config, scaled
from bench.catalogue import check_cell
from bench.cli import main
from bench.overrides import check_overrides
from bench.store import Store
from problems import CausalLM, FewShotText, FineTuning, ImageClassification, Summarization

CONF = Path(scaled.__file__).parent / "conf" / "experiment"
COMMANDS = [
    (size, number, scaled.composed(size, *entry, "cpu", []))
    for size, entries in scaled.SIZES.items()
    for number, entry in enumerate(entries)
]


def cells(command):
    """Of a sweep, at most forty; an experiment's own sweeps are read from its file."""
    config.register()
    plain = [each for each in command if not each.startswith("hydra/launcher")]
    named = next((each.partition("=")[2] for each in plain if each.startswith("experiment=")), None)
    if named:
        params = OmegaConf.load(CONF / f"{named}.yaml").hydra.sweeper.params
        plain = [*plain, *(f"{key}={value}" for key, value in params.items())]
    parsed = OverridesParser.create().parse_overrides(plain)
    choices = [list(each.sweep_string_iterator()) if each.is_sweep_override() else [None] for each in parsed]
    with hydra.initialize_config_module("bench.conf", version_base="1.3"):
        for chosen in itertools.islice(itertools.product(*choices), 40):
            overrides = [
                written if value is None else f"{each.get_key_element()}={value}"
                for each, written, value in zip(parsed, plain, chosen, strict=True)
            ]
            yield config.cell(hydra.compose("config", overrides))


@pytest.mark.parametrize(("size", "number", "command"), COMMANDS, ids=[f"{size} {number}" for size, number, _ in COMMANDS])
def test_every_sweep_is_of_cells_that_go_together(size, number, command):
    check_overrides(command)
    for cell in cells(command):
        check_cell(cell.problem, cell.optimizer, cell.parameterization)
        assert isinstance(cell.problem, FineTuning)
        assert len(cell.report) >= (2 if size == "tour" else 5)


def test_the_study_has_what_the_papers_compare():
    methods, counts, starts = set(), set(), set()
    for command in (command for size, _, command in COMMANDS if size == "small"):
        for cell in cells(command):
            rates = cell.lr
            language = isinstance(cell.problem, (FewShotText, CausalLM))
            shown = isinstance(cell.problem, FewShotText) and cell.problem.examples == 256  # pretrained beside random
            assert (rates.count, len(cell.report)) == (5, 5 if language and not shown else 10)
            assert len(cell.tune) == (5 if isinstance(cell.problem, (ImageClassification, Summarization)) else 2)
            if isinstance(cell.problem, FewShotText):
                counts.add(cell.problem.examples)
                starts.add((cell.problem.examples, cell.problem.weights))
                methods.add((type(cell.parameterization).__name__, getattr(cell.parameterization, "rank", None)))
    assert counts == {16, 64, 256}
    assert starts == {(16, "pretrained"), (64, "pretrained"), (256, "pretrained"), (256, "random")}
    assert {("LoRA", 8), ("WideStartLoRA", 8), ("Narrow", 8), ("Narrow", 384), ("Compressed", 8)} <= methods
    assert {("OPLoRA", 8), ("Flora", 8), ("SVD", 16)} <= methods  # GeoLoRA has room to grow to twice the rank


def test_what_is_given_on_the_command_line_comes_last():
    command = scaled.composed("tour", "causal_lm", ["steps=10"], "cuda", ["steps=3", "results=elsewhere"])
    assert command.count("steps=3") == 1
    assert "steps=10" not in command
    assert {"device=cuda", "results=elsewhere", "problem=causal_lm"} <= set(command)


def test_a_device_may_be_an_override(capsys, monkeypatch):
    monkeypatch.setattr(scaled, "as_device", lambda name: name)
    assert main(["scaled", "--size", "full", "device=cuda", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all({"device=cuda", "hydra.launcher.n_jobs=1"} <= set(shlex.split(line)) for line in lines), "one card, one process"


def test_sizes_tasks_and_devices_that_are_not_there_are_named(capsys):
    assert main(["scaled", "--size", "huge"]) == 2
    assert "size=huge: must be one of tour, small, full" in capsys.readouterr().err
    assert main(["scaled", "--task", "poetry"]) == 2
    assert "task=poetry: must be one of few_shot_text" in capsys.readouterr().err
    assert main(["scaled", "--device", "abacus"]) == 2
    printed = capsys.readouterr()
    assert "device='abacus': cannot be used" in printed.err
    assert "tour 1 of" not in printed.err, "once, before any task"


def test_the_commands_can_be_listed_and_are_runnable_as_they_stand(capsys):
    assert main(["scaled", "--size", "full", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(scaled.SIZES["full"])
    for line in lines:
        check_overrides(shlex.split(line)[3:])


def test_a_second_sweep_of_a_process_is_heard_from(tmp_path, capsys, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.setattr(sys, "argv", ["bench"])
    own = ["problem=hilbert", "shape=[6,5]", "optimizer=adam,sgd", "rank=2", "lr.values=[1e-3]", "seeds.tune=[0]"]
    for steps in (3, 4):
        workers = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"results={tmp_path}"]
        assert cli.sweep([*own, *workers, f"steps={steps}"], 0.0) == 0
        assert "2 done" in capsys.readouterr().err
    assert len(Store(tmp_path).keys()) == 4


def test_sweeps_end_in_one_table_and_report_and_one_that_fails_stops_no_other(tmp_path, capsys, monkeypatch):
    pytest.importorskip("peft")
    tiny = ["problem=custom", "problem._target_=tiny_task.TinyText", "steps=4", "lr.values=[1e-3,1e-2]", "seeds.tune=[0]"]
    monkeypatch.setattr(scaled, "SIZES", {"tour": [("custom", [*tiny, "rank=2"]), ("nowhere", []), ("custom", [*tiny, "rank=3"])]})
    monkeypatch.setattr(scaled, "composed", lambda size, task, own, device, more: own or ["problem=nowhere"])
    monkeypatch.setattr(sys, "argv", ["bench"])
    commands = [[*own, f"results={tmp_path}"] if own else ["problem=nowhere"] for _, own in scaled.SIZES["tour"]]
    assert scaled.run("tour", commands, lambda overrides: cli.sweep(overrides, 0.0)) == 2
    out = capsys.readouterr()
    assert "problem=nowhere: must be one of" in out.err
    store = Store(tmp_path)
    assert len(store.sweep("scaled-tour")[1]) == 2
    assert (tmp_path / "report" / "scaled-tour" / "index.html").is_file()
    assert "TinyText" in out.out
    assert not list((tmp_path / "lanes").glob("*"))
    assert OmegaConf.create(store.config(store.keys()[0])).steps == 4


@pytest.mark.parametrize("force", [False, True])
def test_lanes_of_an_interrupted_run_are_taken_over_unless_it_is_forced(force, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(sys, "argv", ["bench"])
    own = ["problem=custom", "problem._target_=tiny_task.TinyText", "steps=4", "rank=2", "lr.values=[1e-3]", "seeds.tune=[0]"]
    own += ["seeds.report=[100]", "optimizer=adam", "parameterization=lora"]
    assert cli.sweep([*own, f"results={tmp_path / 'whole'}"], 0.0) == 0
    (key,) = Store(tmp_path / "whole").keys()
    store = Store(tmp_path / "cut")
    with pytest.raises(RuntimeError):
        config.rebuilt(Store(tmp_path / "whole").config(key)).run(tuned_then_cut(), store.lanes(key))
    (lane,) = store.lanes(key).glob("*/lane.json")
    marked = json.loads(lane.read_text())
    marked["seconds"]["steps"] = 1e6
    lane.write_text(json.dumps(marked))
    assert cli.sweep([*own, f"results={tmp_path / 'cut'}", f"force={str(force).lower()}"], 0.0) == 0
    assert (store.provenance(key)["step_seconds"] > 1e5) == (not force)
    for table in ("curves", "lanes"):
        pd.testing.assert_frame_equal(store.load(key, table), Store(tmp_path / "whole").load(key, table))


def tuned_then_cut():
    """Progress that ends a cell once its tuning is done."""
    shares = []

    def progress(share, found):
        shares.append(share)
        if len(shares) == 6:  # four steps to tune, two to report
            raise RuntimeError("cut")

    return progress
