"""Flora's claims: every verdict can come out, theory's figures are met at a few seeds, and sweeps settle from what lanes hold."""

import time

import numpy as np
import pytest
import torch

from bench.cell import Cell, LearningRates
from bench.claims import VERDICTS, Evidence, Figure, _claim, flora, flora_lora, flora_momentum, flora_training
from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, NOT_RUN, SEEDS
from bench.stats import Interval
from bench.store import Store
from bench.stored import StoredCell
from optimizers import SGD
from optimizers import Flora as FloraRule
from parameterizations import Flora, Full, LoRA, LoRAFA
from problems import LinearRegression, MatrixFactorization

MODULES = (_claim, flora, flora_lora, flora_momentum)


def figure(low, high=None):
    high = low if high is None else high
    return Figure("x", Interval((low + high) / 2, low, high), 10)


@pytest.fixture
def few_seeds(monkeypatch):
    for module in MODULES:
        monkeypatch.setattr(module, "SEEDS", SEEDS[:3], raising=False)


def test_a_range_holds_a_figure_whole_in_part_or_not_at_all():
    inside, across, outside = figure(0.9, 1.1), figure(0.5, 1.1), figure(3.0)
    assert flora.by_ranges([inside], 0.8, 1.2, "").verdict == HOLDS
    assert flora.by_ranges([inside, across], 0.8, 1.2, "").verdict == INCONCLUSIVE
    assert flora.by_ranges([inside, across, outside], 0.8, 1.2, "").verdict == FAILS


def test_a_bias_shows_in_the_mean_of_estimates():
    noise = torch.randn(2000, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    truth = torch.ones(3, 3).double()
    assert flora.bias(truth + noise, truth) == pytest.approx(1, abs=0.9)
    assert flora.bias(1.5 * truth + noise, truth) > 100


@pytest.mark.usefixtures("few_seeds")
@pytest.mark.parametrize(
    "claim", [flora.is_unbiased, flora.falls_by_the_same_share, flora.memory, flora_momentum.transfer_is_unbiased_and_grows]
)
def test_theory_is_met(claim):
    assert claim.settle(Evidence({})).verdict == HOLDS


@pytest.mark.usefixtures("few_seeds")
def test_the_rank_of_flora_grows_by_its_own_with_every_pair():
    assert list(flora.rank_after(Flora(4, 5), 15)) == [12, 12, 12]
    assert flora.off_by(Evidence({}), Flora, 32).value == Interval(0, 0, 0)


def test_rounds_of_the_best_left_factor_leave_equal_shares():
    assert flora.exact_rounds(100, 4, repeats=50) == pytest.approx([0.9375**k for k in (1, 2, 3, 4)], rel=0.01)


@pytest.mark.usefixtures("few_seeds")
def test_lora_and_its_projection_part_with_the_square_of_the_rate_and_not_at_equal_progress():
    early = flora_lora.difference([1e-4, 1e-5], 50)
    assert torch.log10(early[:, 0] / early[:, 1]).numpy() == pytest.approx(2, abs=0.1)
    same = [flora_lora.difference([rate], steps)[:, 0] for rate, steps in ((1e-2, 100), (5e-3, 200))]
    assert (same[0] / same[1]).numpy() == pytest.approx(1, abs=0.01)
    larger = flora_lora.difference([1e-2], 100, size=4.0)[:, 0] / flora_lora.difference([1e-2], 100, size=2.0)[:, 0]
    assert torch.log2(larger).numpy() == pytest.approx(-4, abs=0.1)


def test_the_bound_on_a_breaks_under_gradients_that_turn_and_not_under_one_that_stays():
    swing, random, rate = flora_lora.turning_gradients(100)
    size = float(swing.cumsum(0).abs().max())
    assert size == 1
    assert float(flora_lora.outgrows(swing, rate)[1]) == pytest.approx(2 / (1 + rate**2), rel=1e-9), "f_A = -2 η L² after two steps"
    assert random.cumsum(0).square().sum((-2, -1)).numpy() == pytest.approx(1)
    assert float(flora_lora.outgrows(torch.ones(50, 1, 1).double() / 50, 1e-3).max()) < 1


@pytest.mark.usefixtures("few_seeds")
def test_lora_with_a_frozen_is_a_fixed_projection():
    assert flora_lora.of_a_projection(Evidence({})).value.high < 1e-12


@pytest.mark.parametrize(
    ("steps", "progress", "verdict"), [(2.0, 1.0, HOLDS), (2.0, 0.0, CONDITION), (0.0, 0.0, FAILS), ((0.4, 0.6), 0.0, INCONCLUSIVE)]
)
def test_two_protocols(steps, progress, verdict):
    steps = figure(*steps) if isinstance(steps, tuple) else figure(steps)
    assert flora_lora.of_two_protocols([steps], [figure(progress)], figure(1.0)).verdict == verdict


@pytest.mark.parametrize(
    ("tuned", "matched", "verdict"),
    [
        ("equal", 1.0, HOLDS),
        ("equal", 2.0, CONDITION),
        ("worse", 1.0, FAILS),
        ("better", 1.0, FAILS),
        ("inconclusive", 1.0, INCONCLUSIVE),
    ],
)
def test_alike_is_equal_tuned_and_at_one_rate(tuned, matched, verdict):
    assert flora_lora.alike(tuned, [figure(1.0), figure(matched), figure(1e-15)]).verdict == verdict


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        (("equal", "better", "worse"), HOLDS),
        (("worse", "better", "worse"), CONDITION),
        (("worse", "worse", "worse"), FAILS),
        (("worse", "inconclusive", "worse"), INCONCLUSIVE),
    ],
)
def test_recovered_is_as_good_as_full_where_lora_is_not(answers, verdict):
    assert flora_lora.recovered(*answers, [figure(1.0)]).verdict == verdict


