"""Attach, train, bake, export, and load in the libraries that users have."""

import json

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("diffusers")
from peft import PeftModel
from tiny import CASES, MODELS, output, train, trainable, wrapped

import adapters

FAST = [(model, case) for model in ("llama", "unet") for case in CASES]
REST = [(model, case) for model in MODELS if model not in ("llama", "unet") for case in CASES]
ROUNDING = 2e-5  # of float32, in outputs of order one


def trained(model_name, case, steps=20, seed=0, **options):
    name, settings = CASES[case]
    build, _, loss = MODELS[model_name]
    model = wrapped(model_name, **options)
    adapters.attach(model, name, loss=loss, steps=steps, seed=seed, **settings)
    losses = train(model, torch.optim.AdamW(trainable(model), lr=1e-2, weight_decay=0.0), loss, steps)
    return model, losses, build, loss


def check_round_trip(model_name, case, folder):
    model, losses, build, loss = trained(model_name, case)
    assert losses[-1] < losses[0]
    told = output(model, loss)
    assert not torch.allclose(told, output(build(), loss), atol=1e-3)  # else nothing was learned that a file could lose
    adapters.export(model, folder / "exported")
    torch.testing.assert_close(output(PeftModel.from_pretrained(build(), folder / "exported"), loss), told, rtol=0, atol=ROUNDING)
    adapters.bake(model)
    torch.testing.assert_close(output(model, loss), told, rtol=0, atol=ROUNDING)
    model.save_pretrained(folder / "baked")
    torch.testing.assert_close(output(PeftModel.from_pretrained(build(), folder / "baked"), loss), told, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(output(model.merge_and_unload(), loss), told, rtol=0, atol=ROUNDING)
    config = json.loads((folder / "exported" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    assert config["alpha_pattern"] == config["rank_pattern"]


@pytest.mark.parametrize(("model", "case"), FAST, ids=[f"{model}-{case}" for model, case in FAST])
def test_what_was_learned_goes_through_peft(model, case, tmp_path):
    check_round_trip(model, case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "case"), REST, ids=[f"{model}-{case}" for model, case in REST])
def test_what_was_learned_goes_through_peft_in_every_class_of_model(model, case, tmp_path):
    check_round_trip(model, case, tmp_path)
