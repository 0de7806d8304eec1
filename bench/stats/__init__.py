"""What is said of numbers from several seeds, rates and problems. Divergence is a result: infinities enter everything here."""

from bench.stats.intervals import Interval, interquartile_mean, interval, median, median_interval, quantile
from bench.stats.paired import EQUAL, Comparison, compare, log_ratios
from bench.stats.profiles import performance_profile, probability_of_improvement, superiority
from bench.stats.quantiles import quantiles
from bench.stats.rates import SOLVED, best_of, expected_best, in_window, window_decades, within

__all__ = [
    "EQUAL",
    "SOLVED",
    "Comparison",
    "Interval",
    "best_of",
    "compare",
    "expected_best",
    "in_window",
    "interquartile_mean",
    "interval",
    "log_ratios",
    "median",
    "median_interval",
    "performance_profile",
    "probability_of_improvement",
    "quantile",
    "quantiles",
    "superiority",
    "window_decades",
    "within",
]
