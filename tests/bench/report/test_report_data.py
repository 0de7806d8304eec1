"""The report's numbers are those of the tables and of `bench.stats`, and its commands bring a cell back."""

import base64
import dataclasses
import io
import json
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from PIL import Image

from bench import catalogue, cli, config, report
from bench.cell import Cell, LearningRates
from bench.overrides import check_overrides
from bench.packed import pack
from bench.plots.style import COLOURS
from bench.report import data
from bench.report.across import FACTORS, across, lined_up
from bench.report.answers import Window, answer, answers, window_record
from bench.report.commands import command, overrides
from bench.report.costs import MEASURES, CostTable, rank_is_bounded
from bench.report.curves import curves_of, divergence, sensitivity_of, spectrum_of
from bench.report.looks import CONTRAST, DARK, LIGHT, contrast, looks, readable
from bench.report.numbers import plain, script
from bench.report.samples import LARGEST, samples_of
from bench.stats import compare, log_ratios, median_interval, performance_profile, probability_of_improvement, superiority
from bench.store import Store
from bench.stored import StoredCell
from bench.study import Study
from linalg import InputError
from optimizers import SGD, Adam, SVDOracle, Torch
from parameterizations import Full, LoRA
from problems import MatrixCompletion, MatrixFactorization

GRID = (0.01, 0.1, 1e6)  # the last one diverges
FACTORIZATION = MatrixFactorization(shape=(10, 8))
COMPLETION = MatrixCompletion(shape=(12, 10), rank=2, observed=0.6)
PROBLEMS = {"matrix_factorization": FACTORIZATION, "matrix_completion": COMPLETION}
METHODS = {"lora + sgd": (LoRA(rank=2), SGD()), "full + sgd": (Full(), SGD()), "lora + adam": (LoRA(rank=2), Adam())}


def cell(problem=FACTORIZATION, parameterization=LoRA(rank=2), optimizer=SGD(), **settings):  # noqa: B008 - frozen
    defaults: dict[str, Any] = {"lr": LearningRates(values=GRID), "tune": (0, 1), "report": (100, 101, 102), "steps": 30}
    return Cell(problem, parameterization, optimizer, **(defaults | {"probes": "all"} | settings))


def keep(store: Store, made: Cell, result=None) -> str:
    store.save(made.key, made, result or made.run(), time.time(), time.process_time())
    return made.key


