"""Lanes of a model one after the other and together over one frozen base: lanes a second, and memory.

python -m bench.perf.stacked [--device cuda] [--quick]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.memory import PeakMemory
from bench.stacked import Stack
from optimizers import AdamW
from parameterizations import LoRA
from problems import CausalLM, FewShotText, ImageClassification, Task

RATES = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3)
TASKS = {
    "few_shot_text, batch 16": FewShotText(head="frozen"),
    "few_shot_text, batch 4": FewShotText(head="frozen", batch_size=4),
    "causal_lm, batch 2": CausalLM(batch_size=2),
    "image_classification, batch 8": ImageClassification(batch_size=8),
    "image_classification, batch 32": ImageClassification(),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.stacked", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="one repetition of two tasks")
    options = parser.parse_args()
    settings = Settings(1000, device=options.device)
    print(f"{'task':<32}{'lanes':>6}{'single, ms':>12}{'stacked, ms':>13}{'ratio':>8}{'single, MB':>12}{'stacked, MB':>13}")
    for name, problem in list(TASKS.items())[:: 2 if options.quick else 1]:
        task = problem.task(0)
        for lanes in (2, 4, 8):
            row(name, task, RATES[:lanes], settings, 1 if options.quick else 5)


def row(name: str, task: Task, rates: tuple[float, ...], settings: Settings, repeats: int) -> None:
    """Print one line: medians of the time of a step of all lanes, both ways in turn, and bytes at the height of one."""
    singles = [Lane(task, LoRA(rank=8), AdamW(), 0, rate, settings) for rate in rates]
    stack = Stack([(task, 0, rate) for rate in rates], LoRA(rank=8), AdamW(), settings)

    def one_by_one() -> None:
        for lane in singles:
            lane.advance()

    times: dict[Callable[[], object], list[float]] = {one_by_one: [], stack.advance: []}
    memory = []
    for run in (singles[0], stack):
        with PeakMemory(run.model.parameters()) as peak:
            run.advance()
        memory.append(peak.peak / 1e6)
    for _ in range(repeats):
        for step, found in times.items():
            started = now(settings.device)
            step()
            found.append(now(settings.device) - started)
    single, stacked = (statistics.median(found) * 1e3 for found in times.values())
    line = f"{name:<32}{len(rates):>6}{single:>12.1f}{stacked:>13.1f}{single / stacked:>8.2f}{memory[0]:>12.1f}{memory[1]:>13.1f}"
    print(line, flush=True)


def now(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
