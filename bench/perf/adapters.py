"""A training step of adapters in a transformer, and what they keep, beside plain LoRA: peft's pairs and torch's AdamW.

python -m bench.perf.adapters            every method, about 3 minutes
python -m bench.perf.adapters --quick    a smaller model, about 30 seconds
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from adapters import attach, trainable_parameters
from adapters._install import attached
from adapters._report import state_bytes
from bench.perf import limits, table
from bench.perf.work import clock
from bench.store import replacing
from optimizers import AdamW, GeoLoRA, Optimizer, torch_optimizer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
RANK, LR, VOCABULARY = 8, 1e-3, 512
PLAIN, INVALID = "lora, peft", 2
PRUNING_STEPS = 1000  # of AdaLoRA's schedule: it prunes at every step that is timed
LEAST_WARM = 2  # steps before any is timed; a whole period where the work of one differs
CAPTION = """ms: of a step, forward, backward and update; where steps differ, the mean over a period of them. of plain: over plain
LoRA's on the same steps, the median and the quartiles; ! above what is asked for. keeps: tensors that stay beside what trains,
the moments and the gradients: frozen factors, averages, a copy of the base. attach: seconds before the first step."""


@dataclass(frozen=True)
class Size:
    """A decoder of random weights, and a batch for it.

    Args:
        hidden: width; the feed-forward layers have 8/3 of it.
        rows, length: of the batch of tokens.
        rounds: steps of each contestant that are timed.
    """

    hidden: int = 768
    layers: int = 4
    rows: int = 4
    length: int = 128
    rounds: int = 24


FULL, QUICK = Size(), Size(hidden=512, layers=2, rows=2, rounds=22)


@dataclass(frozen=True)
class Contestant:
    """A way of adapting the model.

    Args:
        parameterization: of the catalogue, with `options`; None for what peft has by itself.
        rank: of the LoraConfig.
        rule: of the suite; None for torch's AdamW.
        period: after how many steps the work repeats: a resample, an augmentation.
        at_most: of plain LoRA's time; a name for that contestant's time.
    """

    parameterization: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    rank: int = RANK
    rule: Optimizer | None = None
    period: int = 1
    at_most: float | str | None = None


GEOLORA = GeoLoRA(core_rule="adam")
CONTESTANTS = {
    PLAIN: Contestant(None),
    "lora": Contestant("lora"),
    "op_lora": Contestant("op_lora", {"hidden": 32}, at_most=1.15),
    "op_lora, fused": Contestant("op_lora", {"hidden": 32}, rule=AdamW(), at_most=1.15),
    "deep_lora": Contestant("deep_lora", at_most=1.1),
    "flora": Contestant("flora", {"interval": 10}, period=10, at_most=1.1),
    "svd, geolora": Contestant(  # room for twice the rank, which an augmentation takes
        "svd", {"start": RANK}, 2 * RANK, GEOLORA, period=GEOLORA.coefficient_steps + 1, at_most="adalora"
    ),
    "adalora": Contestant("adalora", {"warmup": 0.0}),
    "adalora, peft": Contestant(None, {"init_r": (3 * RANK + 1) // 2, "target_r": RANK}),
}


class Run:
    """A contestant's model and optimizer.

    Attributes:
        attach_seconds: what putting the parameterization in took, its first gradient and decompositions with it.
        losses: before each step.
        seconds: of each step that was timed.
    """

    def __init__(self, contestant: Contestant, size: Size, device: str) -> None:
        from peft import AdaLoraConfig, LoraConfig, get_peft_model

        self.contestant, self.device = contestant, device
        self.batch = batch(size, device)
        pairs: dict[str, Any] = {"lora_alpha": contestant.rank, "target_modules": TARGETS}
        config: LoraConfig
        if contestant.parameterization is None and contestant.options:
            schedule: dict[str, Any] = {"total_step": PRUNING_STEPS, "tinit": 0, "tfinal": PRUNING_STEPS // 2}
            config = AdaLoraConfig(**contestant.options, **schedule, **pairs)
        else:
            config = LoraConfig(r=contestant.rank, **pairs)
        self.model: Any = get_peft_model(llama(size).to(device), config)
        started = perf_counter()
        if contestant.parameterization is not None:
            attach(self.model, contestant.parameterization, batch=self.batch, steps=PRUNING_STEPS, **contestant.options)
        self.attach_seconds = perf_counter() - started
        self.optimizer: torch.optim.Optimizer
        if contestant.rule is None:
            self.optimizer = torch.optim.AdamW([tensor for tensor in self.model.parameters() if tensor.requires_grad], lr=LR)
        else:
            self.optimizer = torch_optimizer(contestant.rule, self.model, lr=LR)
        self.model.train()
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, timed: bool = True) -> None:
        """One step of training."""
        started = clock(self.device)
        self.optimizer.zero_grad()
        loss = self.model(**self.batch).loss
        loss.backward()
        self.optimizer.step()
        if hasattr(self.model.base_model, "update_and_allocate"):
            self.model.base_model.update_and_allocate(len(self.losses) + 1)
        taken = clock(self.device) - started
        self.losses.append(loss.item())
        if timed:
            self.seconds.append(taken)

    def memory(self) -> dict[str, int]:
        """Numbers that train, and bytes of the optimizer's moments, of the gradients and of what else is kept."""
        parameters = [tensor for tensor in self.model.parameters() if tensor.requires_grad]
        return {
            "trains": trainable_parameters(self.model),
            "state_bytes": state_bytes(self.optimizer, parameters),
            "gradient_bytes": size_of(tensor.grad for tensor in parameters if tensor.grad is not None),
            "kept_bytes": size_of(self.kept()),
        }

    def kept(self) -> Iterable[Tensor]:
        """Tensors that stay from step to step beside the pretrained weights, what trains, its gradients and moments."""
        if self.contestant.parameterization is None:
            allocator = getattr(self.model.base_model, "rankallocator", None)  # of peft's AdaLoRA
            for averages in vars(allocator).values() if allocator else ():
                yield from averages.values() if isinstance(averages, dict) else ()
            return
        for pair in attached(self.model):
            yield from (*pair.buffers(), *pair.at.memory.values(), *([] if pair.original is None else [pair.original]))


