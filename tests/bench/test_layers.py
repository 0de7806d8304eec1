"""Stacks of weights, rules of pairs and of the tangent space, penalties and directions: what the engine adds to a step."""

from dataclasses import dataclass

import pytest
import torch
from by_hand import gaussian

from bench import probes
from bench.engine import Block, Settings
from bench.lanes import Lanes
from linalg import FactoredMatrix, svdvals
from optimizers import SGD, Adam
from parameterizations import SVD, Deep, DeepLoRA, Full, LoRA, OPLoRA
from problems import LeastSquares, LinearRegression, MatrixCompletion, MatrixFactorization, Stack

DOUBLE = Settings(30, dtype=torch.float64, probes="all")
RATES = [0.3, 0.1, 0.03]


def block(problem, method, optimizer, seeds=(0, 1), settings=DOUBLE, rates=RATES):
    drawn = [problem.draw(seed, dtype=settings.dtype) for seed in seeds]
    return Block(drawn, method, optimizer, list(seeds), rates, settings)


def advance(built, steps):
    for step in range(steps):
        built.find_gradients(step)
        built.step()
    return built


@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (40, 36)])
@pytest.mark.parametrize("optimizer", [SGD(), Adam(), SGD(momentum=0.9)])
@pytest.mark.parametrize(
    "method", [LoRA(rank=3, alpha=5.0), OPLoRA(rank=2, hidden=4, embedding=5), Deep(), DeepLoRA(rank=4), Full()]
)
def test_a_stack_trains_each_layer_as_alone(method, optimizer, shape):
    problem = Stack(shape=shape, ranks=(1, 3, 0, 2))
    together = block(problem, method, optimizer)
    start = {name: tensor.clone() for name, tensor in together.trainable.items()}
    advance(together, 8)
    for seed in (0, 1):
        target = problem.draw(seed, dtype=torch.float64).target
        for layer in range(4):
            alone = Block([LeastSquares(target[layer], torch.ones(()))], method, optimizer, [seed], RATES, DOUBLE)
            for name, tensor in alone.params.items():
                tensor.copy_(
                    together.params[name][seed : seed + 1, :, layer] if name not in start else start[name][[seed], :, layer]
                )
            advance(alone, 8)
            torch.testing.assert_close(alone.weight().dense()[0], together.weight().dense()[seed, :, layer], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layers", [3, 6])
def test_a_vector_a_layer_stays_one_whether_layers_or_entries_are_more(layers):
    problem, method = Stack(shape=(12, 9), ranks=(2,) * layers), OPLoRA(rank=2, hidden=4, embedding=5)
    together = advance(block(problem, method, Adam()), 6)
    for k, rate in enumerate(RATES):
        alone = advance(block(problem, method, Adam(), seeds=(1,), rates=[rate]), 6)
        for name, tensor in alone.trainable.items():
            torch.testing.assert_close(together.trainable[name][1, k], tensor[0, 0], rtol=1e-9, atol=1e-12)


def test_a_stacks_measures_are_sums_over_its_layers():
    instance = Stack(shape=(7, 5), ranks=(1, 2)).draw(3)
    weight = FactoredMatrix((gaussian(4, 2, 7, 5),))
    measured = instance.measure(weight)
    error = (weight.dense() - instance.target).square()
    torch.testing.assert_close(measured["loss"], 0.5 * error.sum((1, 2, 3)))
    torch.testing.assert_close(measured["relative_error"], (error.sum((1, 2, 3)) / instance.target.square().sum()).sqrt())
    assert instance.best(1) == pytest.approx(0.5 * 0.25)  # the second layer's σ2 = 1/2 is left
    assert instance.best(2) == pytest.approx(0.0, abs=1e-12)


def test_a_stacks_run_leaves_one_value_a_lane():
    result = block(Stack(shape=(9, 7), ranks=(1, 2, 0)), LoRA(rank=2), SGD()).run()
    assert {curve.shape for curve in result.curves.values()} == {(len(result.steps), 2, 3)}
    last = result.spectra[DOUBLE.steps]
    assert last.shape == (2, 3, 6)
    assert (last.diff(dim=-1) <= 0).all()


def test_over_layers_adds_ranks_and_lengths_and_takes_the_worst_of_the_rest():
    values = torch.tensor([[[3.0, 4.0]]])
    assert probes.over_layers("gradient_norm", values).item() == 5
    assert probes.over_layers("effective_rank", values).item() == 7
    assert probes.over_layers("condition_product", values).item() == 4


def test_the_rates_of_a_layer_lie_next_to_each_other():
    lanes = Lanes({"left": torch.zeros(4, 9, 2), "bias": torch.zeros(5)}, (2, 3))
    buffer = torch.arange(float(lanes.entries))
    left = lanes.views(buffer)["left"]
    assert left.shape == (2, 3, 4, 9, 2)
    assert left.stride() == (4 * 3 * 18, 18, 3 * 18, 1, 9)
    assert lanes.views(buffer)["bias"].shape == (2, 3, 5)


@pytest.mark.parametrize(
    "problem", [MatrixFactorization((30, 26)), MatrixFactorization((6, 9)), MatrixCompletion((12, 10)), Stack((30, 26))]
)
def test_the_tangent_products_are_those_of_the_dense_gradient(problem):
    @dataclass(frozen=True)
    class Still(SGD):
        tangent = True

    built = block(problem, SVD(rank=3), Still())
    for name, tensor in built.trainable.items():
        tensor.copy_(gaussian(*tensor.shape, seed=len(name)))
    built.params["core"][..., -1, :] = 0  # singular: no inverse is taken
    built.find_gradients(0)
    dense = built.weight().dense().requires_grad_()
    (gradient,) = torch.autograd.grad(built.instance.loss(FactoredMatrix((dense,))).sum(), dense)
    left, right = built.params["left"], built.params["right"]
    torch.testing.assert_close(built.grads["left"], gradient @ right.mT)
    torch.testing.assert_close(built.grads["right"], left.mT @ gradient)
    torch.testing.assert_close(built.grads["core"], left.mT @ gradient @ right.mT)


@dataclass(frozen=True)
class OwnBase(LoRA):
    """A base that is not the pretrained one, and trains with the factors."""

    def weight(self, params, at=None):
        return FactoredMatrix((params["left"], params["right"]), params["base"] * (2 + params["right"].sum((-2, -1), keepdim=True)))


def test_a_base_of_the_methods_own_counts_with_its_gradient():
    built = block(LinearRegression((8, 7)), OwnBase(rank=2), SGD())
    for i, tensor in enumerate(built.trainable.values()):
        tensor.copy_(gaussian(*tensor.shape, seed=i))
    built.find_gradients(0)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in built.trainable.items()}
    loss = built.instance.loss(built.parameterization.weight({**built.params, **leaves}))
    for name, expected in zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True):
        torch.testing.assert_close(built.grads[name], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("init", ["kaiming", "pissa"])
def test_what_is_learned_is_the_weight_less_the_pretrained_one(init):
    built = advance(block(LinearRegression((8, 7)), LoRA(rank=2, init=init), SGD()), 5)
    learned = built.weight().dense() - built.instance.base
    torch.testing.assert_close(built.total_update().dense(), learned, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(built.spectrum()[..., :4], torch.linalg.svdvals(learned)[..., : built.spectrum().shape[-1]][..., :4])


@dataclass(frozen=True)
class Halved(SGD):
    """What it does to a pair's gradients is easy to see."""

    def precondition(self, left, right, grad_left, grad_right, scale):
        return scale * grad_left / 2, grad_right @ right.mT @ right


@pytest.mark.parametrize("method", [LoRA(rank=2, alpha=6.0), OPLoRA(rank=2, hidden=4, embedding=5, alpha=6.0)])
def test_a_rule_of_pairs_acts_before_gradients_are_pulled_back(method):
    plain, ruled = (block(MatrixFactorization((8, 7)), method, optimizer) for optimizer in (SGD(), Halved()))
    for built in (plain, ruled):
        for i, tensor in enumerate(built.trainable.values()):
            tensor.copy_(gaussian(*tensor.shape, seed=i))
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in plain.trainable.items()}
    weight = method.weight(leaves)
    found = torch.autograd.grad(plain.instance.loss(weight).sum(), weight.factors, retain_graph=True)
    changed = Halved().precondition(*(factor.detach() for factor in weight.factors), *found, weight.scale)
    expected = torch.autograd.grad(weight.factors, list(leaves.values()), changed)
    before = {name: tensor.clone() for name, tensor in ruled.trainable.items()}
    advance(ruled, 1)
    rates = torch.tensor(RATES, dtype=torch.float64)
    for (name, tensor), gradient in zip(before.items(), expected, strict=True):
        rate = rates.reshape(-1, *[1] * (tensor.ndim - 2))
        torch.testing.assert_close(ruled.trainable[name], tensor - rate * gradient, rtol=1e-10, atol=1e-12)


def test_a_rule_of_pairs_does_the_same_by_itself():
    params = {"left": gaussian(5, 2), "right": gaussian(2, 4, seed=1)}
    grads = {"left": gaussian(5, 2, seed=2), "right": gaussian(2, 4, seed=3)}
    expected = (
        params["left"] - 0.1 * 3.0 * grads["left"] / 2,
        params["right"] - 0.1 * grads["right"] @ params["right"].mT @ params["right"],
    )
    Halved().update(params, grads, Halved().init(params, scale=3.0), 0.1, 0)
    torch.testing.assert_close(params["left"], expected[0])
    torch.testing.assert_close(params["right"], expected[1])


@dataclass(frozen=True)
class Shrunk(LoRA):
    """A penalty of ½ ‖A‖² and a direction without B's first row."""

    def penalty(self, params):
        return 0.5 * params["right"].square().sum((-2, -1))

    def direct(self, params, grads, at):
        grads["left"][..., 0, :] = at.step


def test_penalties_join_the_gradients_and_directions_replace_them():
    plain, changed = (block(Stack((8, 7), ranks=(1, 2)), method, SGD()) for method in (LoRA(rank=2), Shrunk(rank=2)))
    for built in (plain, changed):
        for i, tensor in enumerate(built.trainable.values()):
            tensor.copy_(gaussian(*tensor.shape, seed=i))
        built.find_gradients(7)
    torch.testing.assert_close(changed.grads["right"], plain.grads["right"] + plain.params["right"])
    assert (changed.grads["left"][..., 0, :] == 7).all()
    assert torch.equal(changed.grads["left"][..., 1:, :], plain.grads["left"][..., 1:, :])
    assert svdvals(changed.weight().update()).isfinite().all()
