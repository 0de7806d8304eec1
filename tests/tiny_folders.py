"""Tiny random language models in folders, with tokenizers of whole words, as `from_pretrained` reads them."""

from collections.abc import Sequence
from pathlib import Path

import torch


def tokenizer_of(words: Sequence[str], ends: bool = False):
    """
    Args:
        ends: whether a text ends with a sign of its own, as BART's and T5's do.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = {word: i for i, word in enumerate(["<pad>", "<unk>", "<end>", *dict.fromkeys(words)])}
    inner = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        inner.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", known["<end>"])])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")


def saved(folder: Path, model, words: Sequence[str], ends: bool = False) -> str:
    model.save_pretrained(folder)
    tokenizer_of(words, ends).save_pretrained(folder)
    return str(folder)


def encoder_folder(folder: Path, words: Sequence[str]) -> str:
    """A BERT of two layers."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
    return saved(folder / "encoder", BertModel(BertConfig(vocab_size=40, initializer_range=0.3, **sizes)), words)


def causal_folder(folder: Path, words: Sequence[str]) -> str:
    """A Llama of three layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=40, num_key_value_heads=2, initializer_range=0.3, **sizes)
    return saved(folder / "causal", LlamaForCausalLM(config), words)