def study_of(store: Store) -> Study:
    keys = store.keys()
    return Study.of(StoredCell(store, key) for key in keys)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two problems by three methods, and an oracle that one of the problems has no target for."""
    store = Store(tmp_path_factory.mktemp("report"))
    for problem in PROBLEMS.values():
        for parameterization, optimizer in METHODS.values():
            keep(store, cell(problem, parameterization, optimizer))
    keep(store, cell(FACTORIZATION, LoRA(rank=2), SVDOracle()))
    return store


@pytest.fixture(scope="module")
def study(store):
    return study_of(store)


@pytest.fixture(scope="module")
def table(study):
    return CostTable(study)


@pytest.fixture(scope="module")
def overview(table):
    return data.overview(table, "tiny", {})


def read(path: Path) -> Any:
    """What a data file hands to the page: Python reads `Infinity`, too."""
    text = path.read_text()
    assert text.startswith("Report.receive(")
    name, _, content = text.removeprefix("Report.receive(").removesuffix(");\n").partition(", ")
    assert json.loads(name) == path.stem
    return json.loads(content)


def place(overview, problem, method):
    cells = overview["cells"]
    at = ([each["name"] for each in overview["problems"]].index(problem), [m["name"] for m in overview["methods"]].index(method))
    return list(zip(cells["problem"], cells["method"], strict=True)).index(at)


def close(a, b):
    return a == pytest.approx(b, rel=1e-4)


# --- numbers


def test_numbers_are_short_and_none_is_lost():
    assert plain({"a": np.array([0.1234567, np.nan, np.inf, 300.0]), 1: (np.float32(2), np.int64(3), True, None, "x")}) == {
        "a": [0.12346, None, np.inf, 300],
        "1": [2, 3, True, None, "x"],
    }
    assert script("x", {"a": [1e-12, np.inf, None]}) == 'Report.receive("x", {"a":[1e-12,Infinity,null]});\n'


# --- costs, intervals, verdicts


@pytest.mark.parametrize("measure", MEASURES)
def test_costs_are_those_of_the_study(study, table, measure):
    for problem, method in study.cells:
        assert table.costs(problem, method, measure) == pytest.approx(study.costs(problem, method, measure).to_numpy())


def test_costs_of_a_cell_without_a_rate_are_infinite(tmp_path):
    store = Store(tmp_path)
    keep(store, cell(lr=LearningRates(values=(1e6, 1e7))))
    study = study_of(store)
    for measure in MEASURES:
        assert list(CostTable(study).costs("matrix_factorization", "lora + sgd", measure)) == [np.inf] * 3
    found = answer(CostTable(study), "matrix_factorization", {})
    assert found == {"best": None, "candidates": 1}
    assert Window.of(next(iter(study.cells.values()))).reading == "every rate that was tried diverged"
    assert report.write(store, store.keys(), tmp_path / "out", "lost").is_file()


def test_the_overview_has_medians_with_the_intervals_of_the_statistics(study, overview):
    for problem, method in study.cells:
        for measure in ("headline", "steps_to_1e-01"):
            expected = median_interval(study.costs(problem, method, measure).to_numpy())
            assert close(overview["cells"][measure][place(overview, problem, method)], list(expected))


def test_verdicts_are_those_of_paired_seeds_beside_the_lowest_median(study, table, overview):
    for problem in PROBLEMS:
        medians = {method: np.median(study.costs(problem, method, "headline")) for method in METHODS}
        best = min(medians, key=medians.__getitem__)
        assert table.best(problem) == best
        for method in METHODS:
            code = overview["cells"]["verdict_headline"][place(overview, problem, method)]
            verdict = compare([log_ratios(*study.pairs(problem, method, best, "headline"))]).verdict
            assert code == ("b" if method == best else data.CODES[verdict])


def test_methods_on_other_seeds_are_not_compared(tmp_path):
    store = Store(tmp_path)
    keep(store, cell())
    keep(store, cell(parameterization=Full(), report=(100, 101, 103)))
    table = CostTable(study_of(store))
    assert table.comparison("matrix_factorization", "lora + sgd", "full + sgd") is None
    windows = {method: window_record(table.study.cells["matrix_factorization", method]) for method in table.study.methods}
    found = answer(table, "matrix_factorization", windows)
    assert found["unpaired"] == ["lora + sgd"]
    assert found["same"] == []
    assert lined_up(table) == (["full + sgd", "lora + sgd"], [])


# --- answers and windows


def test_an_oracle_is_shown_but_is_never_the_method_to_use(table, overview):
    found = overview["problems"][1]["answers"]
    assert overview["problems"][1]["name"] == "matrix_factorization"
    assert found["bounded"]["best"] != "lora + svd_oracle"
    assert close(
        overview["cells"]["headline"][place(overview, "matrix_factorization", "lora + svd_oracle")][0],
        table.interval("matrix_factorization", "lora + svd_oracle", "headline").value,
    )


def test_where_a_method_of_any_rank_wins_the_best_one_of_bounded_rank_is_named_too(study, table):
    cells = {method: study.cells["matrix_factorization", method] for method in METHODS}
    assert [rank_is_bounded(cells[method]) for method in ("lora + sgd", "full + sgd", "lora + adam")] == [True, False, True]
    windows = {method: window_record(each) for method, each in cells.items()}
    found = answers(table, "matrix_factorization", windows)
    assert found["all"]["best"] == "full + sgd"
    assert found["bounded"]["best"].startswith("lora")


def test_a_window_is_that_of_the_summary(study):
    for each in study.cells.values():
        window = Window.of(each)
        assert window.low <= window.chosen <= window.high
        assert np.log10(window.high / window.low) == pytest.approx(each.summary["window_decades"])


@pytest.mark.parametrize(
    ("window", "care", "words"),
    [
        (Window(0.1, 0.01, 1.0, 2.0, 3.2), "little care", "any rate from 0.01 to 1 will do, a factor of 100"),
        (Window(0.1, 0.1, 1.0, 1.0, 3.2, open_high=True), "some care", "any rate from 0.1 to 1 will do, at least a factor of 10"),
        (
            Window(0.1, 0.1, 0.1, 0.0, 3.16),
            "much care",
            "only 0.1 will do among the rates tried; its neighbours are a factor of 3.2 away",
        ),
        (Window(0.1, 0.1, 0.1), "unknown", "only one rate was tried, 0.1"),
        (
            Window(0.1, 0.001, 10, 4.0, 10, holes=(1.0,)),
            "little care",
            "any rate from 0.001 to 10 will do, a factor of 10,000, but not 1",
        ),
    ],
)
def test_a_window_is_read_in_plain_words(window, care, words):
    assert window.care == care
    assert window.reading == words


def test_a_best_rate_at_the_edge_says_so(tmp_path):
    store = Store(tmp_path)
    keep(store, cell(lr=LearningRates(values=(1e-4, 1e-3), extend=0)))
    window = Window.of(StoredCell(store, store.keys()[0]))
    assert window.edge
    assert window.reading.endswith("the best rate is the last one tried, so a better one may lie beyond")


# --- curves


def test_curves_are_medians_with_quartiles_over_the_reporting_seeds(store, study):
    each = study.cells["matrix_factorization", "lora + sgd"]
    curves = store.load(each.key, "curves").query("role == 'report'")
    for name in ("loss", "relative_error", "condition_product", "condition_gauss_newton", "rank"):
        middle = curves.groupby("step")[name].median().dropna()
        found = curves_of(each)[name]
        assert found["x"] == list(middle.index)
        assert found["m"] == pytest.approx(middle.to_numpy())
        quartile = curves.groupby("step")[name].quantile(0.25)[middle.index].to_numpy()
        assert found.get("l", found["m"]) == pytest.approx(quartile)


def test_a_median_of_seeds_that_diverged_is_infinite_and_their_number_and_steps_are_told(tmp_path):
    store, own = Store(tmp_path), cell()
    result = own.run()
    curves, lanes = result.curves.copy(), result.lanes.copy()
    gone = (curves["role"] == "report") & curves["seed"].isin([101, 102]) & (curves["step"] >= 10)
    measured = [name for name in curves if name not in ("role", "lane", "lr", "seed", "step")]
    curves.loc[gone, measured] = np.nan
    curves.loc[gone, "loss"] = np.inf
    lost = (lanes["role"] == "report") & lanes["seed"].isin([101, 102])
    lanes.loc[lost, ["headline", "score", "final_loss", "remaining"]] = np.inf
    lanes.loc[lost, "status"], lanes.loc[lost, "diverged_at"] = "diverged", 10.0
    keep(store, own, dataclasses.replace(result, curves=curves, lanes=lanes))
    stored = StoredCell(store, own.key)
    found = curves_of(stored)
    for name in ("loss", "relative_error"):
        values = dict(zip(found[name]["x"], found[name]["m"], strict=True))
        assert all(np.isinf(value) == (step >= 10) for step, value in values.items()), name
    assert np.isfinite(found["condition_product"]["m"]).all(), "a probe is over the seeds where it is defined"
    assert divergence(stored) == {"seeds": 3, "diverged": 2, "at": [10.0, 10.0]}
    table = CostTable(Study.of([stored]))
    assert np.isinf(table.interval("matrix_factorization", "lora + sgd", "headline").value)


def test_sensitivity_has_scores_shares_of_divergence_and_the_window(study):
    each = study.cells["matrix_factorization", "full + sgd"]
    found = sensitivity_of(each)
    lanes = each.tuned
    assert found["x"] == list(GRID)
    expected = (lanes["score"] / lanes["initial_loss"]).groupby(lanes["lr"]).median()
    assert found["m"][:2] == pytest.approx(expected.to_numpy()[:2])
    assert found["diverged"] == [0, 0, 1]
    inside = [rate for rate, good in zip(found["x"], found["inside"], strict=True) if good]
    assert (min(inside), max(inside)) == (Window.of(each).low, Window.of(each).high)


def test_spectra_stand_beside_the_target(study):
    each = study.cells["matrix_factorization", "full + sgd"]
    value, target = spectrum_of(each, "value"), spectrum_of(each, "target")
    assert value["x"] == target["x"] == list(range(1, 9))
    assert target["m"][0] == pytest.approx(1, abs=1e-6)  # spectral norm 1
    assert all(np.diff(value["m"]) <= 0)


def test_seconds_are_the_cells_mean_of_a_step_of_one_run(store, study):
    each = study.cells["matrix_completion", "lora + adam"]
    lanes = 2 * len(each.summary["grid"]) + 3
    assert data.seconds_per_step(each) == pytest.approx(store.provenance(each.key)["step_seconds"] / (30 * lanes))


# --- all problems at once


def test_profiles_and_probabilities_are_those_of_the_statistics(study, table):
    found = across(table)
    methods = found["methods"]
    assert methods == ["full + sgd", "lora + adam", "lora + sgd"]
    assert found["left_out"] == [{"method": "lora + svd_oracle", "problems": 1}]
    costs = [[study.costs(problem, method, "steps_to_1e-01").to_numpy() for problem in study.problems] for method in methods]
    expected = performance_profile(np.array([np.concatenate(each) for each in costs]), FACTORS)
    assert np.array(found["profiles"]["targets"]["steps_to_1e-01"]["shares"]) == pytest.approx(expected)
    errors = [[study.costs(problem, method, "headline").to_numpy() for problem in study.problems] for method in methods]
    chances = found["improvement"]["headline"]
    assert chances["matrix"][2][0] == pytest.approx(np.mean([superiority(a, b) for a, b in zip(errors[2], errors[0], strict=True)]))
    interval = probability_of_improvement(errors[0], errors[1], 1000)
    assert chances["intervals"]["lora + adam"][0] == pytest.approx(list(interval))
    assert chances["best"] == methods[int(np.argmax(chances["means"]))]


def test_methods_that_ran_on_few_problems_are_left_out_of_what_is_over_all(tmp_path):
    store = Store(tmp_path)
    for rank in (2, 3):
        keep(store, cell(MatrixFactorization(shape=(10, 8), rank=rank)))
        keep(store, cell(MatrixFactorization(shape=(10, 8), rank=rank), Full()))
    keep(store, cell(MatrixFactorization(shape=(10, 8), rank=4)))
    keep(store, cell(MatrixFactorization(shape=(10, 8), rank=4), Full()))
    keep(store, cell(MatrixFactorization(shape=(10, 8), rank=2), LoRA(rank=2), Adam()))
    table = CostTable(study_of(store))
    methods, problems = lined_up(table)
    assert methods == ["full + sgd", "lora + sgd"]
    assert len(problems) == 3


# --- looks


@pytest.mark.parametrize("ground", [LIGHT, DARK])
@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_can_be_seen_on_both_themes(colour, ground):
    assert contrast(readable(colour, ground), ground) >= CONTRAST


def test_black_on_white_has_the_largest_contrast():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert readable("#D55E00", LIGHT) == "#D55E00", "what can be seen stays as it is in the figures"


def test_a_parameterization_keeps_its_colour_and_its_optimizers_have_dashes(study):
    found = looks(study)
    assert found["lora + sgd"]["light"] == found["lora + adam"]["light"] != found["full + sgd"]["light"]
    assert found["lora + sgd"]["dash"] != found["lora + adam"]["dash"]


# --- commands


def composed(arguments: list[str]) -> Cell:
    check_overrides(arguments)
    with initialize_config_module("bench.conf", version_base="1.3"):
        config.register()
        return config.cell(compose("config", arguments))


def crossings() -> list[Cell]:
    """Every entry of every axis once, at its defaults; what does not go together can be described all the same."""
    axes = [list(catalogue.entries(axis).values()) for axis in catalogue.AXES]
    longest = max(map(len, axes))
    return [Cell(*(entries[i % len(entries)]() for entries in axes)) for i in range(longest)]


@pytest.mark.parametrize("made", crossings(), ids=lambda made: "-".join(made.names.values()))
def test_the_command_of_a_cell_composes_to_its_key(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("matrix.npy", np.eye(3))  # of which the key has a hash
    assert composed(overrides(made.describe())).key == made.key


@pytest.mark.parametrize(
    "made",
    [
        cell(),
        cell(optimizer=Torch("torch.optim.NAdam", {"momentum_decay": 0.01, "betas": [0.8, 0.9]})),
        cell(optimizer=Adam(betas=(0.8, 0.99), eps=1e-30), dtype="float64", schedule="cosine", warmup=3, timeout=2.5),
        cell(lr=LearningRates(min=1e-5, max=1.0, count=4, extend=0), report=(7, 9), probes="none"),
        cell(parameterization=catalogue.entries("parameterization")["op"](rank=3, over="deep", options={"depth": 4})),
        cell(problem=catalogue.entries("problem")["matrix_file"](path="it's a \\ 'matrix', [v2] = {x}.npy")),
    ],
    ids=["plain", "torch", "adam", "rates", "op", "file"],
)
def test_settings_of_any_kind_find_their_way_back(made, monkeypatch):
    monkeypatch.setattr(type(made.problem), "fingerprint", lambda self: "")
    words = shlex.split(command(json.loads(json.dumps(made.describe()))))
    assert words[:3] == ["python", "-m", "bench"]
    assert composed(words[3:]).key == made.key


def test_a_class_from_elsewhere_is_named_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(
        "from dataclasses import dataclass\nfrom parameterizations import LoRA\n\n"
        "@dataclass(frozen=True)\nclass Mine(LoRA):\n    spread: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import elsewhere

    made = cell(parameterization=elsewhere.Mine(rank=3, spread=0.5))
    assert composed(overrides(made.describe())).key == made.key


def test_only_what_differs_from_the_defaults_is_said():
    assert command(Cell(MatrixFactorization(), LoRA(), SGD()).describe()) == (
        "python -m bench problem=matrix_factorization parameterization=lora optimizer=sgd steps=500"
    )


def test_the_command_runs_and_leaves_the_same_cell(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("it's a 'matrix', [v2] = {x}.npy", np.eye(4))
    problem = catalogue.entries("problem")["matrix_file"](path="it's a 'matrix', [v2] = {x}.npy")
    made = cell(problem, steps=3, lr=LearningRates(values=(0.1,)), report=(100, 101), probes="none")
    words = shlex.split(command(made.describe()))[3:]
    assert cli.main([*words, f"results={tmp_path}"]) == 0
    capsys.readouterr()
    assert Store(tmp_path).keys() == [made.key]


# --- what is written


def test_the_folder_has_the_page_its_licence_and_a_file_a_problem(store, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "problem-7.js").write_text("of an earlier report")
    page = report.write(store, store.keys(), tmp_path, "tiny")
    assert page == tmp_path / "index.html"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "across.js",
        "overview.js",
        "problem-0.js",
        "problem-1.js",
    ]
    assert "MIT" in (tmp_path / "vendor" / "uPlot-LICENSE.txt").read_text()
    found = read(tmp_path / "data" / "overview.js")
    assert sorted(found["cells"]["key"]) == store.keys()
    problem = read(tmp_path / "data" / "problem-1.js")
    assert problem["name"] == "matrix_factorization"
    assert len(problem["cells"]) == 4
    assert read(tmp_path / "data" / "across.js")["problems"] == list(sorted(PROBLEMS))


def test_the_same_results_give_the_same_bytes(store, tmp_path):
    for folder in ("a", "b"):
        report.write(store, store.keys()[::-1], tmp_path / folder, "tiny")
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_every_file_that_the_page_names_is_there_and_none_is_on_a_network():
    folder = Path(report.__file__).parent / "page"
    page = (folder / "index.html").read_text()
    named = [each.partition('"')[0] for kind in ('src="', 'stylesheet" href="') for each in page.split(kind)[1:]]
    assert len(named) > 10
    assert all((folder / name).is_file() for name in named)
    for path in folder.glob("*.*"):
        addresses = [line for line in path.read_text().splitlines() if "//" in line and "http" in line]
        assert all("http://www.w3.org/2000/svg" in line for line in addresses), path


def test_a_cell_tells_its_settings_its_origin_and_all_of_its_runs(store, study):
    found = data.problem_data(study, "matrix_completion")["cells"][str(study.methods.index("lora + sgd"))]
    key = study.cells["matrix_completion", "lora + sgd"].key
    assert found["key"] == key
    assert found["settings"]["parameterization"] == "lora"
    assert found["settings"]["parameterization.rank"] == "2"
    assert found["provenance"]["versions"].keys() >= {"torch", "numpy"}
    assert composed(shlex.split(found["command"])[3:]).key == key
    lanes = store.load(key, "lanes")
    counts = {len(values) for values in found["lanes"].values()}
    assert counts <= {1, len(lanes)}
    assert found["lanes"]["seed"] == lanes["seed"].tolist()


def test_a_crossing_that_was_not_run_has_its_reason_where_one_is_known(study, table):
    (gap,) = data.absent(study, {})
    assert (study.problems[gap["problem"]], study.methods[gap["method"]]) == ("matrix_completion", "lora + svd_oracle")
    assert "cannot run on problem=matrix_completion" in gap["reason"]


def test_a_crossing_that_failed_has_its_message(store, tmp_path):
    mine = Store(tmp_path)
    for each in (cell(), cell(COMPLETION), cell(COMPLETION, Full())):
        keep(mine, each)
    mine.save_failure(cell(FACTORIZATION, Full()).key, cell(FACTORIZATION, Full()), RuntimeError("no\nluck"))
    page = report.write(mine, mine.keys(), tmp_path / "out", "tiny")
    (gap,) = read(page.parent / "data" / "overview.js")["absent"]
    assert gap["reason"] == "it failed: no luck"


def test_what_breaks_the_protocol_is_refused_and_nothing_is_written(tmp_path, capsys):
    store, own = Store(tmp_path), cell()
    result = own.run()
    result.lanes.loc[result.lanes["role"] == "report", "seed"] = [100, 101, 0]
    keep(store, own, result)
    with pytest.raises(InputError, match=r"seeds .* are reported, not"):
        report.write(store, store.keys(), tmp_path / "out", "broken")
    assert not (tmp_path / "out").exists()
    assert cli.main(["report", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_line_writes_beside_the_results_or_where_it_is_told(store, tmp_path, capsys):
    assert cli.main(["report", "--results", str(store.root)]) == 0
    assert capsys.readouterr().out.strip() == str(store.root / "report" / "everything" / "index.html")
    assert cli.main(["report", "--results", str(store.root), "--out", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "index.html").is_file()
    assert cli.main(["report", "--results", str(tmp_path / "nowhere")]) == 2


def test_packed_results_without_curves_make_a_report_too(store, tmp_path):
    packed = pack(store, {"tiny": store.keys()}, tmp_path / "packed")
    page = report.write(packed, packed.keys(), tmp_path / "out", "tiny")
    assert read(page.parent / "data" / "problem-0.js")["curves"] == {}


def test_lanes_of_one_value_are_kept_once():
    assert data.constant([np.inf] * 4) == [np.inf]
    assert len(data.constant([float("nan")] * 3)) == 1
    assert data.constant([1, 2]) == [1, 2]
    assert data.constant(pd.Series([3]).tolist()) == [3]


# --- pictures


def png(level: int, side: int = 4) -> bytes:
    """A square of one level of gray."""
    written = io.BytesIO()
    Image.new("L", (side, side), level).save(written, "png")
    return written.getvalue()


def pictured(made: Cell, sets: dict[str, list[bytes]], seed: int = 100):
    """The cell's results, with pictures of its first reporting seed."""
    rows = [
        {"seed": seed, "set": name, "index": i, "png": image} for name, images in sets.items() for i, image in enumerate(images)
    ]
    return dataclasses.replace(made.run(), pictures=pd.DataFrame(rows))


