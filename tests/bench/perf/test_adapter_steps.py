"""The measurement of adapters: periods are weighed right, and every contestant trains what it says."""

import numpy as np
import pytest

pytest.importorskip("peft")
pytest.importorskip("transformers")
from bench.perf import adapters
from bench.perf.adapters import CONTESTANTS, PLAIN, Size

TINY = Size(hidden=64, layers=1, rows=1, length=8, rounds=12)


@pytest.fixture(scope="module")
def runs():
    return adapters.race(CONTESTANTS, TINY, "cpu")


def test_a_step_that_costs_more_once_a_period_counts_in_proportion():
    seconds = [1.0, 1.0, 4.0] * 5
    np.testing.assert_allclose(adapters.over_periods(seconds, 3), np.full(13, 2.0))
    np.testing.assert_array_equal(adapters.over_periods(seconds, 1), seconds)


def test_everybody_takes_as_many_timed_steps_and_starts_from_the_same_loss(runs):
    assert {len(run.seconds) for run in runs.values()} == {TINY.rounds}
    first = {name: run.losses[0] for name, run in runs.items() if name not in ("deep_lora", "svd, geolora")}  # start beside zero
    assert set(first.values()) == {runs[PLAIN].losses[0]}
    assert all(run.losses[-1] < run.losses[0] for run in runs.values())


def test_the_memory_is_that_of_the_formulas(runs):
    found = adapters.rows(runs, TINY, "cpu").set_index("method")
    n, r, weights = TINY.hidden, adapters.RANK, len(adapters.TARGETS) * TINY.layers
    assert found.loc[PLAIN, "trains"] == found.loc["lora", "trains"] == weights * 2 * n * r
    assert found.loc["op_lora", "trains"] == weights * (128 + 32 * 129 + 33 * 2 * n * r)
    assert found.loc["adalora", "trains"] == found.loc["adalora, peft", "trains"] == weights * (2 * n + 1) * 12
    geolora = found.loc["svd, geolora"]
    assert geolora["state_bytes"] == 4 * weights * 2 * (2 * r) ** 2  # Adam's moments of S alone
    others = found.drop(index="svd, geolora")
    assert (others["state_bytes"] == 8 * others["trains"]).all()
    assert (found["gradient_bytes"] == 4 * found["trains"]).all()
    assert found.loc["flora", "kept_bytes"] == 4 * weights * (n * r + n * n)  # the frozen factor, and the base as it was
    assert found.loc[PLAIN, "kept_bytes"] == 0


def test_a_ratio_is_over_plain_lora_on_the_same_steps(runs):
    found = adapters.rows(runs, TINY, "cpu").set_index("method")
    assert found.loc[PLAIN, ["ratio_low", "ratio", "ratio_high"]].to_list() == [1.0, 1.0, 1.0]
    geolora, plain = (np.convolve(runs[name].seconds, np.full(11, 1 / 11), "valid") for name in ("svd, geolora", PLAIN))
    assert found.loc["svd, geolora", "ratio"] == pytest.approx(np.median(geolora / plain))
    assert adapters.asked(found.reset_index(), "svd, geolora") == found.loc["adalora", "ratio"]


def test_an_unknown_device_is_one_line(capsys):
    assert adapters.main(["--device", "nowhere"]) == adapters.INVALID
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
