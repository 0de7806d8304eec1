"""Attach, train, bake, export, and load in the libraries that users have."""

import json

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("diffusers")
from peft import LoraConfig, PeftModel
from tiny import CASES, MODELS, output, train, trainable, wrapped

import adapters
from adapters._install import attached
from optimizers import GeoLoRA, torch_optimizer

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
    assert min(losses[1:]) < losses[0]
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


PREFIXES = {"conditional_unet": "unet", "transformer": "transformer"}


def check_diffusers(model_name, case, folder):
    name, settings = CASES[case]
    build, target, loss = MODELS[model_name]
    model = build()
    model.add_adapter(
        LoraConfig(r=4, lora_alpha=8, target_modules=[*target, "conv1"] if model_name == "conditional_unet" else target)
    )
    adapters.attach(model, name, loss=loss, steps=8, **settings)
    train(model, torch.optim.AdamW(trainable(model), lr=1e-2, weight_decay=0.0), loss, 8)
    told = output(model, loss)
    file = adapters.export(model, folder, "diffusers")
    again = build()
    again.load_lora_adapter(folder, prefix=PREFIXES[model_name], weight_name=file.name)
    torch.testing.assert_close(output(again, loss), told, rtol=0, atol=ROUNDING)
    adapters.bake(model)
    torch.testing.assert_close(output(model, loss), told, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("model", "case"), [(model, case) for model in PREFIXES for case in ("op_lora", "flora", "adalora")])
def test_what_was_learned_goes_through_diffusers(model, case, tmp_path):
    check_diffusers(model, case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "case"), [(model, case) for model in PREFIXES for case in CASES])
def test_what_was_learned_goes_through_diffusers_by_every_method(model, case, tmp_path):
    check_diffusers(model, case, tmp_path)


@pytest.mark.parametrize("model_name", ["vit", "unet"])
def test_ranks_that_fell_go_through_both(model_name, tmp_path):
    """GeoLoRA cuts each layer's rank; the patterns of the LoraConfig say so."""
    build, _, loss = MODELS[model_name]
    model = adapters.attach(wrapped(model_name), "svd")
    train(model, torch_optimizer(GeoLoRA(tolerance=0.3, coefficient_steps=2), model, lr=0.3), loss, 9)
    ranks = adapters.report(model)["rank"][:-1]
    assert ranks.nunique() > 1
    told = output(model, loss)
    adapters.export(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {name: config["rank_pattern"].get(name, config["r"]) for name in ranks.index} == ranks.to_dict()
    torch.testing.assert_close(output(PeftModel.from_pretrained(build(), tmp_path), loss), told, rtol=0, atol=ROUNDING)
    assert model.peft_config["default"].r == 4  # the export leaves the model's own as it is
    adapters.bake(model)
    assert model.peft_config["default"].rank_pattern == config["rank_pattern"]


def test_a_pair_at_its_start_is_a_plain_lora_of_full_width(tmp_path):
    build, _, loss = MODELS["bert"]
    model = adapters.attach(wrapped("bert"), "op_lora")
    adapters.export(model, tmp_path)
    assert set(adapters.report(model)["rank"][:-1]) == {4}
    assert torch.equal(output(PeftModel.from_pretrained(build(), tmp_path), loss), output(build(), loss))


def test_layers_whose_names_end_alike_keep_their_own_ranks(tmp_path):
    class Twins(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.q, self.inner = torch.nn.Linear(6, 6), torch.nn.ModuleDict({"q": torch.nn.Linear(6, 6)})

        def forward(self, x):
            return self.inner["q"](self.q(x))

    model = adapters.wrap(Twins(), ["q"], rank=3)
    with torch.no_grad():
        for i, name in enumerate(("q", "inner.q")):
            layer = model.get_submodule(name)
            layer.lora_A["default"].weight[i + 1 :] = 0
            layer.lora_B["default"].weight[:] = 1
    adapters.attach(model, "svd")
    for rank, pair in zip((1, 2), attached(model), strict=True):
        pair.left.data[:, rank:] = 0
    told = model(torch.ones(1, 6))
    adapters.export(model, tmp_path)
    again = PeftModel.from_pretrained(Twins(), tmp_path)
    torch.testing.assert_close(again(torch.ones(1, 6)), told)
    assert [again.get_submodule(f"base_model.model.{name}").r["default"] for name in ("q", "inner.q")] == [1, 2]
