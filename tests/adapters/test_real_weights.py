"""Pretrained weights and real text: adapters learn there, and what they learned goes through peft's files."""

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("transformers")
import real
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import train, trainable

import adapters
from optimizers import GeoLoRA, torch_optimizer

RANK, STEPS, LR = 8, 8, 2e-3
ROUNDING = 5e-5  # of float32, of the largest output: what Flora merges is rounded as the base is
METHODS = {
    "lora": ("lora", {}, None),
    "op_lora": ("op_lora", {}, None),
    "deep_lora": ("deep_lora", {}, None),
    "flora": ("flora", {"interval": 2, "momentum": "reset"}, None),
    "svd, geolora": ("svd", {"start": RANK // 2}, GeoLoRA(coefficient_steps=3, core_rule="adam")),
}
MODELS = {
    "minilm": (real.minilm, real.classified, {"target_modules": ["query", "key", "value"], "task_type": "SEQ_CLS"}),
    "smollm2": (real.smollm2, real.written, {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "task_type": "CAUSAL_LM"}),
}


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_learns_real_text_and_loads_in_peft(name, method, tmp_path):
    build, read, config = MODELS[name]
    parameterization, options, rule = METHODS[method]
    batch = read()
    model = get_peft_model(build(), LoraConfig(r=RANK, lora_alpha=2 * RANK, **config))
    before = logits(model, batch)
    adapters.attach(model, parameterization, batch=batch, steps=STEPS, **options)
    loss = lambda model: model(**batch).loss  # noqa: E731
    optimizer = torch.optim.AdamW(trainable(model), lr=LR) if rule is None else torch_optimizer(rule, model, lr=LR)
    losses = train(model, optimizer, loss, STEPS)
    after = logits(model, batch)
    assert losses[-1] < losses[0]
    adapters.export(model, tmp_path)
    fresh = PeftModel.from_pretrained(build(seed=1), tmp_path)  # another head, where there is one: the file's takes its place
    largest = after.abs().max()
    assert (after - before).abs().max() > 100 * ROUNDING * largest  # else nothing was learned that a file could lose
    torch.testing.assert_close(logits(fresh, batch), after, rtol=0, atol=ROUNDING * float(largest))
