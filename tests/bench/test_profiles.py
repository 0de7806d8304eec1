"""Profiles over all problems are what the stored lanes give by hand; figures for print are exactly as wide as a journal asks."""

import dataclasses
import itertools
import re
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from bench import plots
from bench.cell import Cell, CellResult, LearningRates
from bench.cli import main
from bench.packed import pack
from bench.plots import profiles
from bench.plots.instances import lined_up
from bench.plots.sheet import Sheet
from bench.plots.style import Look, slots
from bench.plots.sweep import Choice, panels, with_the_best_optimizer
from bench.plots.words import wrapped
from bench.stats import superiority
from bench.store import Store
from bench.stored import StoredCell
from bench.study import Study, tuned_score
from linalg import InputError
from optimizers import SGD, Adam, SVDOracle
from parameterizations import Deep, Full, LoRA, OPLoRA
from problems import Hilbert, IllConditioned, MatrixFactorization

PROBLEMS = (MatrixFactorization(shape=(10, 8)), Hilbert(shape=(9, 8)), IllConditioned(shape=(8, 7), rank=3))
METHODS = (LoRA(rank=2), Full(), OPLoRA(rank=2))
SEEDS = (100, 101, 102, 103)
COLUMN, PAGE = 3.35, 6.9


def cell(problem=PROBLEMS[0], parameterization=METHODS[0], optimizer=SGD(), report=SEEDS):  # noqa: B008 - frozen
    return Cell(
        problem,
        parameterization,
        optimizer,
        lr=LearningRates(values=(0.03, 0.3)),
        tune=(0, 1),
        report=report,
        steps=60,
        probes="all",
    )


