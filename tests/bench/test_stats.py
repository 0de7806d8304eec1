"""Scores against cases worked by hand, against scipy, and against what the words promise."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.stats import (
    EQUAL,
    best_of,
    compare,
    expected_best,
    interquartile_mean,
    interval,
    log_ratios,
    median,
    median_interval,
    performance_profile,
    probability_of_improvement,
    quantile,
    superiority,
    window_decades,
    within,
)

INF = np.inf


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).lognormal(size=shape)


@pytest.mark.parametrize("at", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_a_quantile_of_finite_values_is_numpys(count, at):
    values = drawn(4, count)
    np.testing.assert_allclose(quantile(values, at), np.quantile(values, at, axis=-1))
    np.testing.assert_allclose(quantile(values, at, axis=0), np.quantile(values, at, axis=0))


def test_infinite_values_rank_above_all_others():
    assert median(np.array([1.0, INF, 2.0])) == 2.0
    assert median(np.array([1.0, 2.0, INF, INF])) == INF
    assert median(np.array([-INF, -INF, 1.0, 2.0])) == -INF
    assert median(np.array([-INF, INF])) == 0.0
    assert quantile(np.array([1.0, 3.0, INF]), 0.25) == 2.0
    with pytest.raises(ValueError, match="NaN"):
        median(np.array([1.0, np.nan]))


@pytest.mark.parametrize("count", [1, 3, 4, 7, 8, 10, 21])
def test_the_interquartile_mean_is_scipys_trimmed_mean(count):
    values = drawn(5, count)
    np.testing.assert_allclose(interquartile_mean(values), scipy_stats.trim_mean(values, 0.25, axis=-1))


def test_the_interquartile_mean_drops_a_quarter_of_failures_and_no_more():
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, INF])) == 2.5
    assert interquartile_mean(np.array([1.0, 2.0, INF, INF])) == INF
    assert interquartile_mean(np.array([[-INF, -INF, INF, INF], [1.0, 2.0, 3.0, 4.0]])).tolist() == [0.0, 2.5]


def test_an_interval_of_one_problem_is_scipys_percentile_bootstrap():
    values = drawn(30)
    found = interval([values], lambda x: x.mean(-1), resamples=20000)
    theirs = scipy_stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(1))
    assert found.value == pytest.approx(values.mean())
    np.testing.assert_allclose(found[1:], theirs.confidence_interval, rtol=0.02)


def test_strata_are_drawn_again_each_by_itself():
    apart = [np.zeros(10), np.full(10, 100.0)]  # mixed up, their mean would spread by ten
    assert interval(apart, lambda x: x.mean(-1)) == (50.0, 50.0, 50.0)
    low, high = interval(apart, lambda x: x.mean(-1), over_problems=True)[1:]
    assert (low, high) == (0.0, 100.0)


def test_an_interval_over_problems_is_that_of_their_means_where_seeds_agree():
    levels = drawn(12)
    found = interval([np.full(3, level) for level in levels], lambda x: x.mean(-1), over_problems=True)
    theirs = scipy_stats.bootstrap((levels,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    np.testing.assert_allclose(found[1:], theirs, rtol=0.1)


def test_the_same_values_give_the_same_interval_and_none_give_none():
    assert interval([drawn(9)]) == interval([drawn(9)])
    with pytest.raises(ValueError, match="needs values"):
        interval([np.empty(0)])
    assert np.isnan(median_interval(np.empty(0))).all()


def test_log_ratios_are_of_the_same_seeds_and_keep_divergence():
    a, b = np.array([1.0, INF, 1.0, INF, 1e-20]), np.array([10.0, 1.0, INF, INF, 1e-15])
    assert log_ratios(a, b).tolist() == [-1.0, INF, -INF, 0.0, -5.0]
    assert log_ratios(a, b, 1e-12).tolist() == [-1.0, INF, -INF, 0.0, 0.0]
    with pytest.raises(ValueError, match="same seeds"):
        log_ratios(a, b[:-1])
    with pytest.raises(ValueError, match="not measured"):
        log_ratios(a, np.full(5, np.nan))


def test_pairing_finds_a_difference_that_seeds_hide():
    level = 10.0 ** drawn(10)  # seeds differ by decades, the methods by a fifth
    assert compare([log_ratios(0.8 * level, level)]).verdict == "better"
    assert compare([log_ratios(level, 0.8 * level)]).verdict == "worse"
    assert compare([log_ratios(level, 1.01 * level)]).verdict == "equal"
    assert compare([log_ratios(level, level[::-1].copy())]).verdict == "inconclusive"


def test_a_comparison_counts_seeds_and_gives_a_ratio():
    found = compare([np.log10(np.array([0.5, 0.5, 2.0])), np.log10(np.array([1.0]))])
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.ratio.value == pytest.approx(10 ** np.median(np.log10([0.5, 0.5, 2.0, 1.0])))
    assert compare([np.full(10, INF)]).verdict == "worse"
    assert compare([np.full(10, -INF)]).verdict == "better"
    assert compare([np.zeros(10)]).verdict == "equal"


def test_no_difference_is_called_one_about_as_seldom_as_a_95_percent_interval_promises():
    random, wrong = np.random.default_rng(5), 0
    for _ in range(300):
        wrong += compare([random.normal(scale=0.3, size=20)]).verdict in ("better", "worse")
    assert wrong / 300 < 0.12


def test_a_performance_profile_worked_by_hand():
    costs = np.array([[1.0, 2.0, INF, INF], [2.0, 1.0, 5.0, INF], [4.0, 4.0, 10.0, INF]])
    found = performance_profile(costs, np.array([1.0, 2.0, 4.0, 1e9]))
    assert found.tolist() == [[0.25, 0.5, 0.5, 0.5], [0.5, 0.75, 0.75, 0.75], [0.0, 0.25, 0.75, 0.75]]


def test_a_profile_rises_and_its_starts_count_every_solved_instance():
    costs = drawn(5, 40)
    found = performance_profile(costs, np.geomspace(1, 1e6, 30))
    assert (np.diff(found, axis=1) >= 0).all()
    assert found[:, 0].sum() == pytest.approx(1)
    assert (found[:, -1] == 1).all()
    with pytest.raises(ValueError, match="every method ran"):
        performance_profile(np.array([[1.0, np.nan]]), np.ones(1))


def test_instances_that_start_solved_are_won_by_all_that_need_nothing():
    assert performance_profile(np.array([[0.0], [0.0], [3.0]]), np.array([1.0, 1e3])).tolist() == [[1, 1], [1, 1], [0, 0]]


def test_superiority_is_mann_and_whitneys_u():
    a, b = drawn(9), np.append(drawn(7, seed=1), drawn(9)[:2])
    u = scipy_stats.mannwhitneyu(b, a).statistic  # pairs in which b is larger, ties half
    assert superiority(a, b) == pytest.approx(u / (len(a) * len(b)))
    assert superiority(a, b) + superiority(b, a) == pytest.approx(1)
    assert superiority(np.array([1.0, INF]), np.array([INF, INF])) == 0.75


def test_the_probability_of_improvement_is_the_mean_over_problems():
    better, same = (drawn(10), 100 + drawn(10)), (np.ones(10), np.ones(10))
    found = probability_of_improvement([better[0], same[0]], [better[1], same[1]])
    assert found == (0.75, 0.75, 0.75)
    value, low, high = probability_of_improvement([drawn(20)], [drawn(20, seed=3)])
    assert low < value < high
    with pytest.raises(ValueError, match="same seeds"):
        probability_of_improvement([drawn(3)], [drawn(4)])


def test_the_best_of_a_few_trials_is_that_of_all_ways_to_draw_them():
    values = [0.3, 0.1, 0.7, 0.2, 0.2, INF]
    for trials in range(1, 7):
        lowest = [min(chosen) for chosen in itertools.combinations(values, trials)]
        assert expected_best(values, trials) == pytest.approx(np.mean(lowest)) or np.isinf(np.mean(lowest))
        assert best_of(values, trials) == np.quantile(lowest, 0.5, method="inverted_cdf")
    assert expected_best(values, 1) == INF
    assert np.isfinite(expected_best(values, 2))
    for bad in (0, 7):
        with pytest.raises(ValueError, match="trials"):
            expected_best(values, bad)


def test_the_window_is_the_decades_of_rates_that_leave_ten_times_the_best_at_most():
    left = {1e-3: 0.9, 1e-2: 0.009, 1e-1: 0.001, 1.0: 0.0101, 10.0: INF}
    assert window_decades(left, 1e-1) == pytest.approx(1)
    assert window_decades({1.0: INF, 2.0: INF}, 1.0) == 0
    assert window_decades({1.0: 1.0, 2.0: 1.0}, 1.0) == 0, "rates that gain nothing are no window, however many"
    assert window_decades({0.1: 1e-16, 1.0: 1e-32, 10.0: 1e-3}, 1.0) == pytest.approx(1), "what float32 cannot tell apart is equal"
    assert within(0.001) == 0.01
    assert within(0.9) == pytest.approx(0.95)


def test_equal_is_a_twentieth():
    assert compare([np.full(5, np.log10(EQUAL * 0.999))]).verdict == "equal"
    assert compare([np.full(5, np.log10(EQUAL * 1.001))]).verdict == "worse"
