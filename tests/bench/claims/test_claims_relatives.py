"""Claims on Flora's relatives: every verdict can come out, identities hold at a few seeds, sweeps settle from what lanes hold."""

import time
from itertools import product

import numpy as np
import pytest
import torch

from bench.cell import Cell, LearningRates
from bench.claims import (
    VERDICTS,
    Evidence,
    Figure,
    _claim,
    flora,
    relatives,
    relatives_run_lora,
    relatives_sharing,
    relatives_training,
    relatives_walk,
)
from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, NOT_RUN, SEEDS
from bench.stats import Interval
from bench.store import Store
from bench.stored import StoredCell
from optimizers import SGD, Adam, LoRAPro
from parameterizations import CoLoR, DoRA, FedLoRA, FlatLoRA, Full, LoRA, LoRTA, SoRA, XGBLoRA
from problems import Continual, Federated, LinearRegression, RotatedDigits, Stack

MODULES = (_claim, flora, relatives, relatives_run_lora, relatives_sharing, relatives_training, relatives_walk)


def figure(low, high=None):
    high = low if high is None else high
    return Figure("x", Interval((low + high) / 2, low, high), 10)


@pytest.fixture
def few_seeds(monkeypatch):
    for module in MODULES:
        monkeypatch.setattr(module, "SEEDS", SEEDS[:2], raising=False)


@pytest.mark.usefixtures("few_seeds")
@pytest.mark.parametrize(
    "claim",
    [
        relatives.counts_of_lorta,
        relatives_run_lora.orders_agree,
        relatives_sharing.a_is_common,
        relatives_sharing.sends_half,
        relatives_training.authors_step_differs,
        relatives_training.starts_leave_a_floor,
    ],
)
def test_identities_hold(claim):
    assert claim.settle(Evidence({})).verdict == HOLDS


def test_lora_pro_leaves_what_neither_factor_reaches():
    pro, rescaled, raw, error = relatives.shares_left(100)
    assert error < 1e-12
    assert pro < rescaled < 1 < raw
    left, right, gradient = relatives.factors(100, 12, 10, 2)
    apart = relatives.motion(left, right, gradient) - relatives.nearest(left, right, gradient)
    assert apart.abs().max() < 1e-10


def test_boosters_are_the_greedy_svd(monkeypatch):
    monkeypatch.setattr(relatives, "SEEDS", SEEDS[:1])
    instance = relatives.TALL.draw(100)
    assert relatives.boosted(2)[0].numpy() == pytest.approx([instance.best(k) / instance.best(0) for k in (1, 2)], rel=1e-6)


def test_the_cheapest_order_depends_on_the_batch():
    forward = relatives_run_lora.FORWARD
    assert relatives_run_lora.cheapest(200, 16, 16, 4)[0] is forward["forward2"]
    assert relatives_run_lora.cheapest(4, 16, 16, 4)[0] is forward["forward1"]
    assert relatives_run_lora.miscounts(100) == (0, 0)
    assert relatives_run_lora.speed(100, 64, 16, 16, 2, repeats=1) > 0


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ([figure(0.5), figure(0.8)], HOLDS),
        ([figure(0.5), figure(1.2)], CONDITION),
        ([figure(0.8, 1.0), figure(1.2)], INCONCLUSIVE),
        ([figure(1.1), figure(1.2)], FAILS),
    ],
)
def test_speeds(figures, verdict):
    assert relatives_run_lora.of_speeds(figures).verdict == verdict


@pytest.mark.parametrize(
    ("right", "both", "verdict"),
    [
        ((True, True), (True, True), HOLDS),
        ((True, None), (True, True), CONDITION),
        ((None, None), (True, True), INCONCLUSIVE),
        ((False, False), (True, True), FAILS),
        ((True, True), (True, False), FAILS),
    ],
)
def test_sharing(right, both, verdict):
    found = {f"{share}, {i}": each for share, pair in (("right", right), ("both", both)) for i, each in enumerate(pair)}
    assert relatives_sharing.of_sharing(found, [figure(0.0)]).verdict == verdict
    assert relatives_sharing.fits_or_not(figure(1e-3), should=True)
    assert relatives_sharing.fits_or_not(figure(0.05), should=True) is False
    assert relatives_sharing.fits_or_not(figure(0.05, 0.2), should=False) is None


