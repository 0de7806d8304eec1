"""What a tuned method reaches on a problem."""

from bench.runs import run
from optimizers import Adam
from parameterizations import LoRA


def reached(problem, rank, rates=(0.003, 0.01, 0.03), seeds=6, steps=500, **options):
    """The relative error of every seed, by LoRA and Adam at the rate with the best median score."""
    lanes = run(problem, LoRA(rank), Adam(), lr=rates, seeds=seeds, steps=steps, probes="none", **options).lanes
    chosen = lanes.groupby("lr").score.median().idxmin()
    return lanes[lanes.lr == chosen].headline
