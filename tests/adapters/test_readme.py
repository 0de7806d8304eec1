"""The README's examples for real models run as they stand, where a folder of the model's name holds a small one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text().partition("## In real models")[2], re.DOTALL)[:2]

pytest.importorskip("peft")
pytest.importorskip("accelerate")


def small_model(folder):
    """A Llama with random weights, and a tokenizer of words, as `from_pretrained` finds them."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = sorted(set(re.findall(r"\w+|[^\w\s]+", (ROOT / "README.md").read_text())))
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **sizes, max_position_embeddings=4096)).save_pretrained(folder)


def test_the_example_is_short():
    assert len(EXAMPLES[0].strip().splitlines()) <= 15


def test_the_examples_run(tmp_path):
    name = re.search(r'name = "(.*?)"', EXAMPLES[0])[1]
    small_model(tmp_path / name)
    (tmp_path / "README.md").write_text("\n\n".join((ROOT / "README.md").read_text().split("\n\n")[:12]))
    (tmp_path / "example.py").write_text("\n".join(EXAMPLES))
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert "total" in found.stdout
    assert "state_bytes" in found.stdout
    assert (tmp_path / "my-lora" / "adapter_model.safetensors").is_file()
