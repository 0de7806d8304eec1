"""A fine-tuning problem that needs nothing but transformers: a tiny random BERT that is to tell which token comes more often."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from linalg.random import generator
from problems import FineTuning, Task
from problems._task import by_lane, in_order


@dataclass(frozen=True)
class TinyText(FineTuning):
    examples: int = 12
    batch_size: int = 5
    evaluations: int = 2
    head: bool = True

    def task(self, seed):
        return TinyTask(self, seed)


class TinyTask(Task):
    targets = ("query", "value")
    asked: ClassVar[list[str]] = []  # which measures were taken, by all

    def __init__(self, problem, seed):
        self.problem, self.seed, self.evaluations = problem, seed, problem.evaluations
        self.targets = problem.targets or self.targets
        self.head = ("classifier",) if problem.head else ()
        tokens = torch.randint(2, 40, (3 * problem.examples, 7), generator=generator(seed, "problem"))
        self.parts = {"input_ids": tokens, "labels": (tokens < 20).sum(-1).gt(3).long()}

    def model(self):
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
        with torch.random.fork_rng():
            torch.manual_seed(0 if self.problem.weights == "pretrained" else 1)
            config = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3)
            return BertForSequenceClassification(config)

    def rows(self, chosen):
        return {name: tensor[chosen] for name, tensor in self.parts.items()}

    def batch(self, step):
        return self.rows(in_order(self.problem.examples, self.problem.batch_size, step, lambda name: generator(self.seed, name)))

    def losses(self, model, batch, lanes=1):
        logits = model(batch["input_ids"]).logits
        return by_lane(nn.functional.cross_entropy(logits, batch["labels"], reduction="none"), lanes)

    def measure(self, model):
        self.asked.append("measure")
        count = self.problem.examples
        parts = {"loss": slice(0, count), "validation_loss": slice(count, 2 * count)}
        return {name: float(self.losses(model, self.rows(part))) for name, part in parts.items()}

    def test(self, model):
        self.asked.append("test")
        batch = self.rows(slice(2 * self.problem.examples, None))
        return {"test_error": float((model(batch["input_ids"]).logits.argmax(-1) != batch["labels"]).double().mean())}
