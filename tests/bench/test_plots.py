"""What figures show is what the tables hold, divergence included."""

import dataclasses
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from bench import catalogue, plots
from bench.cell import Cell, CellResult, LearningRates
from bench.plots import condition, convergence, layout, sensitivity, spectra
from bench.plots.axes import fit_view, tick_steps
from bench.plots.style import COLOURS, Look, slots
from bench.plots.sweep import panels
from bench.stats import quantiles
from bench.store import Store
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import Full, LoRA
from problems import MatrixCompletion, MatrixFactorization

GRID = (0.01, 0.1, 1e6)  # the last one diverges
RATES = LearningRates(values=GRID)
FACTORIZATION = MatrixFactorization(shape=(10, 8))
COMPLETION = MatrixCompletion(shape=(12, 10), rank=2, observed=0.6)
PNG = b"\x89PNG\r\n\x1a\n"


def cell(problem=FACTORIZATION, parameterization=LoRA(rank=2), **settings):  # noqa: B008 - frozen
    defaults: dict[str, Any] = {"lr": RATES, "tune": (0, 1, 2), "report": (100, 101, 102), "steps": 30, "probes": "all"}
    return Cell(problem, parameterization, SGD(), **(defaults | settings))


def keep(store: Store, cell: Cell, result: CellResult | None = None) -> str:
    store.save(cell.key, cell, result or cell.run(), time.time(), time.process_time())
    return cell.key


