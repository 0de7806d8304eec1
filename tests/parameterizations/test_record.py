"""What a parameterization records against autograd through its `weight`, for lanes in a block's memory."""

from dataclasses import dataclass

import pytest
import torch
from by_hand import seeded

from bench.lanes import Lanes
from linalg import FactoredMatrix, Program
from parameterizations import OP, AdaLoRA, Deep, DeepLoRA, Flora, Full, LoRA, OPLoRA, Parameterization, SoRA, StelLA, Step

F64 = torch.float64


@dataclass(frozen=True)
class Symmetric(Parameterization):
    """s(t) U Uᵀ: one tensor twice in the chain, and a scale of its own at every step."""

    rank: int = 2

    def initial(self, shape, generator, base, gradient):
        return {"factor": torch.randn(shape[0], self.rank, generator=generator, dtype=F64), "unused": torch.ones(3, dtype=F64)}

    def weight(self, params, at=None):
        return FactoredMatrix((params["factor"], params["factor"].mT), None, 1.0 + (0 if at is None else at.step))


@dataclass(frozen=True)
class Shifted(Parameterization):
    """A factor that is a map of a parameter, over a base that moves with it."""

    def initial(self, shape, generator, base, gradient):
        return {"inner": torch.randn(shape, generator=generator, dtype=F64)}

    def weight(self, params, at=None):
        base = params["inner"].square() + (0 if at is None else at.step)
        return FactoredMatrix((params["inner"].tanh(),), base)


METHODS = [
    Full(),
    LoRA(2),
    LoRA(2, alpha=3.0),
    Deep(),
    Deep(depth=2),
    Deep(depth=5),
    DeepLoRA(4),
    DeepLoRA(4, depth=2, outer_rate=0),
    Flora(3),
    Flora(3, interval=0, alpha=5.0),
    *(
        OPLoRA(2, hidden=5, embedding=4, alpha=alpha, head=head, generators=generators)
        for alpha in (None, 3.0)
        for head in ("zero", "rezero")
        for generators in ("shared", "separate")
    ),
    OPLoRA(2, hidden=70, embedding=30),
    *(OP(2, over=over, hidden=5, embedding=4) for over in ("lora", "deep_lora", "full", "op_lora", "loha")),
    OP(2, "lora", {"alpha": 3.0}, hidden=5, embedding=4, head="random"),
    StelLA(2, diagonal=True),
    AdaLoRA(2),
    SoRA(3, alpha=5.0),
    Symmetric(),
    Shifted(),
]


def block(method, shape, with_base):
    """Parameters of two seeds and three rates in one buffer, away from their start, and places for their gradients."""
    base = torch.randn(shape, generator=seeded(5), dtype=F64) if with_base else None
    one = method.init(shape, generator=seeded(1), dtype=F64, base=base, gradient=lambda weight: weight - 1)
    lanes = Lanes({name: tensor for name, tensor in one.items() if name not in method.frozen}, (2, 3))
    _, trained = lanes.zeros(torch.zeros((), dtype=F64))
    _, grads = lanes.zeros(torch.zeros((), dtype=F64))
    for i, (name, tensor) in enumerate(trained.items()):
        tensor.copy_(one[name] + 0.2 * torch.randn(tensor.shape, generator=seeded(i + 10), dtype=F64))
    frozen = {name: tensor.expand(2, 1, *tensor.shape).clone() for name, tensor in one.items() if name not in trained}
    return {**frozen, **trained}, grads


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("shape", [(9, 9), (13, 8), (7, 12)])
@pytest.mark.parametrize("with_base", [False, True])
def test_gradients_are_autograds_at_every_step(method, shape, with_base):
    if isinstance(method, Symmetric):
        shape = (9, 9)
    params, grads = block(method, shape, with_base)
    target = torch.randn(2, 1, *shape, generator=seeded(3), dtype=F64)
    at, program = Step(), Program()
    recorded = method.record(program, params, grads, at)

    def gradients_of_the_factors():
        leaves = [factor.detach().clone().requires_grad_() for factor in recorded.weight.factors]
        loss = (FactoredMatrix(tuple(leaves), recorded.weight.base, recorded.weight.scale).dense() - target).pow(4).sum()
        for place, gradient in zip(recorded.cotangents, torch.autograd.grad(loss, leaves), strict=True):
            if place is not None:
                place.copy_(gradient)

    program.do(gradients_of_the_factors)
    recorded.pull_back()
    for at.step in (0, 1, 7):
        program()
        for name, (column, row) in recorded.outer.items():
            grads[name].copy_(column @ row)
        leaves = {name: params[name].detach().clone().requires_grad_() for name in grads}
        weight = method.weight({**params, **leaves}, at)
        torch.testing.assert_close(recorded.weight.dense(), weight.dense().detach())
        expected = torch.autograd.grad((weight.dense() - target).pow(4).sum(), list(leaves.values()), allow_unused=True)
        for (name, place), gradient in zip(grads.items(), expected, strict=True):
            reference = torch.zeros_like(place) if gradient is None else gradient
            torch.testing.assert_close(place, reference, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        for name in grads:  # further on in the same memory
            params[name].mul_(0.9).add_(0.05)


def test_factors_that_are_parameters_get_their_gradients_without_a_detour():
    for method in (Full(), LoRA(2), Deep(), DeepLoRA(4), Flora(2)):
        params, grads = block(method, (9, 9), with_base=False)
        program = Program()
        recorded = method.record(program, params, grads, Step())
        recorded.pull_back()
        assert program.operations == []
        found = [place for place in recorded.cotangents if place is not None]
        assert {place.data_ptr() for place in found} == {place.data_ptr() for place in grads.values()}
