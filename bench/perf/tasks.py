"""What a step of each method costs in the tasks of real models: time, in turn with LoRA's, and memory.

python -m bench.perf.tasks [--device cuda] [--quick]
"""

import argparse
import statistics
from collections.abc import Mapping

from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.perf.stacked import now
from optimizers import Adafactor, Adam, Flora, GaLore, GeoLoRA, Optimizer
from parameterizations import SVD, AdaLoRA, DeepLoRA, Full, LoRA, OPLoRA, Parameterization
from parameterizations import Flora as FloraAdapter
from problems import CausalLM, FewShotText, FineTuning, ImageClassification, ImageStyle, Summarization

TASKS: dict[str, FineTuning] = {
    "few_shot_text": FewShotText(head="frozen"),
    "causal_lm": CausalLM(),
    "image_style": ImageStyle(),
    "image_classification": ImageClassification(),
    "summarization": Summarization(),
}
METHODS: dict[str, tuple[Parameterization, Optimizer]] = {
    "lora + adam": (LoRA(rank=8), Adam()),
    "op_lora + adam": (OPLoRA(rank=8), Adam()),
    "deep_lora + adam": (DeepLoRA(rank=8), Adam()),
    "adalora + adam": (AdaLoRA(rank=8), Adam()),
    "svd + geolora": (SVD(rank=16, start=8), GeoLoRA(core_rule="adam")),
    "flora + adam": (FloraAdapter(rank=8), Adam()),
    "full + adam": (Full(), Adam()),
    "full + adafactor": (Full(), Adafactor()),
    "full + galore": (Full(), GaLore(rank=8)),
    "full + flora": (Full(), Flora(rank=8)),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.tasks", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="three rounds of the two smallest tasks")
    options = parser.parse_args()
    settings = Settings(1000, device=options.device)
    tasks = list(TASKS.items())[3:] if options.quick else list(TASKS.items())
    print(f"{'task':<22}{'method':<18}{'ms a step':>10}{'ratio':>7}{'trained':>10}{'gradients':>11}{'state':>9}{'peak':>9}  MB")
    for name, problem in tasks:
        table(name, problem, settings, 3 if options.quick else 11)


def table(name: str, problem: FineTuning, settings: Settings, rounds: int) -> None:
    """Print a line a method: medians over rounds, each a step of every method in turn; ratios are medians of a round's own.

    GeoLoRA's steps come in periods of eleven, of which one costs more: its are means over the rounds, whole periods.
    """
    task = problem.draw(0, device=settings.device)
    lanes = {each: Lane(task, *method, 0, 1e-4, settings) for each, method in METHODS.items()}
    peaks = {}
    for each, lane in lanes.items():
        lane.advance()
        peaks[each] = lane.peak()
    times = in_turn(lanes, rounds, settings.device)
    first = next(iter(times.values()))
    for each, found in times.items():
        if each.endswith("geolora"):
            typical, ratio = statistics.mean(found), statistics.mean(found) / statistics.mean(first)
        else:
            typical, ratio = statistics.median(found), statistics.median(a / b for a, b in zip(found, first, strict=True))
        cost = lanes[each].cost()
        sizes = "".join(f"{number / 1e6:>{width}.2f}" for number, width in ((cost["gradient_bytes"], 11), (cost["state_bytes"], 9)))
        print(
            f"{name:<22}{each:<18}{typical * 1e3:>10.1f}{ratio:>7.2f}{cost['parameters']:>10}{sizes}{peaks[each] / 1e6:>9.1f}",
            flush=True,
        )


def in_turn(lanes: Mapping[str, Lane], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each lane's step, round by round."""
    times: dict[str, list[float]] = {each: [] for each in lanes}
    for _ in range(rounds):
        for each, lane in lanes.items():
            started = now(device)
            lane.advance()
            times[each].append(now(device) - started)
    return times


if __name__ == "__main__":
    main()
