"""The command line as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import catalogue
from bench.cli import main
from bench.config import SHARED, experiments, node
from bench.progress import Board, Pace, Post, count_jobs
from bench.store import Store

QUICK = ["steps=5", "lr.count=2", "lr.extend=0", "seeds.tune=1", "seeds.report=1", "shape=[8,6]", "rank=2", "parameterization=lora"]


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of a command."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


MALFORMED = [
    "problem=hilbert,,x",
    "optimizer=choice(",
    "lr.values=[1,",
    "lr.min=range(1",
    "lr.min=f(2)",
    "steps = 5",
    "rank==2",
    "rank=2,",
]
BAD = [
    (["problem=hilbrt"], "problem=hilbrt: must be one of "),
    (["parameterization=loRA"], "parameterization=loRA: must be one of "),
    (["optimizer=adamm"], "optimizer=adamm: must be one of adafactor, "),
    (["experiment=nope"], "experiment=nope: must be one of claims_"),
    (["problem=3"], "problem=3: must be one of causal_lm, "),
    (["problem="], "problem=: must be one of causal_lm, "),
    (["optimizer=1,2"], "optimizer=1,2: must be one of adafactor, "),
    (["optimizer=glob(x)"], "optimizer=glob(x): must match one of adafactor, "),
    (["optimizer=sgd,glob(x)"], "optimizer=sgd,glob(x): glob(...) must be the whole value"),
    (["optimizer=sgd,range(1,2)"], "optimizer=sgd,range(1,2): range(...) must be the whole value"),
    (["experiment=glob(x*)"], "experiment=glob(x*): must match one of claims_"),
    (["alpha=glob(*)"], "alpha=glob(*): glob(...) must be of problem, parameterization, optimizer"),
    (["alpha=interval(1,2)"], "alpha=interval(1,2): needs a sweeper that draws values; "),
    (["parameterization=lora,lroa"], "parameterization=lroa: must be one of "),
    (["stepz=3"], "stepz: no such key; allowed are rank"),
    (["+foo=1"], "+foo=1: no such key; allowed are rank"),
    (["++foo=1"], "++foo=1: no such key; allowed are rank"),
    (["lr.foo=1"], "lr.foo: no such key; allowed are lr.min"),
    (["+lr.foo=1"], "lr.foo: no such key; allowed are lr.min"),
    (["+seeds.foo=1"], "seeds.foo: no such key; allowed are seeds.tune, seeds.report"),
    (["~lr"], "~lr: this key cannot be left out"),
    (["~optimizer"], "~optimizer: this key cannot be left out"),
    (["steps"], "steps: must be written as KEY=VALUE"),
    (["=3"], "=3: must be written as KEY=VALUE"),
    (["--steps=3"], "--steps=3: no such option; settings are written as KEY=VALUE"),
    (["problem.foo=3"], "problem.foo: no such key; allowed are problem.kind"),
    (["+problem.foo=3"], "problem.foo=3: problems.matrix_factorization.MatrixFactorization takes kind"),
    (["problem.kind=square"], "problem.kind='square': must be one of uniform, gaussian, low_rank"),
    (["shape=[8]"], "problem.shape=(8,): must be two positive integers"),
    (["parameterization.rslora=maybe"], "parameterization.rslora='maybe': must be one of True, False"),
    (["force=maybe"], "force='maybe': must be one of True, False"),
    (["figures=pie"], "figures=pie: must be a list"),
    (["seeds.tune=[0,0]"], "seeds.tune=[0, 0]: must be at least one seed, none twice"),
    (["seeds.tune=[0,0.5]"], "seeds.tune=0.5: must be an integer"),
    (["rank=9"], "rank=9: must be at most 6"),
    (["rank=0"], "parameterization.rank=0: must be an integer of at least 1"),
    (["rank=two"], "parameterization.rank='two': must be an integer of at least 1"),
    (["parameterization=deep_lora", "rank=3"], "parameterization.rank=3: must be even"),
    (["lr=0.1"], "lr=0.1: must be given as lr.values"),
    (["lr.count=abc"], "lr.count='abc': must be an integer of at least 1"),
    (["lr.min=-1"], "lr.min=-1: must be a number above 0"),
    (["lr.values=[0.1,-0.2]"], "lr.values=-0.2: must be a number above 0"),
    (["lr.values=[fast]"], "lr.values='fast': must be a number above 0"),
    (["lr.min=1", "lr.max=0.1"], "lr.min=1: must be at most lr.max=0.1"),
    (["seeds=3"], "seeds=3: must be given as seeds.tune and seeds.report"),
    (["seeds.tune=0"], "seeds.tune=0: must be a list of seeds, or how many"),
    (["seeds.tune=[1]", "seeds.report=[1,2]"], "seeds=[1]: must be either for tuning or for reporting"),
    (["steps=0"], "steps=0: must be an integer of at least 1"),
    (["steps=1e3"], "steps=1000.0: must be an integer of at least 1"),
    (["steps=soon"], "steps='soon': must be an integer of at least 1"),
    (["schedule=step"], "schedule='step': must be one of constant, linear, cosine"),
    (["warmup=5"], "warmup=5: must be less than steps=5"),
    (["dtype=half"], "dtype='half': must be one of float32, float64"),
    (["device=cuda:99"], "device='cuda:99': cannot be used"),
    (["probes=most"], "probes='most': must be one of none, basic, all"),
    (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: must be two numbers"),
    (["optimizer.betas=[1,2,3]"], "optimizer.betas=[1, 2, 3]: must be two numbers"),
    (["optimizer=torch", "optimizer._target_=torch.optim.Nope"], "optimizer._target_='torch.optim.Nope': must be a class"),
    (
        ["optimizer=torch", "optimizer._target_=torch.optim.NAdam", "+optimizer.x=1"],
        "optimizer._target_='torch.optim.NAdam', x=1: NAdam.__init__() got an unexpected keyword argument 'x'",
    ),
    (
        ["experiment=scaled_summaries_whole", "optimizer.interval=3"],
        "optimizer.interval: name what it is of beside it, as in optimizer=flora optimizer.interval=...",
    ),
    (["parameterization._target_=os.path.join"], "parameterization._target_='os.path.join': must be a subclass of Parameter"),
    (["problem=matrix_file", "problem.path=nowhere.npy"], "problem.path='nowhere.npy': cannot be read"),
    (["problem=matrix_file", "problem.path=table.csv"], "problem.path='table.csv': must be a .npy or a MatrixMarket"),
    (["figures=[pie]"], "figures='pie': must be one of"),
    *(([written], f"{written}: cannot be read (") for written in MALFORMED),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_gets_one_line_that_names_it_and_exit_code_two(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *QUICK, *arguments)
    assert code == 2
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"error: {message}"), errors
    assert "Traceback" not in errors


def test_what_is_unusual_and_right_is_taken(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fine = ["problem='hilbert'", "optimizer=glob(sg*)", "+own=3", "parameterization.rank=${own}", "++steps=2"]
    code, output, errors = run(capsys, *QUICK, *fine)
    assert code == 0, errors
    assert "lora" in output
    (key,) = Store(tmp_path / "results").keys()
    assert Store(tmp_path / "results").config(key)["parameterization"]["rank"] == 3


@pytest.mark.parametrize("arguments", [["draw"], ["plot", "--results", "nowhere"], ["table", "--sweep", "x"], ["plot", "pie"]])
def test_bad_commands_get_one_line_too(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert errors.count("\n") == 1


def test_a_file_of_nan_or_of_pickles_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("nan.npy", np.array([[1.0, np.nan], [0.0, 1.0]]))
    np.save("pickle.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    for name, words in (("nan", "finite"), ("pickle", "cannot be read")):
        code, _, errors = run(capsys, *QUICK, "problem=matrix_file", f"problem.path={name}.npy")
        assert code == 2
        assert words in errors.strip().splitlines()[-1]


def test_commas_sweep_and_a_second_call_finds_everything_done(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = [*QUICK, "problem=hilbert,matrix_factorization", "optimizer=sgd,adam"]
    code, output, errors = run(capsys, *sweep)
    assert code == 0
    assert "4 done" in errors
    assert "hilbert" in output
    assert "matrix_factorization" in output
    keys = Store(tmp_path / "results").keys()
    assert len(keys) == 4
    code, again, errors = run(capsys, *sweep)
    assert code == 0
    assert "all 4 cells are there already" in errors
    assert again == output
    code, _, errors = run(capsys, *reversed(sweep))  # another order of the same overrides
    assert code == 0
    assert "all 4 cells are there already" in errors
    code, _, errors = run(capsys, *sweep, "probes=basic")  # the default, said aloud
    assert code == 0
    assert "4 kept" in errors
    assert Store(tmp_path / "results").keys() == keys
    code, _, errors = run(capsys, *sweep, "force=true")
    assert "4 done" in errors


def test_a_finished_sweep_runs_again_where_its_data_changed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = [*QUICK, "problem=matrix_file", "problem.path=m.npy", "~shape"]
    for scale, words in ((1, "1 done"), (1, "there already"), (2, "1 done")):
        np.save("m.npy", np.diag([scale, 1.0, 1.0]))
        code, _, errors = run(capsys, *sweep)
        assert code == 0
        assert words in errors


def test_settings_that_differ_have_rows_of_their_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = run(capsys, *QUICK, "problem=ill_conditioned", "problem.rank=2", "problem.condition=1,100", "rank=2,3")
    assert code == 0
    for row in ("ill_conditioned, condition=1", "ill_conditioned, condition=100"):
        assert row in output
    assert output.count("lora, rank=2") == output.count("lora, rank=3") == 2


def test_one_bad_cell_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *QUICK, "rank=2,9,3")
    assert code == 2
    assert "rank=9: must be at most 6" in errors
    assert len(Store(tmp_path / "results").keys()) == 2


def test_a_pair_that_does_not_go_together_is_refused_with_its_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *QUICK, "parameterization=flora,lora", "optimizer=torch")
    assert code == 0
    assert "1 done, 1 refused" in errors
    assert "optimizer=torch_adamw cannot train parameterization=flora: it merges" in errors
    code, _, errors = run(capsys, *QUICK, "parameterization=flora", "optimizer=torch")
    assert code == 2


def test_a_number_of_clients_weights_that_does_not_fit_is_refused_before_the_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = ["problem=rotated_digits", "problem.setting=federated", "parameterization=fed_lora"]
    code, _, errors = run(capsys, *QUICK[:5], *chosen)
    assert code == 2
    last = errors.strip().splitlines()[-1]
    assert last == "error: parameterization.weights=1: must be 2, the weights of a client of problem=rotated_digits"
    assert Store(tmp_path / "results").keys() == []
    code, _, errors = run(capsys, *QUICK, "problem=federated", "parameterization=fed_lora", "parameterization.weights=1,2")
    assert code == 0
    assert "1 done, 1 refused" in errors
    assert "parameterization.weights=2: must be 1, the weights of a client of problem=federated" in errors


def test_a_cell_that_raises_leaves_its_traceback_and_exit_code_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ours.py").write_text(
        "from dataclasses import dataclass\nfrom optimizers import SGD\n\n"
        "@dataclass(frozen=True)\nclass Broken(SGD):\n"
        "    def step_tensor(self, *arguments):\n        raise RuntimeError('cannot step')\n"
    )
    code, _, errors = run(capsys, *QUICK, "optimizer._target_=ours.Broken", "optimizer=sgd", "problem=hilbert")
    assert code == 1
    assert "RuntimeError: cannot step" in errors.strip().splitlines()[-1]
    (failure,) = (tmp_path / "results" / "failures").iterdir()
    assert "step_tensor" in json.loads(failure.read_text())["traceback"]
    assert Store(tmp_path / "results").keys() == []


def test_a_method_out_of_the_tree_runs_by_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "theirs.py").write_text(
        "from dataclasses import dataclass\nimport torch\nfrom parameterizations import Parameterization\n\n"
        "@dataclass(frozen=True)\nclass Symmetric(Parameterization):\n    rank: int = 2\n    spread: float = 1.0\n\n"
        "    def initial(self, shape, generator, base, gradient):\n"
        "        return {'half': self.spread * torch.randn(shape[0], self.rank, generator=generator, dtype=torch.float64)}\n\n"
        "    def factors(self, params):\n        return params['half'], params['half'].mT\n"
    )
    chosen = ["parameterization=custom", "parameterization._target_=theirs.Symmetric", "+parameterization.spread=0.1"]
    code, output, errors = run(capsys, *QUICK, "problem=hilbert", "shape=[7,7]", *chosen)
    assert code == 0, errors
    assert "Symmetric" in output
    code, _, errors = run(capsys, *QUICK, "parameterization=custom")
    assert code == 2
    assert "parameterization._target_=null: must be the dotted name of a class" in errors


def test_list_shows_every_entry_on_a_line(capsys):
    code, output, _ = run(capsys, "list")
    assert code == 0
    lines = output.splitlines()
    for axis in catalogue.AXES:
        for name in catalogue.entries(axis):
            assert sum(line.split()[:1] == [name] for line in lines) >= 1, name
    assert any(line.strip().startswith("optimizer=torch trains most; not ") and "flora" in line for line in lines)
    assert any("parameterization=dora needs a pretrained weight" in line for line in lines)


def test_the_catalogue_page_is_up_to_date(capsys):
    code, output, _ = run(capsys, "list", "--markdown")
    assert code == 0
    page = (Path(__file__).parent.parent.parent / "docs" / "catalogue.md").read_text().splitlines()
    assert page == [line for line in output.splitlines() if line in page], "make catalogue writes it"  # a new file may be missing


def test_help_names_the_commands(capsys):
    code, output, _ = run(capsys, "--help")
    assert code == 0
    assert all(word in output for word in ("list", "plot", "table", "experiment=", "seeds.tune"))


CATALOGUE_WIDE = ("claims_parameterizations", "claims_optimizers")


@pytest.mark.parametrize("name", [name for name in experiments() if not name.startswith("scaled_")])  # those: test_scaled.py
def test_every_shipped_experiment_runs_for_a_few_steps(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [
        "steps=4",
        "warmup=0",
        "lr.count=1",
        "lr.values=null",
        "lr.extend=0",
        "seeds.tune=[0]",
        "seeds.report=[9]",
        "figures=[]",
        "probes=none",
    ]
    few = {
        "default": ["problem=hilbert", "parameterization=lora", "optimizer=sgd"],
        "claims_manifold": ["problem=stack"],
        "claims_overparameterization": ["problem=linear_regression", "optimizer=adam"],
        "claims_gauss_newton": ["problem.condition=3,30", "parameterization=lora,deep"],
        "everything": ["problem=linear_regression,stack", "parameterization=dora,lora,lorta", "optimizer=glob(s*)"],
    }
    catalogue_wide = ["problem=stack", "parameterization=lora,lorta", "optimizer=adam,als"]
    fewer = few.get(name, catalogue_wide if name in CATALOGUE_WIDE else [])
    code, _, errors = run(capsys, f"experiment={name}", *small, *fewer)
    assert code == 0, errors


def test_every_entry_of_the_default_experiment_exists():
    from omegaconf import OmegaConf

    from bench import config

    path = config.Path(config.__file__).parent / "conf" / "experiment" / "default.yaml"
    params = OmegaConf.load(path).hydra.sweeper.params
    for axis, least in (("problem", 8), ("parameterization", 6), ("optimizer", 3)):
        names = params[axis].split(",")
        assert len(names) >= least
        assert set(names) <= catalogue.entries(axis).keys()
    assert len({"movielens", "gene_expression", "inpainting", "lecture_ratings"} & set(params.problem.split(","))) >= 3


@pytest.mark.parametrize("axis", catalogue.AXES)
def test_every_entry_has_a_summary_a_source_and_defaults_that_build(axis):
    for name, cls in catalogue.entries(axis).items():
        assert catalogue.summary(cls), name
        if name != "full":
            assert cls.reference, name
        built = cls()
        assert catalogue.name_of(built).startswith(name)
        assert set(node(axis, cls)) >= {"_target_"}
        shared = {key: value for key, value in node(axis, cls).items() if key in SHARED[axis]}
        assert all(value == "${" + key + "}" for key, value in shared.items())


def test_jobs_are_counted_as_hydra_sweeps_them():
    assert count_jobs(["a=1,2,3", "b=x,y"], []) == 6
    assert count_jobs(["a=1,2,3", "b=x,y"], ["a=9", "c=[1,2]"]) == 2
    assert count_jobs([], ["a=range(0,4)", "b='1,2'"]) == 4
    assert count_jobs([], ["a=interval(0,4)", "b=1,2"]) == 2  # of a continuum a sweeper draws as many as it likes


def test_posts_of_a_process_are_read_back_whole(tmp_path):
    board = Board(tmp_path)
    board.post(Post("a", "running", share=0.5))
    board.post(Post("b", "failed", 'why, "quoted"\nand on'))
    board.post(Post("a", "done"))
    (tmp_path / "9999999.jsonl").write_text('{"key": "c", "sta')  # a line that is still being written
    assert board.latest() == {"a": Post("a", "done"), "b": Post("b", "failed", 'why, "quoted"\nand on')}
    with open(tmp_path / "9999999.jsonl", "a") as handle:
        handle.write('te": "kept"}\n')
    assert board.latest()["c"] == Post("c", "kept")


def test_time_left_goes_by_what_was_done_now():
    pace = Pace(total=4)
    assert pace.left(10, [Post("a", "kept")]) == "", "nothing has been done yet"
    running = Post("b", "running", share=0.6, found=0.5)  # a tenth of a cell in a minute, 2.4 cells to go
    assert pace.left(60, [Post("a", "kept"), running]) == "about 24.0 min left"
    assert pace.left(300, [Post("a", "kept"), Post("b", "done")]) == "about 20.0 min left"
    assert pace.left(600, [Post(name, "kept") for name in "acd"] + [Post("b", "done")]) == "about 0.0 min left"
