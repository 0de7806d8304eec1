"""Bases whose weights are not floating-point: what trains beside them works, what reads or changes them says that it cannot."""

import pytest
import torch
from tiny import train, trainable
from torch import nn

import adapters
from linalg import InputError

peft = pytest.importorskip("peft")
X, Y = (
    torch.randn(16, 6, generator=torch.Generator().manual_seed(0)),
    torch.randn(16, 4, generator=torch.Generator().manual_seed(1)),
)


class Int8(nn.Linear):
    """A linear layer that keeps its weight as integers with a scale a row."""

    def __init__(self, plain):
        super().__init__(plain.in_features, plain.out_features)
        scale = plain.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((plain.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.bias = plain.bias
        self.register_buffer("scale", scale)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def build():
    torch.manual_seed(0)
    return nn.Sequential(Int8(nn.Linear(6, 5)), nn.Tanh(), Int8(nn.Linear(5, 4)))


def wrapped():
    return peft.get_peft_model(build(), peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"]))


def loss(model):
    return (model(X) - Y).square().mean()


@pytest.mark.parametrize("method", ["lora", "op_lora", "deep_lora", "svd", "adalora"])
def test_methods_train_beside_integers_and_leave_as_plain_lora(method, tmp_path):
    model = adapters.attach(wrapped(), method, loss=loss, steps=10)
    before = model.base_model.model[0].base_layer.weight.clone()
    losses = train(model, torch.optim.AdamW(trainable(model), lr=0.02), loss, 10)
    assert losses[-1] < losses[0]
    assert torch.equal(model.base_model.model[0].base_layer.weight, before)
    told = model.eval()(X)
    adapters.export(model, tmp_path)
    torch.testing.assert_close(peft.PeftModel.from_pretrained(build(), tmp_path)(X), told, rtol=0, atol=1e-6)


def test_the_first_gradient_is_that_of_the_weight_that_integers_stand_for():
    """Deep LoRA's start spans the first gradient's leading singular vectors, taken here by autograd through a plain layer."""
    plain = build()
    dense = [nn.Parameter(layer.weight.float() * layer.scale) for layer in (plain[0], plain[2])]
    hidden = torch.tanh(nn.functional.linear(X, dense[0], plain[0].bias))
    (nn.functional.linear(hidden, dense[1], plain[2].bias) - Y).square().mean().backward()
    from adapters._gradients import first_gradients
    from adapters._sites import sites

    model = wrapped()
    found = sites(model)
    zero = {site.name: torch.zeros(site.shape) for site in found}
    for site, gradient in zip(found, first_gradients(model, found, zero, loss).values(), strict=True):
        expected = dense[0 if site.name.endswith("0") else 1].grad
        torch.testing.assert_close(gradient, 2 * expected)  # the pair's scale is 2


@pytest.mark.parametrize("method", ["flora", "relora", "flat_lora"])
def test_methods_that_change_or_read_the_weight_refuse_integers(method):
    with pytest.raises(InputError, match="quantised"):
        adapters.attach(wrapped(), method)
    with pytest.raises(InputError, match="quantised"):
        adapters.attach(wrapped(), "lora", init="pissa")