@pytest.mark.parametrize(
    ("mean", "single", "verdict"),
    [(13.5, 13.4, HOLDS), (13.5, 12.0, CONDITION), (9.0, 9.0, FAILS), ((12.5, 13.5), 12.0, INCONCLUSIVE)],
)
def test_a_threshold_is_right_between_the_same_whole_numbers(mean, single, verdict):
    mean = figure(*mean) if isinstance(mean, tuple) else figure(mean)
    assert flora_momentum.of_threshold(mean, figure(single), []).verdict == verdict


def test_cosines_and_transfers_settle_both_ways():
    keys = [(momentum, each) for momentum in ("reset", "carry") for each in (2, 10, 100)]
    right = {key: figure(0.0 if key[0] == "carry" and key[1] < 20 else 1.0) for key in keys}
    assert flora_momentum.of_cosines(right).verdict == HOLDS
    assert flora_momentum.of_cosines(right | {("carry", 2): figure(1.0)}).verdict == FAILS
    assert flora_momentum.of_cosines(right | {("carry", 2): figure(0.4, 0.6)}).verdict == INCONCLUSIVE
    sizes = {("as the paper says", each): figure(4.0) for each in (14, 20, 100)}
    sizes |= {("as the code does", 14): figure(1e9), ("as the code does", 20): figure(1e9), ("as the code does", 100): figure(4.0)}
    assert flora_momentum.of_two_transfers(sizes).verdict == HOLDS
    assert flora_momentum.of_two_transfers(sizes | {("as the code does", 14): figure(4.0)}).verdict == FAILS


@pytest.mark.usefixtures("few_seeds")
def test_a_momentum_that_is_carried_too_often_explodes_and_the_authors_transfer_sooner():
    carried = flora_momentum.carried(Flora(4, 5), 20)[0][:, -1]
    assert (carried > 1e4).all()
    reset, angles = flora_momentum.carried(Flora(4, 5, momentum="reset"), 20)
    assert (reset < 5).all()
    assert angles.mean().item() == pytest.approx(1 / flora_momentum.ONE, rel=0.1)
    code, paper = (flora_momentum.carried(kind(4, 14), 20)[0][:, -1] for kind in (flora_momentum.WithTheOldOnBothSides, Flora))
    assert (code > 100 * paper).all()
    assert (flora_momentum.single_growth(100) < flora.GROWTH).all()


@pytest.mark.parametrize(
    ("scratch", "others", "verdict"),
    [(0.1, (0.5, 0.6), HOLDS), (0.1, (0.05, 0.6), CONDITION), (0.9, (0.1, 0.2), FAILS), ((0.1, 0.9), (0.5, 0.6), INCONCLUSIVE)],
)
def test_a_lead_is_larger_where_intervals_part(scratch, others, verdict):
    scratch = figure(*scratch) if isinstance(scratch, tuple) else figure(scratch)
    assert flora_training.of_leads(scratch, [figure(other) for other in others]).verdict == verdict


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Cells of these methods on tiny problems, with the claims' seeds."""
    store = Store(tmp_path_factory.mktemp("flora"))

    def of(problems, methods):
        cells = [
            Cell(problem, method, rule, LearningRates(values=(0.01, 0.1)), (0, 1), SEEDS, 30, probes="none")
            for problem in problems
            for method, rule in methods
        ]
        for cell in cells:
            store.save(cell.key, cell, cell.run(), time.time(), time.process_time())
        return Evidence({"tiny": [StoredCell(store, cell.key) for cell in cells]})

    return of


PROBLEMS = (MatrixFactorization((8, 7)), LinearRegression((8, 7), rank=2))


def is_whole(finding, evidence):
    """Whether a finding has a verdict, and every figure can be traced to cells or to measurements."""
    measured = {name for name, _ in evidence.measured}
    traced = [bool(each.cells) or each.measure in measured for each in finding.figures]
    return finding.verdict in VERDICTS and all(traced) and all(not np.isnan(each.value.value) for each in finding.figures)


def test_the_figure_of_sgd_settles_from_lanes(sweep):
    evidence = sweep(PROBLEMS[1:], [(method, SGD()) for method in (Full(), LoRA(2), LoRAFA(2), Flora(2))])
    assert is_whole(flora_lora.lora_trains_as_a_projection.settle(evidence), evidence)
    found = flora_lora.resampling_recovers.settle(evidence)
    assert is_whole(found, evidence)
    assert "both at rate" in found.figures[-1].name


def test_training_claims_settle_from_lanes(sweep):
    methods = [(Full(), FloraRule(rank, scale_parameter=False)) for rank in (2, 4, 7)]
    methods += [(LoRA(rank), FloraRule(rank, scale_parameter=False)) for rank in (2, 4)]
    evidence = sweep(PROBLEMS, methods)
    assert is_whole(found := flora_training.momentum.settle(evidence), evidence)
    assert [each.name.split(" / ")[0] for each in found.figures[:4:2]] == [
        "score, full + flora, rank=2",
        "score, full + flora, rank=4",
    ]
    assert is_whole(flora_training.momentum_lora.settle(evidence), evidence)
    assert is_whole(flora_training.lead_from_scratch.settle(evidence), evidence)
    every = [(Full(), FloraRule(4, interval=interval, scale_parameter=False)) for interval in (0, 1, 10, 100)]
    evidence = sweep(PROBLEMS, every)
    assert is_whole(flora_training.some_interval_is_best.settle(evidence), evidence)


def test_what_needs_a_language_model_is_not_run():
    assert flora_training.memory_of_language_models.settle(Evidence({})).verdict == NOT_RUN