def llama(size: Size) -> nn.Module:
    """A decoder whose feed-forward and attention layers take nearly all of its time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    widths: dict[str, Any] = {
        "hidden_size": size.hidden,
        "intermediate_size": 8 * size.hidden // 3,
        "num_attention_heads": size.hidden // 64,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=size.layers, use_cache=False, **widths))


def batch(size: Size, device: str) -> dict[str, Tensor]:
    """Random tokens (rows, length), to be learned by heart."""
    tokens = torch.randint(VOCABULARY, (size.rows, size.length), generator=torch.Generator().manual_seed(1)).to(device)
    return {"input_ids": tokens, "labels": tokens}


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def over_periods(seconds: Iterable[float], period: int) -> np.ndarray:
    """(steps - period + 1,) the mean over every `period` steps that follow each other: each holds every kind of step once."""
    return np.convolve(np.fromiter(seconds, float), np.full(period, 1 / period), "valid")


def race(
    contestants: Mapping[str, Contestant], size: Size, device: str, said: Callable[[str], None] = lambda line: None
) -> dict[str, Run]:
    """A step of each in turn, every round from another one on, after all have warmed up."""
    runs = {}
    for name, contestant in contestants.items():
        runs[name] = Run(contestant, size, device)
        for _ in range(max(LEAST_WARM, contestant.period)):
            runs[name].step(timed=False)
        said(f"{name}: ready")
    names = list(runs)
    for done in range(size.rounds):
        for name in names[done % len(names) :] + names[: done % len(names)]:
            runs[name].step()
    return runs


def rows(runs: Mapping[str, Run], size: Size, device: str) -> pd.DataFrame:
    """A line for each contestant: see `CAPTION`; numbers and bytes as `Run.memory` has them."""
    lines = []
    for name, run in runs.items():
        period = run.contestant.period
        own, plain = (over_periods(runs[each].seconds, period) for each in (name, PLAIN))
        low, ratio, high = np.quantile(own / plain, (0.25, 0.5, 0.75))
        lines.append(
            {"method": name, "optimizer": optimizer_name(run), "rank": run.contestant.rank}
            | {"ms": 1e3 * float(np.median(own)), "ratio": ratio, "ratio_low": low, "ratio_high": high, "period": period}
            | run.memory()
            | {"attach_seconds": run.attach_seconds, "first_loss": run.losses[0], "last_loss": run.losses[-1]}
            | asdict(size)
            | {"device": device}
        )
    return pd.DataFrame(lines)


def optimizer_name(run: Run) -> str:
    """`torch.optim.AdamW`, or the class of a rule of the suite."""
    rule = run.contestant.rule
    return f"torch.optim.{type(run.optimizer).__name__}" if rule is None else type(rule).__name__


def asked(found: pd.DataFrame, name: str) -> float | None:
    """The ratio that a contestant may have at most, None where nothing is asked."""
    at_most = CONTESTANTS[name].at_most
    if isinstance(at_most, str):
        ratios = found.set_index("method")["ratio"]
        return float(ratios[at_most]) if at_most in ratios else None
    return at_most


def show(found: pd.DataFrame, size: Size, console: Console | None = None) -> None:
    """The table for reading."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 150)
    model = f"{size.layers} layers of width {size.hidden}, {size.rows} x {size.length} tokens, rank {RANK} on q, k, v, o"
    printed = Table(
        title=f"A training step: {model}",
        caption=CAPTION,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    printed.add_column("method", no_wrap=True)
    for column in ("ms", "of plain", "quartiles", "asked", "trains", "moments MB", "gradients MB", "keeps MB", "attach s", "loss"):
        printed.add_column(column, justify="right", no_wrap=True)
    for line in found.to_dict("records"):
        most = asked(found, line["method"])
        printed.add_row(
            f"{line['method']}, {line['optimizer']}",
            table.number(line["ms"]),
            f"{line['ratio']:.3f}" + "!" * (most is not None and line["ratio"] > most),
            f"{line['ratio_low']:.3f}-{line['ratio_high']:.3f}",
            "" if most is None else f"{most:.3f}",
            f"{line['trains']:,}".replace(",", " "),
            *(table.number(line[key] / 1e6) for key in ("state_bytes", "gradient_bytes", "kept_bytes")),
            table.number(line["attach_seconds"]),
            f"{line['first_loss']:.3f}-{line['last_loss']:.3f}",
        )
    console.print(printed)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m bench.perf.adapters", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--quick", action="store_true", help="a smaller model, about 30 seconds")
    made.add_argument("--device", default="cpu", help="cpu, or cuda")
    made.add_argument("--methods", nargs="+", choices=[name for name in CONTESTANTS if name != PLAIN], help="these alone")
    made.add_argument("--output", type=Path, default=Path("results/perf/adapters"), help="folder for table.csv and machine.json")
    return made


def main(arguments: list[str] | None = None) -> int:
    """0 where all was measured, 2 where nothing could be begun."""
    options = parser().parse_args(arguments)
    try:
        torch.empty(1, device=options.device)
        import peft
        import transformers
    except (RuntimeError, AssertionError, ImportError) as error:
        print(f"{str(error).splitlines()[0]} (device={options.device}; pip install -e '.[adapters]')", file=sys.stderr)
        return INVALID
    torch.set_num_threads(1)
    size = QUICK if options.quick else FULL
    chosen = {name: each for name, each in CONTESTANTS.items() if name == PLAIN or name in (options.methods or CONTESTANTS)}
    options.output.mkdir(parents=True, exist_ok=True)
    machine = table.machine(options.device, limits.measure(options.device))
    table.keep_machine(options.output, machine | {package.__name__: package.__version__ for package in (peft, transformers)})
    found = rows(race(chosen, size, options.device, lambda line: print(line, file=sys.stderr, flush=True)), size, options.device)
    with replacing(options.output / "table.csv") as partial:
        found.to_csv(partial, index=False, float_format="%.5g")
    show(found, size)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
