"""Training state goes into files and back, to the last bit; what a state_dict shows is a plain LoRA."""

import copy

import pytest
import torch
from tiny import CASES, train
from torch import nn

import adapters
from adapters._install import attached
from linalg import InputError
from optimizers import SGD, Adam, GeoLoRA, torch_optimizer

X, Y = (
    torch.randn(16, 6, generator=torch.Generator().manual_seed(0)),
    torch.randn(16, 4, generator=torch.Generator().manual_seed(1)),
)


def loss(model):
    return (model(X) - Y).square().mean()


def fresh(case, seed=0):
    name, options = CASES[case]
    torch.manual_seed(0)
    model = adapters.wrap(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), ["0", "2"], rank=2)
    return adapters.attach(model, name, loss=loss, steps=12, seed=seed, **options)


def run(model, optimizer, steps):
    return train(model, optimizer, loss, steps)


def own(model, kind):
    trains = [tensor for tensor in model.parameters() if tensor.requires_grad]
    return torch_optimizer(Adam(), model, lr=0.02) if kind == "ours" else torch.optim.AdamW(trains, lr=0.02)


@pytest.mark.parametrize("kind", ["ours", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_from_its_files_as_if_nothing_had_happened(case, kind, tmp_path):
    model = fresh(case)
    optimizer = own(model, kind)
    run(model, optimizer, 5)
    adapters.save(model, tmp_path, optimizer)
    ahead = run(model, optimizer, 7)
    again = fresh(case, seed=9)
    resumed = own(again, kind)
    adapters.load(again, tmp_path, resumed)
    assert run(again, resumed, 7) == ahead
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


class Keeper(torch.optim.SGD):
    """Gradient descent that keeps what optimizers from elsewhere do: lists and mappings in its state, tensors in its groups."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["taken"] = group.get("taken", torch.zeros(())) + 1
            for tensor in group["params"]:
                kept = self.state[tensor]
                kept.setdefault("seen", [torch.zeros_like(tensor), None])[0].add_(tensor.grad)
                kept["shapes"] = {"sides": tuple(tensor.shape), 0: torch.tensor(tensor.numel())}
                tensor.sub_(group["lr"] * kept["seen"][0] / group["taken"])


def resumed(make, folder):
    """Two rules of a kind after ten steps, one of which stopped and went on from files after five; the losses of the last five."""
    model, again = fresh("lora"), fresh("lora", seed=9)
    rules = [make([each for each in net.parameters() if each.requires_grad], lr=0.01) for net in (model, again)]
    run(model, rules[0], 5)
    adapters.save(model, folder, rules[0])
    adapters.load(again, folder, rules[1])
    return rules, run(model, rules[0], 5), run(again, rules[1], 5)


def test_what_other_peoples_optimizers_keep_goes_on(tmp_path):
    rules, ahead, again = resumed(Keeper, tmp_path)
    assert again == ahead
    ours, theirs = (rule.state_dict() for rule in rules)
    assert theirs["param_groups"][0]["taken"].item() == 10
    assert theirs["state"][0]["shapes"] == ours["state"][0]["shapes"]


@pytest.mark.parametrize("name", ["SOAP", "Prodigy"])
def test_a_package_of_optimizers_goes_on(name, tmp_path):
    _, ahead, again = resumed(getattr(pytest.importorskip("pytorch_optimizer"), name), tmp_path)
    assert again == pytest.approx(ahead, rel=1e-6), "SOAP's bases come back by rows, and round differently"


def test_an_optimizer_with_other_groups_is_told(tmp_path):
    model = fresh("lora")
    trains = [each for each in model.parameters() if each.requires_grad]
    adapters.save(model, tmp_path, torch.optim.SGD(trains, lr=0.1))
    other = torch.optim.SGD([{"params": trains[:1]}, {"params": trains[1:]}], lr=0.1)
    with pytest.raises(InputError, match="of 1 groups of parameters; this one has 2"):
        adapters.load(model, tmp_path, other)


def test_geoloras_phase_and_moments_go_on(tmp_path):
    rule = GeoLoRA(coefficient_steps=3, core_rule="adam", tolerance=0.01)
    model = fresh("svd")
    optimizer = torch_optimizer(rule, model, lr=0.1)
    run(model, optimizer, 6)
    adapters.save(model, tmp_path, optimizer)
    ahead = run(model, optimizer, 6)
    again = fresh("svd", seed=3)
    resumed = torch_optimizer(rule, again, lr=0.1)
    adapters.load(again, tmp_path, resumed)
    assert run(again, resumed, 6) == ahead


@pytest.mark.parametrize("case", CASES)
def test_a_state_dict_loads_into_another_model(case):
    model, other = fresh(case), fresh(case, seed=9)
    run(model, torch_optimizer(SGD(), model, lr=0.1), 4)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other.eval()(X), model.eval()(X))


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("flora", "relora", "xgblora")])
def test_a_state_dict_shows_a_and_b_that_a_plain_lora_loads(case):
    model = fresh(case)
    run(model, torch_optimizer(SGD(), model, lr=0.1), 4)
    shown = model.state_dict()
    for pair in attached(model):
        left, right = shown[f"{pair.site.name}.lora_B.default.weight"], shown[f"{pair.site.name}.lora_A.default.weight"]
        torch.testing.assert_close(pair.site.scaling * left @ right, torch.matmul(*pair.plain()).float())
    assert not any("parametrizations" in name for name in shown)


def test_a_plain_lora_is_not_loaded_into_what_is_attached():
    model, plain = fresh("op_lora"), adapters.bake(fresh("op_lora"))
    with pytest.raises(RuntimeError, match="bake first"):
        model.load_state_dict(plain.state_dict())


def test_detach_gives_the_base_back_to_the_last_bit_unless_it_is_to_be_kept():
    for keep in (False, True):
        model = fresh("flora")
        before = copy.deepcopy(model[0].base_layer.weight)
        run(model, torch_optimizer(SGD(), model, lr=0.1), 7)
        assert not torch.equal(model[0].base_layer.weight, before)
        trained = model[0].base_layer.weight.clone()
        adapters.detach(model, keep=keep)
        assert torch.equal(model[0].base_layer.weight, trained if keep else before)
        assert not any(pair.any() for pair in [model[0].lora_B["default"].weight])
        with pytest.raises(InputError, match="nothing is attached"):
            adapters.detach(model)


@pytest.mark.parametrize("case", CASES)
def test_what_is_baked_is_what_was_trained(case):
    model = fresh(case)
    run(model, torch_optimizer(SGD(), model, lr=0.1), 7)
    told = model.eval()(X)
    adapters.bake(model)
    torch.testing.assert_close(model(X), told, rtol=0, atol=2e-6)
    assert {name for name, tensor in model.named_parameters() if tensor.requires_grad} == {
        f"{layer}.lora_{side}.default.weight" for layer in "02" for side in "AB"
    }
    torch.testing.assert_close(adapters.merge(model)(X), told, rtol=0, atol=2e-6)


def test_what_was_baked_can_be_attached_to_again():
    model = adapters.bake(fresh("op_lora"))
    adapters.attach(model, "lora")
    assert run(model, torch_optimizer(SGD(), model, lr=0.1), 3)[-1] > 0