def shown(uri: str) -> Image.Image:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def levels(uris: list[str]) -> list[Any]:
    return [shown(uri).getpixel((0, 0)) for uri in uris]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Two methods that left twelve pictures a set, and one that left none; a problem without any."""
    store = Store(tmp_path_factory.mktemp("gallery"))
    for level, optimizer in ((1, SGD()), (2, Adam())):
        made = cell(optimizer=optimizer)
        shared = {"held out": [png(200 + i) for i in range(12)], "pretrained": [png(100 + i) for i in range(12)]}
        keep(store, made, pictured(made, {**shared, "adapted": [png(10 * level + i) for i in range(12)]}))
    keep(store, cell(parameterization=Full()))
    keep(store, cell(COMPLETION))
    return store


def test_a_problem_has_ten_pictures_a_row_and_those_of_all_methods_once(gallery, tmp_path):
    folder = report.write(gallery, gallery.keys(), tmp_path, "gallery").parent / "data"
    methods = [each["name"] for each in read(folder / "overview.js")["methods"]]
    found = read(folder / "problem-1.js")["samples"]
    assert (found["seed"], found["side"]) == (100, 4)
    assert {name: levels(row) for name, row in found["shared"].items()} == {
        "held out": list(range(200, 210)),
        "pretrained": list(range(100, 110)),
    }
    own = {methods[int(i)]: row for i, row in found["own"].items()}
    assert levels(own["lora + sgd"]["pictures"]) == list(range(10, 20))
    assert levels(own["lora + adam"]["pictures"]) == list(range(20, 30))
    assert own["full + sgd"] == {"seed": 100, "status": "ok", "pictures": []}
    written = "".join(path.read_text() for path in folder.glob("*.js"))
    assert written.count("data:image/png") == 4 * 10, "each picture stands in one file, once"
    assert "data:image" not in (folder / "overview.js").read_text(), "the first page is as small as without them"


def test_where_no_cell_has_pictures_there_is_nothing(gallery, study):
    assert data.problem_data(study_of(gallery), "matrix_completion")["samples"] is None
    assert samples_of({i: each for i, each in enumerate(study.cells.values())}) is None


def test_large_pictures_are_shrunken_and_small_ones_keep_their_bytes(tmp_path):
    store, made = Store(tmp_path), cell()
    small = png(7)
    keep(store, made, pictured(made, {"held out": [small], "adapted": [png(9, 4 * LARGEST)]}))
    found = samples_of({0: StoredCell(store, made.key)})
    assert found is not None
    assert found["side"] == LARGEST
    assert shown(found["own"][0]["pictures"][0]).size == (LARGEST, LARGEST)
    assert base64.b64decode(found["shared"]["held out"][0].partition(",")[2]) == small


def test_what_is_shared_is_of_one_seed(tmp_path):
    store, cells = Store(tmp_path), {}
    for seed, other in ((100, "held out"), (104, "pretrained")):
        made = cell(report=(seed, seed + 1))
        keep(store, made, pictured(made, {name: [png(seed)] for name in ("adapted", other)}, seed))
        cells[len(cells)] = StoredCell(store, made.key)
    found = samples_of(cells)
    assert found is not None
    assert list(found["shared"]) == ["held out"], "the other's are of another noise"
    assert [row["seed"] for row in found["own"].values()] == [100, 104]


def test_a_method_that_no_rate_suits_has_a_row_that_says_so(tmp_path):
    store, good, lost = Store(tmp_path), cell(), cell(lr=LearningRates(values=(1e6, 1e7)))
    keep(store, good, pictured(good, {"adapted": [png(1)]}))
    keep(store, lost)
    found = samples_of({0: StoredCell(store, good.key), 1: StoredCell(store, lost.key)})
    assert found is not None
    assert found["own"][1] == {"seed": None, "status": "diverged", "pictures": []}


def test_the_curve_that_opens_first_is_the_headlines_own(study, overview):
    for record in overview["problems"]:
        drawn = {each["id"] for each in data.problem_data(study, record["name"])["quantities"]}
        assert record["measure"] in drawn