def test_floors_are_of_the_starts_that_stay_in_the_base():
    left = {(init, rank): figure(1e-3) for init, rank in product(("pissa", "milora", "lora_ga"), (4, 8))}
    left |= {("kaiming", rank): figure(1e-20) for rank in (4, 8)}
    assert relatives_training.of_floors(left).verdict == HOLDS
    assert relatives_training.of_floors(left | {("pissa", 8): figure(1e-9)}).verdict == FAILS
    assert relatives_training.of_floors(left | {("kaiming", 4): figure(1e-9, 1e-5)}).verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdict", "expected"), [("better", HOLDS), ("worse", FAILS), ("equal", FAILS), ("inconclusive", INCONCLUSIVE)]
)
def test_sora_must_be_better(verdict, expected):
    assert relatives_training.of_sora(verdict, [figure(0.5)]).verdict == expected


def correlations(lora, dora, full):
    return {("p", "rows", name): value for name, value in (("LoRA", lora), ("DoRA", dora), ("full", full))}


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        (((0.2, 0.4), (-0.4, -0.2), (-0.6, -0.5)), HOLDS),
        (((0.2, 0.4), (0.1, 0.2), (-0.6, -0.5)), FAILS),
        (((0.2, 0.4), (-0.4, 0.2), (-0.6, -0.5)), INCONCLUSIVE),
    ],
)
def test_signs_of_correlations(signs, verdict):
    figures = correlations(*(figure(*each) for each in signs))
    assert relatives_walk.of_correlations(figures).verdict == verdict
    other = {("q", said, name): each for (_, said, name), each in correlations(figure(0.3), figure(0.3), figure(0.3)).items()}
    assert relatives_walk.of_correlations(figures | other).verdict == (CONDITION if verdict == HOLDS else verdict)


def test_a_correlation_is_pearsons():
    points = torch.randn(2, 2, 30, generator=torch.Generator().manual_seed(0)).double()
    expected = [np.corrcoef(each.numpy())[0, 1] for each in points]
    assert relatives_walk.correlation(points) == pytest.approx(expected)


def test_a_rise_is_read_where_the_loss_first_comes_down_to_a_level():
    path = np.array([[8.0, 1.0], [4.0, 2.0], [1.0, 8.0], [2.0, 3.0]])
    assert relatives_walk.rise_at(path, 8.0) == 1
    assert relatives_walk.rise_at(path, 2.0) == pytest.approx(4.0), "half way in logs, of loss and of rise"
    steeper = torch.from_numpy(path * [1.0, 0.5])
    assert relatives_walk.rise_ratios(steeper[:, None], torch.from_numpy(path)[:, None]) == pytest.approx([0.5])


def test_the_weight_comes_back_but_for_the_last_bits():
    assert 0 < relatives_walk.drift(100, torch.float32, 10) < 1e-6 < relatives_walk.drift(100, torch.bfloat16, 10)


@pytest.mark.usefixtures("few_seeds")
def test_gates_close_as_the_norm_weighs_more():
    assert (relatives_training.open_gates(1.0) > relatives_training.open_gates(3.0)).all()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Cells on the claims' seeds, a few steps each."""
    store = Store(tmp_path_factory.mktemp("relatives"))

    def of(*triples, steps=24):
        cells = [Cell(*each, LearningRates(values=(0.003, 0.03)), (0, 1), SEEDS, steps, probes="none") for each in triples]
        for cell in cells:
            if not store.done(cell.key):
                store.save(cell.key, cell, cell.run(), time.time(), time.process_time())
        return Evidence({"tiny": [StoredCell(store, cell.key) for cell in cells]})

    return of


def is_whole(finding, evidence):
    """Whether a finding has a verdict, and every figure can be traced to cells or to measurements."""
    measured = {name for name, _ in evidence.measured}
    traced = [bool(each.cells) or each.measure in measured for each in finding.figures]
    return finding.verdict in VERDICTS and all(traced) and all(not np.isnan(each.value.value) for each in finding.figures)