def keep(store: Store, cell: Cell, result: CellResult | None = None) -> str:
    store.save(cell.key, cell, result or cell.run(), time.time(), time.process_time())
    return cell.key


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three problems, three methods, two optimizers; `deep` on one problem alone."""
    store = Store(tmp_path_factory.mktemp("profiles"))
    for problem, method, optimizer in itertools.product(PROBLEMS, METHODS, (SGD(), Adam())):
        keep(store, cell(problem, method, optimizer))
    keep(store, cell(parameterization=Deep()))
    return store


def every(store):
    return store.keys()


def lanes(store, parameterization, column, optimizer="sgd"):
    """(problems, seeds) a column of the reporting lanes."""
    found = []
    for problem in sorted({store.summary(key)["problem"] for key in every(store)}):
        (key,) = [key for key in every(store) if key.startswith(f"{problem}-{parameterization}-{optimizer}-")]
        table = store.load(key, "lanes").query("role == 'report'").sort_values("seed")
        found.append(table[column].to_numpy())
    return np.array(found)


def drawn(store, sheet=plots.Sheet(), optimizer="sgd"):  # noqa: B008 - frozen
    with plots.house_style(sheet):
        return profiles.figures(optimizer, panels(store, store.keys())[optimizer])["profiles"]


def extents(texts):
    return [text.get_window_extent() for text in texts if text.get_text()]


def line(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def test_profiles_are_the_shares_of_instances_solved_within_a_factor_of_the_fastest(store):
    names = ["full", "lora", "op_lora"]
    steps = np.array([lanes(store, name, "steps_to_1e-02").ravel() for name in names])
    assert np.isinf(steps).any(), "the test shows what is never solved"
    fastest = steps.min(0)
    axes = drawn(store).axes[0]
    for name, own in zip(names, steps, strict=True):
        profile = line(axes, name)
        assert profile.get_drawstyle() == "steps-post"
        for factor, share in zip(profile.get_xdata(), profile.get_ydata(), strict=True):
            assert share == np.mean(np.isfinite(own) & (own <= factor * fastest * (1 + 1e-12)))
        assert profile.get_ydata()[-1] == np.mean(np.isfinite(own)), "the right end is what is ever solved"
        assert profile.get_xdata()[-1] == pytest.approx(axes.get_xlim()[1])
    jumps = {float(ratio) for ratio in (steps / fastest)[np.isfinite(steps)]}
    assert all(np.isclose(line(axes, "lora").get_xdata(), jump).any() for jump in jumps)
    assert axes.get_xscale() == "log"
    (never,) = axes.child_axes
    assert never.get_ylabel() == "share never solved"


def test_improvement_is_over_lora_with_the_same_optimizer_and_has_its_interval(store):
    axes = drawn(store).axes[1]
    base = lanes(store, "lora", "remaining")
    for name in ("full", "op_lora"):
        expected = np.mean(
            [superiority(a, b) for a, b in zip(np.maximum(lanes(store, name, "remaining"), 1e-12), base, strict=True)]
        )
        (value,), whisker = line(axes, name).get_xdata(), line(axes, f"_{name}").get_xdata()
        assert value == pytest.approx(expected)
        assert whisker[0] <= value <= whisker[1]
    assert "over lora" in axes.get_xlabel()
    assert [text.get_text() for text in axes.get_yticklabels()] == sorted(
        ("full", "op_lora"), key=lambda name: line(axes, name).get_xdata()[0]
    )
    assert 0.5 in [each.get_xdata()[0] for each in axes.lines]


def test_a_method_that_ran_on_too_few_instances_is_left_out_and_named(store):
    found = lined_up(panels(store, store.keys())["sgd"])
    assert found is not None
    assert [each.label for each in found.lines] == ["full", "lora", "op_lora"]
    assert found.left_out == ["deep"]
    assert found.counts == [len(SEEDS)] * len(PROBLEMS)
    assert any("Ran on too few: deep" in text.get_text() for text in drawn(store).texts)


def test_only_seeds_that_all_methods_ran_on_count_and_what_no_two_share_is_not_drawn(tmp_path):
    store = Store(tmp_path)
    keep(store, cell())
    keep(store, cell(parameterization=Full(), report=(102, 103, 104)))
    found = lined_up(panels(store, store.keys())["sgd"])
    assert found is not None
    assert found.counts == [2]
    assert not profiles.figures("sgd", panels(store, [key for key in every(store) if "-full-" in key])["sgd"])
    other = Store(tmp_path / "other")
    keep(other, cell())
    keep(other, cell(PROBLEMS[1], Full()))
    assert plots.draw(other, "x", other.keys(), ["profiles"]) == []


def test_a_target_that_no_run_reaches_and_a_single_seed_are_said(tmp_path):
    store = Store(tmp_path)
    for method in METHODS[:2]:
        own = cell(parameterization=method, report=(100,))
        result = own.run()
        keep(store, own, dataclasses.replace(result, lanes=result.lanes.assign(**{"steps_to_1e-02": np.inf})))
    figure = drawn(store)
    assert [text.get_text() for text in figure.axes[0].texts][-1] == "no run reaches the target"
    assert any("1 instance (matrix_factorization, 1 reporting seed)" in text.get_text().replace("\n", " ") for text in figure.texts)
    assert any("A single seed has no interval." in text.get_text().replace("\n", " ") for text in figure.texts)


def test_cells_older_than_a_measure_are_left_out(tmp_path):
    store = Store(tmp_path)
    for method in METHODS:
        result = cell(parameterization=method).run()
        if method == METHODS[2]:
            result = dataclasses.replace(result, lanes=result.lanes.drop(columns="remaining"))
        keep(store, cell(parameterization=method), result)
    found = lined_up(panels(store, store.keys())["sgd"])
    assert found is not None
    assert found.left_out == ["op_lora"]


def test_the_best_optimizer_is_the_one_that_the_tuning_seeds_prefer(store):
    study = Study.of(StoredCell(store, key) for key in every(store))
    for panel in with_the_best_optimizer(panels(store, store.keys())):
        for each in panel.lines:
            rivals = [study.cells[panel.title, method] for method in study.methods if method.startswith(f"{each.label} + ")]
            assert tuned_score(each.cell) == min(tuned_score(rival) for rival in rivals if rival.summary["problem"] == panel.title)
            assert each.look.slot == slots([each.label])[each.label]
    names = [path.name for path in plots.draw(store, "all", store.keys(), ["profiles"])[::2]]
    assert names == ["profiles-adam.png", "profiles-sgd.png", "profiles-all.png"]


def test_an_optimizer_that_is_told_the_answer_is_no_choice(tmp_path):
    store = Store(tmp_path)
    for method, optimizer in ((METHODS[0], SGD()), (METHODS[0], SVDOracle()), (METHODS[1], SGD())):
        keep(store, cell(parameterization=method, optimizer=optimizer))
    shown = with_the_best_optimizer(panels(store, store.keys()))
    assert {each.cell.summary["optimizer"] for panel in shown for each in panel.lines} == {"sgd"}
    assert not any("-all" in path.name for path in plots.draw(store, "x", store.keys(), ["profiles"]))


@pytest.mark.parametrize("width", [None, "column", "page"])
def test_a_method_has_its_colour_in_every_figure_at_every_width(store, width):
    sheet = Sheet.printed(width) if width else Sheet()
    places = slots(["full", "lora", "op_lora"])
    with plots.house_style(sheet):
        for name, figures in plots.FIGURES.items():
            for figure in figures("sgd", panels(store, store.keys())["sgd"]).values():
                for axes in figure.axes:
                    for each in axes.lines:
                        if each.get_label() in places:
                            assert to_hex(each.get_color()) == Look(places[each.get_label()]).colour.lower(), name


@pytest.mark.parametrize(("width", "inches"), [("column", COLUMN), ("page", PAGE), ("4.5", 4.5)])
def test_the_width_is_exact_in_the_files(store, width, inches):
    choice = Choice(("hilbert", "matrix_factorization"), ("sgd",), Sheet.printed(width), ("svg", "pdf"))
    figures = list(plots.FIGURES) if width == "column" else ["convergence", "profiles"]
    paths = plots.draw(store, width, store.keys(), figures, 1, choice)
    suffix = width if width in ("column", "page") else f"{width}in"
    assert len(paths) == 2 * (7 if width == "column" else 2)
    for path in paths:
        assert path.name.removesuffix(path.suffix).endswith(f"-sgd-{suffix}"), path
        if path.suffix == ".svg":
            said = ElementTree.parse(path).getroot().attrib["width"]
            assert float(said.removesuffix("pt")) == pytest.approx(72 * inches, abs=1e-6), path
        elif path.suffix == ".pdf":
            box = re.search(rb"/MediaBox \[([^]]*)\]", path.read_bytes())
            assert box is not None
            assert float(box[1].split()[2]) == pytest.approx(72 * inches, abs=1e-3), path


def test_pdfs_are_the_same_bytes_again_without_dates_and_with_truetype_fonts(store):
    choice = Choice(("hilbert",), ("sgd",), Sheet.printed("column"), ("pdf",))
    first = {path: path.read_bytes() for path in plots.draw(store, "pdf", store.keys(), ["profiles", "condition"], 1, choice)}
    time.sleep(1.1)
    again = plots.draw(store, "pdf", store.keys()[::-1], ["profiles", "condition"], 1, choice)
    assert {path: path.read_bytes() for path in again} == first
    for data in first.values():
        assert data.startswith(b"%PDF")
        assert b"Date" not in data
        assert b"/FontFile2" in data
        assert b"/Type3" not in data


@pytest.mark.parametrize("width", ["column", "page"])
def test_print_has_legible_fonts_and_nothing_lies_on_anything_or_leaves_the_page(store, width):
    with plots.house_style(Sheet.printed(width)):
        for name, figures in plots.FIGURES.items():
            for figure in figures("sgd", panels(store, store.keys())["sgd"]).values():
                figure.canvas.draw()
                texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
                assert {7.0 <= text.get_size() <= 9.0 for text in texts} == {True}, name
                extent = figure.get_size_inches() * figure.dpi
                boxes = [axes.get_tightbbox() for axes in figure.axes]
                heads = [text.get_window_extent() for text in figure.texts]
                for box in [*boxes, *heads, figure.legends[0].get_window_extent()]:
                    assert (np.array([box.x0, box.y0]) >= 0).all(), name
                    assert (np.array([box.x1, box.y1]) <= extent + 1).all(), name
                for one, other in itertools.combinations([*boxes, *heads, figure.legends[0].get_window_extent()], 2):
                    assert one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0, name
                for axes in figure.axes:
                    across = sorted(extents(axes.get_xticklabels()), key=lambda box: box.x0)
                    upwards = sorted(extents(axes.get_yticklabels()), key=lambda box: box.y0)
                    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(across)), name
                    assert all(one.y1 <= other.y0 + 2 for one, other in itertools.pairwise(upwards)), name


@pytest.mark.parametrize(
    ("count", "width", "columns"),
    [(1, COLUMN, 1), (2, COLUMN, 2), (9, COLUMN, 2), (1, PAGE, 1), (4, PAGE, 4), (5, PAGE, 3), (7, PAGE, 4), (9, PAGE, 3)],
)
def test_columns_of_panels_follow_from_the_width(count, width, columns):
    assert Sheet.printed(width).grid(count)[:2] == (columns, width / columns)


@pytest.mark.parametrize("width", ["wide", "0", "-3", "nan", "1e9", ""])
def test_a_bad_width_is_refused_with_what_is_allowed(width):
    with pytest.raises(InputError, match=r"^width=.*: must be column, page, or inches from 2\.5 to 20$"):
        Sheet.printed(width)


def test_a_problem_and_an_optimizer_can_be_picked_with_the_looks_that_they_have_among_all(store):
    choice = Choice(("hilbert",), ("adam",))
    paths = plots.draw(store, "picked", store.keys(), ["convergence", "profiles"], 1, choice)
    assert [path.name for path in paths[::2]] == ["convergence-adam.png", "profiles-adam.png"]
    words = (store.root / "plots" / "picked" / "convergence-adam.svg").read_text()
    assert "hilbert" in words
    assert "ill_conditioned" not in words
    with pytest.raises(InputError, match="problem='pie': must be one of hilbert, ill_conditioned, matrix_factorization"):
        plots.draw(store, "picked", store.keys(), ["convergence"], 1, Choice(("pie",)))


@pytest.mark.parametrize("words", [["figure=profiles,spectra"], ["profiles", "spectra"], ["figure=profiles", "figures=[spectra]"]])
def test_the_command_takes_figures_in_either_way(store, capsys, words):
    assert main(["plot", *words, "--results", str(store.root), "--width", "column", "--optimizer", "sgd"]) == 0
    names = [Path(path).name for path in capsys.readouterr().out.split()]
    assert names == [f"{stem}-sgd-column.{kind}" for stem in ("profiles", "spectra") for kind in ("png", "svg", "pdf")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["figure=pie"], "figure='pie': must be one of convergence, "),
        (["figure="], "figure='': must be one of convergence, "),
        (["colour=red"], "colour=red: plot takes figure=NAME"),
        (["--width", "huge"], "width='huge': must be column, page, "),
        (["--problem", "pie"], "problem='pie': must be one of hilbert, "),
        (["--optimizer", "pie"], "optimizer='pie': must be one of adam, sgd"),
    ],
)
def test_the_command_refuses_in_one_line_what_it_does_not_know(store, capsys, words, said):
    assert main(["plot", *words, "--results", str(store.root)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_packed_store_is_drawn_into_its_own_folder_and_says_whose_curves_it_lacks(store, tmp_path, capsys):
    keys = store.keys()
    packed = pack(store, {"mine": keys}, tmp_path / "packed", curves=[key for key in keys if "-lora-sgd-" in key])
    arguments = ["figure=convergence,condition,profiles", "--results", str(packed.root), "--optimizer", "sgd"]
    assert main(["plot", *arguments, "--problem", "hilbert"]) == 0
    captured = capsys.readouterr()
    paths = [Path(path) for path in captured.out.split()]
    assert {path.parent for path in paths} == {packed.root / "plots" / "mine"}
    assert {path.stem for path in paths} >= {"convergence-sgd", "condition_product-sgd", "profiles-sgd"}
    assert "2 of 3 cells are packed without their curves: they are not in convergence and condition" in captured.err
    svg = (packed.root / "plots" / "mine" / "convergence-sgd.svg").read_text()
    assert "op_lora" not in svg
    bare = pack(store, {"mine": keys}, tmp_path / "bare")
    assert [
        path.name for path in plots.draw(bare, "mine", keys, ["convergence", "sensitivity"], 1, Choice(optimizers=("sgd",)))
    ] == [
        "sensitivity-sgd.png",
        "sensitivity-sgd.svg",
    ]


def test_long_names_break_behind_underscores():
    assert wrapped("deep_matrix_completion", 1.0, 8) == "deep_matrix_\ncompletion"
    assert wrapped("deep_matrix_completion", 3.0, 8) == "deep_matrix_completion"
