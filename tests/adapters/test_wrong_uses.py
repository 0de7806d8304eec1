"""Wrong uses give one clear error."""

import pytest
import torch
from torch import nn

import adapters
from linalg import InputError
from optimizers import GeoLoRA, LoRAPlus, LoRARITE, LoRSum, ScaledGD, SVDOracle, torch_optimizer
from parameterizations import DoRA, Full, LoRA, OPLoRA


def model(rank=2, **options):
    torch.manual_seed(0)
    return adapters.wrap(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), ["0", "2"], rank=rank, **options)


WRONG = {
    "attached twice": (lambda: adapters.attach(adapters.attach(model(), "lora"), "op_lora"), "attached already"),
    "baked, not attached": (lambda: adapters.bake(model()), "nothing is attached"),
    "detached, not attached": (lambda: adapters.detach(model()), "nothing is attached"),
    "no LoRA layers": (lambda: adapters.attach(nn.Linear(3, 3), "lora"), "no LoRA layers"),
    "another adapter": (lambda: adapters.attach(model(), "lora", adapter="other"), "there are default"),
    "rank of its own": (lambda: adapters.attach(model(), LoRA(rank=3)), "rank=3: the LoraConfig's r is 2"),
    "scale of its own": (lambda: adapters.attach(model(), LoRA(rank=2, alpha=16)), "alpha=16: the LoraConfig's scale is 1"),
    "rslora of its own": (lambda: adapters.attach(model(), LoRA(rank=2, rslora=True)), "use_rslora=True"),
    "unknown name": (lambda: adapters.attach(model(), "lorra"), "parameterization='lorra'"),
    "unknown option": (lambda: adapters.attach(model(), "op_lora", width=3), "width"),
    "options beside an object": (lambda: adapters.attach(model(), OPLoRA(rank=2), hidden=3), "hidden"),
    "no parameterization": (lambda: adapters.attach(model(), nn.Linear(2, 2)), "Linear"),
    "no factors": (lambda: adapters.attach(model(), Full()), "no factors"),
    "dora": (lambda: adapters.attach(model(), DoRA(rank=2)), "use_dora=True"),
    "shared first gradients": (lambda: adapters.attach(model(), "op", over="deep_lora", shared=True), "first gradient"),
    "clients": (lambda: adapters.attach(model(), "fed_lora"), "clients"),
    "no first batch": (lambda: adapters.attach(model(), "deep_lora"), "batch=None"),
    "a loss that is none": (lambda: adapters.attach(model(), "deep_lora", loss=lambda model: 3.0), "float"),
    "odd rank": (lambda: adapters.attach(model(3), "deep_lora", loss=lambda model: model(torch.ones(2, 6)).sum()), "even"),
    "no such layer": (lambda: adapters.attach(model(), "lora", target="attn.*"), "matches no layer; there are 0, 2"),
    "no such ending": (lambda: adapters.attach(model(), "lora", target=["attn"]), "matches no layer"),
    "bad pattern": (lambda: adapters.attach(model(), "lora", target="("), "regular expression"),
    "wrapped twice": (lambda: adapters.wrap(model(), "0"), "already"),
    "wrap nothing": (lambda: adapters.wrap(nn.Sequential(nn.Linear(2, 2)), "attn"), "matches no layer; there are 0"),
    "rank above the layer": (lambda: model(5), "rank=5: must be at most 4, the smaller side of 2"),
    "groups": (lambda: adapters.wrap(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "0", rank=2), "2 groups"),
    "merged while attached": (lambda: adapters.merge(adapters.attach(model(), "lora")), "bake it first"),
    "unknown format": (lambda: adapters.export(model(), "nowhere", "gguf"), "peft, diffusers"),
    "no steps": (lambda: adapters.attach(model(), "adalora", steps=0), "steps=0"),
    "no pairs": (lambda: torch_optimizer(LoRARITE(), nn.Linear(3, 3), lr=0.1), "moves pairs of factors, and none"),
    "no pairs by name": (lambda: torch_optimizer(LoRARITE(), list(model().parameters()), lr=0.1), "named_parameters"),
    "not its factors": (lambda: torch_optimizer(GeoLoRA(), adapters.attach(model(), "lora"), lr=0.1), "those of svd"),
    "predicted factors": (lambda: torch_optimizer(LoRAPlus(), adapters.attach(model(), "op_lora"), lr=0.1), "two factors"),
    "no pair": (lambda: torch_optimizer(ScaledGD(), adapters.attach(model(), "svd"), lr=0.1), "chain of two factors"),
    "closed form": (lambda: torch_optimizer(SVDOracle(), model(), lr=0.1), "closed form"),
    "dense gradient": (lambda: torch_optimizer(LoRSum(), model(), lr=0.1), "dL/dW"),
    "no rule": (lambda: torch_optimizer(torch.optim.Adam, model(), lr=0.1), "rule"),
    "negative rate": (lambda: torch_optimizer(ScaledGD(), model(), lr=-0.1), "lr=-0.1"),
    "nothing trains": (lambda: torch_optimizer(ScaledGD(), model().requires_grad_(False), lr=0.1), "require a gradient"),
    "runlora of nothing": (
        lambda: adapters.runlora(adapters.wrap(nn.Sequential(nn.Conv2d(3, 3, 3)), "0", rank=2)),
        "no plain linear",
    ),
    "runlora by luck": (lambda: adapters.runlora(model(), by="luck"), "flops, time"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_use_is_one_line_that_says_what_is_wrong(case):
    wrong, said = WRONG[case]
    with pytest.raises(InputError) as caught:
        wrong()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tied_weight_is_not_merged_into():
    tied = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    tied[1].weight = tied[0].weight
    adapters.wrap(tied, ["0"], rank=2)
    with pytest.raises(InputError, match=r"0: Flora merges into its weight, which is tied: 0.base_layer.weight, 1.weight"):
        adapters.attach(tied, "flora")


@pytest.mark.parametrize(("interval", "momentum", "warned"), [(3, "carry", True), (3, "reset", False), (12, "carry", False)])
def test_an_interval_at_which_carried_momentum_grows_is_said(interval, momentum, warned, recwarn):
    """For 6 columns and rank 2 the bound is ln(4.5) / (2 ln(1 / 0.9)) = 7.1 steps; for 5, 6.6."""
    adapters.attach(model(), "flora", interval=interval, momentum=momentum)
    said = [str(each.message) for each in recwarn if "carried momentum" in str(each.message)]
    assert len(said) == warned
    assert not said or (said[0].startswith("0: interval=3") and "give interval=8 or more" in said[0] and "1 more layers" in said[0])


def test_what_fails_leaves_a_model_as_it_was():
    torch.manual_seed(0)
    uneven = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(uneven, LoraConfig(r=4, target_modules=["0", "1"]))
    before = set(wrapped.state_dict())
    for name in ("lora", "lorta"):
        with pytest.raises(InputError, match="rank=4: must be at most 3"):
            adapters.attach(wrapped, name)
    assert set(wrapped.state_dict()) == before
    adapters.attach(wrapped, "lorta", target=["0"])


def test_a_layer_whose_rank_does_not_fit_is_named():
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model

    wide = get_peft_model(nn.Sequential(nn.Linear(6, 3)), LoraConfig(r=5, target_modules=["0"]))
    with pytest.raises(InputError, match=r"base_model.model.0: rank=5: must be at most 3"):
        adapters.attach(wide, "op_lora")


@pytest.mark.parametrize("damage", ["missing", "truncated", "not ours", "other format"])
def test_a_training_state_that_cannot_be_read_changes_nothing(damage, tmp_path):
    trained = adapters.attach(model(), "op_lora")
    file = adapters.save(trained, tmp_path)
    facts = tmp_path / "training_state.json"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "not ours":
        file.write_bytes(b"\x80\x04\x95 a pickle would run code")
    else:
        facts.write_text('{"format": 99}')
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    with pytest.raises(InputError):
        adapters.load(trained, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


def test_another_methods_state_is_refused(tmp_path):
    adapters.save(adapters.attach(model(), "op_lora"), tmp_path)
    with pytest.raises(InputError, match=r"OPLoRA.*was saved"):
        adapters.load(adapters.attach(model(), "lora"), tmp_path)
    fresh = adapters.attach(model(), "op_lora")
    with pytest.raises(InputError, match="without an optimizer"):
        adapters.load(fresh, tmp_path, torch_optimizer(ScaledGD(), fresh, lr=0.1))