TUNED = LinearRegression((10, 9), rank=2)
DIGITS = RotatedDigits(batch_size=16)


def test_starts_settle_from_lanes(sweep):
    starts = [LoRA(rank, init=init) for rank in (4, 8) for init in ("kaiming", "pissa", "milora", "lora_ga")]
    evidence = sweep(*((TUNED, each, Adam()) for each in starts))
    for claim in (relatives_training.pissa, relatives_training.milora, relatives_training.lora_ga):
        assert is_whole(claim.settle(evidence), evidence)


def test_rivals_settle_from_lanes(sweep):
    evidence = sweep((TUNED, LoRA(4), Adam()), (TUNED, LoRA(4), LoRAPro()), (TUNED, XGBLoRA(1), Adam()))
    assert is_whole(relatives_training.lora_pro_ends_better.settle(evidence), evidence)
    assert is_whole(relatives_training.boosters_end_as_low.settle(evidence), evidence)


def test_a_walk_sees_what_the_sweep_ended_with(sweep):
    evidence = sweep((TUNED, LoRA(4), Adam()), (TUNED, FlatLoRA(4), Adam()), (TUNED, DoRA(4), Adam()), (TUNED, Full(), Adam()))
    (cell,) = evidence.study.where(parameterization="lora").cells.values()
    seen = relatives_walk.path(cell, cell.summary["chosen_lr"])
    assert seen[-1, :, 0].numpy() == pytest.approx(cell.reported.sort_values("seed")["final_loss"].to_numpy(), rel=1e-5)
    assert (seen[..., 1] > 0).all(), "a squared loss is convex"
    for claim in (relatives_walk.is_flatter, relatives_walk.rows_turn_and_grow):
        found = claim.settle(evidence)
        assert is_whole(found, evidence)


def test_digits_settle_from_lanes(sweep):
    sora = [(DIGITS, SoRA(8, xi=xi), Adam()) for xi in (0.1, 30.0)]
    evidence = sweep((DIGITS, LoRA(4), Adam()), (DIGITS, LoRA(8), Adam()), (DIGITS, FlatLoRA(4), Adam()), *sora, steps=6)
    assert is_whole(relatives_walk.generalises_better.settle(evidence), evidence)
    found = relatives_training.sora_is_better_and_smaller.settle(evidence)
    assert is_whole(found, evidence)
    closed = sweep((DIGITS, LoRA(8), Adam()), (DIGITS, SoRA(8, xi=0.0), Adam()), steps=6)
    assert relatives_training.sora_is_better_and_smaller.settle(closed).verdict == INCONCLUSIVE


def test_clients_layers_and_tasks_settle_from_lanes(sweep):
    clients = [Federated((8, 7), clients=3, rank=2, share=share) for share in ("rows", "nothing")]
    shares = [FedLoRA(2, share=share) for share in ("right", "both", "left")]
    evidence = sweep(*product(clients, shares, (SGD(), Adam())))
    assert is_whole(relatives_sharing.sharing_a_fits.settle(evidence), evidence)
    stacks = [Stack((8, 7), ranks=(1, 2), share=share) for share in ("both", "rows", "nothing")]
    evidence = sweep(*product(stacks, (LoRTA(2), LoRA(2)), (Adam(),)))
    found = relatives_sharing.as_low_with_fewer.settle(evidence)
    assert is_whole(found, evidence)
    assert found.said.startswith("34 parameters against 60.")
    tasks = [Continual((18, 17), tasks=2, rank=2)]
    evidence = sweep(*product(tasks, (CoLoR(4), CoLoR(16), LoRA(4), LoRA(16)), (Adam(),)))
    assert is_whole(relatives_sharing.forgets_less.settle(evidence), evidence)


def test_what_needs_a_language_model_is_not_run():
    for claim in (
        relatives.lora_pro_on_language_models,
        relatives_sharing.fedsa_on_language_models,
        relatives_training.on_language_models,
    ):
        assert claim.settle(Evidence({})).verdict == NOT_RUN
