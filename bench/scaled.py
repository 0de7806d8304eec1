"""The tasks in real models, in three sizes: a tour, a study, and what a GPU and a model hub are for."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from bench import config, tables
from bench.jobs import PAGE
from bench.overrides import one_line
from bench.runs import as_device
from bench.store import Store
from linalg import InputError

FIGURES = ["convergence", "sensitivity", "samples"]
DEEP = "bench.claims._deep_lora"
CUSTOM = "parameterization=custom"
# Deep LoRA's arms: LoRA by its usual start and from N(0, 1), the deep network narrow and compressed; of full width apart.
ARMS = f"parameterization._target_=parameterizations.LoRA,{DEEP}.WideStartLoRA,{DEEP}.Narrow,{DEEP}.Compressed"
FULL_WIDTH = [CUSTOM, f"parameterization._target_={DEEP}.Narrow", "rank=384"]
DEEP_SETTINGS = ["depth=3", "scale=1e-3", "optimizer=adam", "optimizer.eps=1e-6"]
GEOLORA = ["parameterization=svd", "optimizer=geolora", "optimizer.core_rule=adam"]
FIVE_RATES = ["lr.count=5", "lr.extend=2"]
TOUR = ["lr.count=2", "lr.extend=0", "seeds.tune=[0]", "seeds.report=[100,101]"]
BERT_BASE, SD, VIT, T5 = "bert-base-cased", "stable-diffusion-v1-5/stable-diffusion-v1-5", "google/vit-base-patch16-224", "t5-small"

# A sweep each: the task's name, and its overrides. What is listed first runs first.
SIZES: dict[str, list[tuple[str, list[str]]]] = {
    "tour": [
        (
            "few_shot_text",
            ["problem.examples=64", "problem.test=200", "problem.evaluations=3", "steps=40", "lr.values=[3e-4,3e-3]"],
        ),
        ("image_classification", ["steps=60", "lr.values=[1e-3,1e-2]"]),
        ("causal_lm", ["problem.test=16", "problem.validation=8", "problem.evaluations=2", "steps=10", "lr.values=[3e-4,3e-3]"]),
        ("image_style", ["problem.samples=64", "problem.evaluations=2", "steps=60", "schedule=cosine", "lr.values=[1e-3,1e-2]"]),
        ("summarization", ["steps=40", "lr.values=[1e-3,1e-2]"]),
    ],
    "small": [
        (task, [f"experiment=scaled_{name}"])
        for task, names in {
            "few_shot_text": ("text_arms", "text_full_width", "text_methods", "text_geolora", "text_ranks", "pretraining_text"),
            "image_classification": ("digits", "digits_geolora", "pretraining_digits"),
            "image_style": ("icons", "pretraining_icons"),
            "causal_lm": ("language", "pretraining_language"),
            "summarization": ("summaries", "summaries_flora", "summaries_whole", "pretraining_summaries"),
        }.items()
        for name in names
    ],
    "full": [
        (
            "few_shot_text",
            [
                CUSTOM,
                ARMS,
                *DEEP_SETTINGS,
                f"problem.model={BERT_BASE}",
                "problem.data=stsb,rte,mrpc",
                "problem.test=277",  # all that rte has
                "problem.examples=16,64,256,1024",
                "problem.head=frozen",
                "problem.length=128",
                "steps=500",
                "rank=8,64",
            ],
        ),
        (
            "few_shot_text",
            [
                *GEOLORA,
                f"problem.model={BERT_BASE}",
                "problem.data=rte,mrpc,cola",
                "problem.test=277",
                "problem.examples=1024",
                "steps=1000",
            ],
        ),
        ("causal_lm", ["parameterization=lora,op_lora,flora", "optimizer=adamw", "problem.length=256", "steps=500"]),
        ("image_style", [f"problem.model={SD}", "parameterization=lora,op_lora", "rank=2,4", "optimizer=adamw", "steps=1000"]),
        ("image_classification", [f"problem.model={VIT}", "problem.data=cifar10", "parameterization=lora,adalora", "steps=1000"]),
        ("image_classification", [*GEOLORA, f"problem.model={VIT}", "problem.data=cifar10", "steps=1000"]),
        (
            "summarization",
            [
                f"problem.model={T5}",
                "problem.data=xsum",
                "problem.prefix='summarize: '",
                "parameterization=full",
                "optimizer=adafactor,galore,flora",
                "steps=2000",
            ],
        ),
    ],
}
COMMON = {
    "tour": ["parameterization=lora,op_lora", "optimizer=adam", *TOUR],
    "small": [],  # each experiment says it all
    "full": [*FIVE_RATES, "seeds.tune=3", "seeds.report=10"],
}


def main(arguments: list[str], sweep: Callable[[list[str]], int]) -> int:
    """Fine-tune real models by the methods of the suite: texts, language, icons, digits, summaries."""
    parser = argparse.ArgumentParser(prog="python -m bench scaled", description=main.__doc__)
    parser.add_argument("--size", default="tour", help=f"{', '.join(SIZES)} (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--task", default=None, help="only the sweeps of this problem")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    options, overrides = parser.parse_known_args(arguments)
    if options.size not in SIZES:
        raise InputError(f"size={options.size}: must be one of {', '.join(SIZES)}")
    chosen = [entry for entry in SIZES[options.size] if options.task in (None, entry[0])]
    if not chosen:
        raise InputError(f"task={options.task}: must be one of {', '.join(dict.fromkeys(name for name, _ in SIZES[options.size]))}")
    device = next((each.partition("=")[2] for each in reversed(overrides) if each.startswith("device=")), options.device)
    commands = [composed(options.size, *entry, device, overrides) for entry in chosen]
    if options.list:
        print("\n".join(f"python -m bench {' '.join(command)}" for command in commands))
        return 0
    as_device(device)
    return run(options.size, commands, sweep)


def composed(size: str, task: str, own: list[str], device: str, overrides: list[str]) -> list[str]:
    """The overrides of one sweep; what comes later wins, key by key."""
    merged: dict[str, str] = {}
    named = [] if any(each.startswith("experiment=") for each in own) else [f"problem={task}"]
    processes = ["hydra.launcher.n_jobs=1"] if device != "cpu" else []  # they would share one card
    for override in [*named, *COMMON[size], *own, f"device={device}", "hydra/launcher=joblib", *processes, *overrides]:
        key = override.partition("=")[0]
        if key == "parameterization":  # another one has other options
            merged = {each: value for each, value in merged.items() if not each.startswith("parameterization.")}
        merged[key] = override
    return list(merged.values())


def run(size: str, commands: list[list[str]], sweep: Callable[[list[str]], int]) -> int:
    """Run the sweeps one after the other, then draw and report them as one; what failed does not stop the others.

    Returns:
        The highest of their exit codes.
    """
    started, worst, keys = time.time(), 0, []
    store = Store(Path(next((each.partition("=")[2] for each in commands[0] if each.startswith("results=")), "results")))
    for number, command in enumerate(commands, start=1):
        print(f"{size} {number} of {len(commands)}: {' '.join(command)}", file=sys.stderr, flush=True)
        before = store.sweeps()
        try:
            worst = max(worst, sweep([*command, "figures=[]"]))
        except (InputError, HydraException) as error:  # a package or a hub that is missing is this sweep's affair
            print(f"error: {error if isinstance(error, InputError) else one_line(error, command)}", file=sys.stderr)
            worst = max(worst, 2)
            continue
        keys += kept_of(store, config.signature([*command, "figures=[]"]), before)
        taken = (time.time() - started) / 60
        print(f"{size} {number} of {len(commands)} done, {taken:.1f} min so far", file=sys.stderr, flush=True)
    keys = list(dict.fromkeys(keys))
    if keys:
        name = f"scaled-{size}"
        store.write_sweep(name, keys, [*FIGURES, PAGE], "")
        tables.print_winners(store, keys)
        from bench import plots
        from bench import report as page

        print("\n".join(map(str, plots.draw(store, name, keys, FIGURES))))
        print(f"to open in a browser: {page.write(store, keys, page.folder_of(store, name), name)}")
    return worst


def kept_of(store: Store, signature: str, before: Mapping[str, Any]) -> list[str]:
    """The finished cells of a sweep: one that was there already is known by its signature, one that was not whole by being new."""
    after = store.sweeps()
    records = [record for record in after.values() if record["signature"] == signature]
    records = records or [record for name, record in after.items() if before.get(name) != record]
    return [key for record in records for key in record["keys"] if store.done(key)]
