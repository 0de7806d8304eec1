"""Crosses the three axes: configuration, lanes, probes, store, statistics, plots and the command line."""

from bench.runs import Run, run

__all__ = ["Run", "run"]