def diverged(result: CellResult, seeds: tuple[int, ...], step: int) -> CellResult:
    """The result as it would be had these reporting seeds diverged at that step."""
    curves, lanes = result.curves.copy(), result.lanes.copy()
    gone = (curves["role"] == "report") & curves["seed"].isin(seeds) & (curves["step"] >= step)
    measured = [name for name in curves if name not in ("role", "lane", "lr", "seed", "step")]
    curves.loc[gone, measured] = np.nan
    curves.loc[gone, "loss"] = np.inf
    lost = (lanes["role"] == "report") & lanes["seed"].isin(seeds)
    lanes.loc[lost, "status"], lanes.loc[lost, "diverged_at"] = "diverged", float(step)
    return dataclasses.replace(result, curves=curves, lanes=lanes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two problems with two methods each."""
    store = Store(tmp_path_factory.mktemp("plots"))
    for problem in (FACTORIZATION, COMPLETION):
        for parameterization in (LoRA(rank=2), Full()):
            keep(store, cell(problem, parameterization))
    return store


def figure_of(module, store, keys=None, name=None):
    with plots.house_style():
        drawn = module.figures("sgd", panels(store, keys or store.keys())["sgd"])
    return drawn[name or module.__name__.rpartition(".")[2]]


def panel(figure, problem):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(problem))


def line(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def every(store: Store) -> list[str]:
    return store.keys()


def key_of(store, problem, parameterization):
    return next(key for key in every(store) if key.startswith(f"{problem}-{parameterization}-"))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_figure_is_written_as_png_and_svg_in_the_order_asked_for(store):
    paths = plots.draw(store, "tiny", store.keys(), list(plots.FIGURES))
    conditions = ["condition_product", "condition_factors", "condition_gauss_newton"]
    stems = ["convergence", "sensitivity", *conditions, "spectra", "profiles"]
    assert [path.name for path in paths] == [f"{stem}-sgd.{kind}" for stem in stems for kind in ("png", "svg")]
    assert {path.parent for path in paths} == {store.root / "plots" / "tiny"}
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(PNG)
        else:
            words = {element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")}
            assert {"lora", "full"} <= words, "text must stay text"
            assert "matrix_factorization" in words or path.stem == "profiles-sgd"


def test_the_same_results_give_the_same_bytes(store):
    first = {path: path.read_bytes() for path in plots.draw(store, "twice", store.keys(), ["convergence"])}
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30}):  # the user's own settings change nothing, nor are changed
        again = plots.draw(store, "twice", store.keys()[::-1], ["convergence"])
        assert matplotlib.rcParams["font.size"] == 30
    assert {path: path.read_bytes() for path in again} == first


def test_an_unknown_figure_is_refused_with_what_is_allowed(store):
    with pytest.raises(InputError, match="figures='pie': must be one of convergence, sensitivity, condition, spectra"):
        plots.draw(store, "tiny", store.keys(), ["convergence", "pie"])


@pytest.mark.parametrize("parameterization", ["lora", "full"])
@pytest.mark.parametrize("problem", ["matrix_factorization", "matrix_completion"])
def test_convergence_is_the_median_of_the_reporting_seeds(store, problem, parameterization):
    curves = store.load(key_of(store, problem, parameterization), "curves").query("role == 'report'")
    if problem == "matrix_completion":
        expected = curves.groupby("step")["test_rmse"].median()
    else:
        initial = curves.query("step == 0").set_index("seed")["loss"]
        expected = (curves.set_index("seed")["loss"] / initial).groupby(curves["step"].to_numpy()).median()
    drawn = line(panel(figure_of(convergence, store), problem), parameterization)
    assert drawn.get_xdata() == pytest.approx(expected.index.to_numpy())
    assert drawn.get_ydata() == pytest.approx(expected.to_numpy())
    assert drawn.get_xdata()[0] == 0


@pytest.mark.parametrize(
    ("steps", "scale"),
    [
        ([0, 12, 24, 36, 48, 60], "linear"),
        ([0, 14, 29, 43, 57, 71, 86, 100], "linear"),  # a seventh of a hundred steps, rounded
        ([0, 1, 2, 3, 5, 9, 16, 30], "symlog"),
    ],
)
def test_steps_are_evenly_apart_where_a_run_was_measured_so(steps, scale):
    with plots.house_style():
        axes = layout.frame(1)[1][0]
        tick_steps(axes, [np.array(steps), np.array(steps[:-1])])
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    assert low < 0
    assert high > steps[-1]
    assert {0.0} < {tick for tick in axes.get_xticks()} <= set(range(steps[-1] + 1))


def test_the_lowest_loss_in_reach_of_the_rank_is_drawn(store):
    lanes = store.load(key_of(store, "matrix_factorization", "lora"), "lanes").query("role == 'report'")
    figure = figure_of(convergence, store)
    level = (lanes["floor"] / lanes["initial_loss"]).median()
    levels = [line.get_ydata()[0] for line in panel(figure, "matrix_factorization").lines if len(set(line.get_ydata())) == 1]
    assert level == pytest.approx(next(each for each in levels if each < 1))
    assert "lowest loss in reach" in legend(figure)


@pytest.mark.parametrize("parameterization", ["lora", "full"])
def test_sensitivity_is_the_median_score_at_each_rate_and_marks_the_chosen_one(store, parameterization):
    key = key_of(store, "matrix_factorization", parameterization)
    lanes = store.load(key, "lanes").query("role == 'tune'")
    expected = (lanes["score"] / lanes["initial_loss"]).groupby(lanes["lr"]).median()
    axes = panel(figure_of(sensitivity, store), "matrix_factorization")
    drawn = line(axes, parameterization)
    assert list(drawn.get_xdata()) == list(GRID)
    assert drawn.get_ydata()[:2] == pytest.approx(expected.to_numpy()[:2])
    assert np.isinf(expected.iloc[2])
    assert np.isnan(drawn.get_ydata()[2]), "an infinite median is a gap in the line"
    marks = [line for line in axes.lines if line.get_markeredgecolor() == "black" and line.get_color() == drawn.get_color()]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [store.summary(key)["chosen_lr"]]


def test_rates_that_diverge_are_joined_to_the_strip_named_diverged(store):
    figure = figure_of(sensitivity, store)
    axes = panel(figure, "matrix_factorization")
    tick = dict(zip([text.get_text() for text in axes.get_yticklabels()], axes.get_yticks(), strict=True))["diverged"]
    assert axes.get_ylim()[0] < tick < axes.get_ylim()[1]
    full = line(axes, "full")
    upward = [each for each in axes.lines if each.get_color() == full.get_color() and list(each.get_xdata()) == [0.1, 1e6]]
    assert len(upward) == 1
    assert upward[0].get_ydata()[0] == full.get_ydata()[1]
    assert upward[0].get_ydata()[1] > max(full.get_ydata()[:2])
    assert "share of seeds that diverge" in legend(figure)


@pytest.mark.parametrize(("seeds", "said"), [((101,), "1 of 3"), ((101, 102), "2 of 3")])
def test_a_seed_that_diverges_has_a_cross_and_is_counted(tmp_path, seeds, said):
    store, own = Store(tmp_path), cell()
    keep(store, own, diverged(own.run(), seeds, step=10))
    figure = figure_of(convergence, store)
    axes = figure.axes[0]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(each.get_xdata()) for each in crosses] == [[10.0] * len(seeds)]
    assert said in [text.get_text() for text in axes.texts]
    assert "a seed diverges" in legend(figure)
    drawn = line(axes, "lora")
    median_ends = len(seeds) > 1
    assert np.isnan(drawn.get_ydata()[drawn.get_xdata() >= 10]).all() == median_ends
    assert np.isfinite(drawn.get_ydata()[drawn.get_xdata() < 10]).all()
    dotted = [each for each in axes.lines if len(each.get_xdata()) == 2 and each.get_xdata()[1] == 10]
    assert bool(dotted) == median_ends, "the median that diverges goes up to its cross"


def test_cells_where_every_rate_diverged_say_so(tmp_path):
    store = Store(tmp_path)
    keep(store, cell(lr=LearningRates(values=(1e6, 1e7))))
    paths = plots.draw(store, "lost", store.keys(), list(plots.FIGURES))
    assert {path.stem for path in paths} == {"convergence-sgd", "sensitivity-sgd"}
    for module in (convergence, sensitivity):
        assert "every rate diverged" in [text.get_text() for text in figure_of(module, store).axes[0].texts]


def test_cells_without_probes_are_drawn_and_figures_that_nothing_was_measured_for_are_not(tmp_path):
    store = Store(tmp_path)
    keep(store, cell(probes="none"))
    paths = plots.draw(store, "bare", store.keys(), list(plots.FIGURES))
    assert [path.stem for path in paths] == ["convergence-sgd"] * 2 + ["sensitivity-sgd"] * 2


def test_a_panel_without_values_says_not_measured(tmp_path):
    store = Store(tmp_path)
    keep(store, cell())
    keep(store, cell(COMPLETION, probes="none"))
    for module, name in ((condition, "condition_product"), (spectra, "spectra")):
        figure = figure_of(module, store, name=name)
        assert "not measured" in [text.get_text() for text in panel(figure, "matrix_completion").texts]
        assert line(panel(figure, "matrix_factorization"), "lora")


@pytest.mark.parametrize("quantity", list(condition.QUANTITIES))
def test_conditions_are_medians_over_the_steps_where_they_are_measured(store, quantity):
    curves = store.load(key_of(store, "matrix_factorization", "lora"), "curves").query("role == 'report'")
    expected = curves.groupby("step")[quantity].median().dropna()
    drawn = line(panel(figure_of(condition, store, name=quantity), "matrix_factorization"), "lora")
    assert list(drawn.get_xdata()) == list(expected.index)
    assert drawn.get_ydata() == pytest.approx(expected.to_numpy())


def test_an_infinite_condition_is_drawn_above_the_finite_ones(tmp_path):
    store, own = Store(tmp_path), cell()
    result = own.run()
    singular = (result.curves["role"] == "report") & (result.curves["step"] == 5)
    result.curves.loc[singular, "condition_product"] = np.inf
    keep(store, own, result)
    axes = figure_of(condition, store, name="condition_product").axes[0]
    (mark,) = [line for line in axes.lines if line.get_marker() == "_"]
    assert list(mark.get_xdata()) == [5]
    assert mark.get_ydata()[0] > np.nanmax(line(axes, "lora").get_ydata())
    assert np.isfinite(axes.get_ylim()).all()


def test_spectra_are_medians_beside_the_target(store):
    for name, values in (("lora", "value"), ("target", "target")):
        table = store.load(key_of(store, "matrix_factorization", "lora" if name == "lora" else "full"), "spectra")
        expected = table.query("role == 'report' and step == step.max()").groupby("index")[values].median()
        drawn = line(panel(figure_of(spectra, store), "matrix_factorization"), name)
        assert list(drawn.get_xdata()) == list(expected.index)
        assert drawn.get_ydata() == pytest.approx(np.maximum(expected.to_numpy(), 1e-16))


def test_settings_that_differ_are_named_and_make_lines_or_panels_of_their_own(tmp_path):
    store = Store(tmp_path)
    wide = MatrixFactorization(shape=(6, 14))
    for each in (cell(), cell(parameterization=LoRA(rank=4)), cell(wide), cell(wide, LoRA(rank=4)), cell(wide, Full())):
        keep(store, each)
    figure = figure_of(convergence, store)
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes]
    assert titles == ["matrix_factorization, shape=6×14", "matrix_factorization, shape=10×8"]
    assert legend(figure)[:3] == ["full", "lora, rank=2", "lora, rank=4"]
    few, many = (line(figure.axes[0], f"lora, rank={rank}") for rank in (2, 4))
    assert few.get_color() == many.get_color(), "one colour a method"
    assert few.get_linestyle() != many.get_linestyle()


def test_cells_that_only_their_probes_tell_apart_are_told_apart_by_them(tmp_path):
    store = Store(tmp_path)
    for probes in ("none", "basic"):
        keep(store, cell(probes=probes))
    keep(store, cell(COMPLETION, probes="basic"))
    figure = figure_of(convergence, store)
    assert line(panel(figure, "matrix_completion"), "lora")
    assert line(panel(figure, "matrix_factorization"), "lora, probes=none")
    assert line(panel(figure, "matrix_factorization"), "lora, probes=basic")


def test_a_method_keeps_its_colour_in_every_figure_and_every_sweep(store):
    some = [key for key in every(store) if "-full-" in key]
    for keys in (store.keys(), some):
        for module in (convergence, sensitivity, condition, spectra):
            figure = figure_of(module, store, keys, "condition_product" if module is condition else None)
            for axes in figure.axes:
                assert to_hex(line(axes, "full").get_color()) == COLOURS[0].lower()
    assert slots(["lora"])["lora"] == slots(catalogue.entries("parameterization"))["lora"] == 1
    stranger = slots(["Stranger"])["Stranger"]
    assert slots([*catalogue.entries("parameterization"), "Stranger"])["Stranger"] == stranger
    assert stranger not in slots(catalogue.entries("parameterization")).values()


def test_forty_methods_look_different():
    looks = [Look(slot) for slot in slots([*catalogue.entries("parameterization"), *(f"Method{i}" for i in range(40))]).values()]
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)


def test_the_sweep_is_drawn_one_figure_an_optimizer(tmp_path):
    store = Store(tmp_path)
    for optimizer in (SGD(), Adam()):
        keep(store, dataclasses.replace(cell(), optimizer=optimizer))
    paths = plots.draw(store, "two", store.keys(), ["sensitivity"])
    assert [path.name for path in paths[::2]] == ["sensitivity-adam.png", "sensitivity-sgd.png"]


def test_quantiles_leave_out_nan_and_carry_infinity():
    columns = [[1, 2, 4, 3], [1, np.inf, np.inf, 3], [np.nan, 4, 2, np.nan], [np.nan] * 4]
    values = np.array(columns, dtype=float).T
    low, middle, high = quantiles(values, 0.25, 0.5, 0.75)
    assert low[0] == np.quantile(values[:, 0], 0.25)
    assert list(middle) == pytest.approx([2.5, np.inf, 3.0, np.nan], nan_ok=True)
    assert high[1] == np.inf
    assert [each.shape for each in quantiles(np.empty((0, 3)), 0.5)] == [(3,)]


@pytest.mark.parametrize(
    ("last", "low", "high"),
    [
        pytest.param(0.05, (0.03, 0.05), (1, 2), id="one like the others stays"),
        pytest.param(1e12, (0.05, 0.1), (1, 11), id="one that explodes leaves by the top"),
        pytest.param(1e-16, (0.03, 0.1), (1, 2), id="one that is exact leaves by the bottom"),
    ],
)
def test_one_line_cannot_spoil_the_range(last, low, high):
    curves = [np.array([1.0, level]) for level in (0.1, 0.2, 0.3, last)]
    found = fit_view([(curve, curve, curve) for curve in curves], start=1.0)
    assert found is not None
    assert low[0] < found[0] < low[1]
    assert high[0] < found[1] < high[1]


def test_a_line_alone_is_shown_whole_and_nothing_has_no_range():
    exact, nothing = np.array([1.0, 1e-16]), np.array([np.nan, np.inf])
    found = fit_view([(exact, exact, exact)], start=1.0)
    assert found is not None
    assert found[0] < 1e-16 < 1 < found[1]
    assert fit_view([(nothing, nothing, nothing)]) is None


def test_matplotlib_is_used_without_pyplot():
    sources = Path(plots.__file__).parent.glob("*.py")
    assert not [path.name for path in sources if "pyplot" in path.read_text()]


def test_what_a_run_is_given_is_named_only_where_a_problem_has_several_of_it(tmp_path):
    store = Store(tmp_path)
    for problem, steps in ((FACTORIZATION, 20), (COMPLETION, 30)):
        keep(store, cell(problem, steps=steps, probes="none"))
    assert [[line.label for line in panel.lines] for panel in panels(store, store.keys())["sgd"]] == [["lora"], ["lora"]]
    keep(store, cell(FACTORIZATION, steps=25, probes="none"))
    labels = {line.label for panel in panels(store, store.keys())["sgd"] for line in panel.lines}
    assert labels == {"lora, steps=20", "lora, steps=25", "lora, steps=30"}
