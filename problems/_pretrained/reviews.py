"""The tiny model of `summarization`: a T5 that writes down what it reads, gaps filled in.

python -m problems._pretrained.reviews     writes reviews.safetensors and reviews.txt beside this file; in a quarter of an hour

It is trained as BART is (Lewis et al. 2020, text infilling): spans of a review's tokens are hidden behind one sign each, and the
review's beginning is to be written as it was. It sees the texts that train, never one that tests, and not where a summary ends.
"""

import argparse
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linalg.random import generator
from problems._language import tidy_reviews
from problems._pretrained import with_weights, write_weights

WEIGHTS = Path(__file__).with_suffix(".safetensors")
WORDS = Path(__file__).with_suffix(".txt")  # a line each, the most frequent first
PAD, END, OTHER = "<pad>", "</s>", "<unk>"  # their numbers are 0, 1, 2; what is hidden is written as what is unknown
VOCABULARY = 2000
NET: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
READ, WRITTEN = 64, 32  # tokens of a review
HIDDEN, SPAN = 0.15, 3  # the share of the tokens, and how many at a time
IGNORED = -100  # a label that a loss leaves out


def tokenized(pieces: list[str]) -> Any:
    """A tokenizer of words in lower case and of single signs, that knows these."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {piece: i for i, piece in enumerate((PAD, END, OTHER, *pieces))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=OTHER))
    tokenizer.normalizer, tokenizer.pre_tokenizer = splitting()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, numbers[END])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=OTHER, padding_side="right")


def splitting() -> tuple[Any, Any]:
    """What makes a text lower case, and what takes it apart."""
    from tokenizers import normalizers, pre_tokenizers

    return normalizers.Lowercase(), pre_tokenizers.Whitespace()


def frequent() -> list[str]:
    """The pieces that the reviews that train have most often, of equals the first by the alphabet."""
    normalizer, pieces = splitting()
    counts: Counter[str] = Counter()
    for text in tidy_reviews("train", "summarization"):
        counts.update(piece for piece, _ in pieces.pre_tokenize_str(normalizer.normalize_str(text)))
    return sorted(counts, key=lambda piece: (-counts[piece], piece))[: VOCABULARY - 3]


@cache
def tokenizer() -> Any:
    """The tokenizer of the words that come with the weights."""
    return tokenized(WORDS.read_text(encoding="utf-8").split())


def untrained(seed: int = 0) -> nn.Module:
    """The net with random weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(T5Config(**NET))


def with_gaps(tokens: Tensor, source: torch.Generator) -> Tensor:
    """(n,) tokens, spans of which are hidden: one sign stands for each."""
    begun = torch.rand(len(tokens), generator=source) < HIDDEN / SPAN
    hidden = nn.functional.max_pool1d(nn.functional.pad(begun.float()[None], (SPAN - 1, 0)), SPAN, stride=1)[0] > 0
    first = hidden & ~nn.functional.pad(hidden[:-1], (1, 0))
    return tokens.masked_fill(first, tokenizer().unk_token_id)[~hidden | first]


def example(tokens: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """What is read of a review (n,), and what is to be written (m,): the beginning of the part that is read."""
    start = int(torch.randint(max(len(tokens) - READ, 0) + 1, (), generator=source))
    part, end = tokens[start : start + READ], torch.tensor([NET["eos_token_id"]])
    return torch.cat((with_gaps(part, source), end)), torch.cat((part, end))[:WRITTEN]


def pretrain(steps: int, batch: int = 32, lr: float = 5e-3) -> nn.Module:
    """Train on the reviews that train, with AdamW and one cycle of its rate."""
    net, source = untrained(), generator(0, "pretraining")
    reviews = [torch.tensor(tokenizer()(text).input_ids[:-1]) for text in tidy_reviews("train", "summarization")]
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    net.train()
    shown = 0.0
    for step in range(steps):
        rows = torch.randint(len(reviews), (batch,), generator=source).tolist()
        read, written = zip(*(example(reviews[row], source) for row in rows), strict=True)
        texts = nn.utils.rnn.pad_sequence([*read], batch_first=True, padding_value=NET["pad_token_id"])
        labels = nn.utils.rnn.pad_sequence([*written], batch_first=True, padding_value=IGNORED)
        loss = net(input_ids=texts, attention_mask=(texts != NET["pad_token_id"]).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        shown += loss.item() / 200
        if step % 200 == 199:
            print(f"step {step + 1}: loss {shown:.4f}", flush=True)
            shown = 0.0
    return net


def pretrained() -> nn.Module:
    """The net with the weights that come with the suite."""
    return with_weights(untrained(), WEIGHTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=8000)
    steps = parser.parse_args().steps
    WORDS.write_text("\n".join(frequent()) + "\n", encoding="utf-8")
    write_weights(pretrain(steps), WEIGHTS)
