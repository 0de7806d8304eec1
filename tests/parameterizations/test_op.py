"""A generator over another method: where it starts, what its gradients are, and how its first step moves what it predicts."""

import copy
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from by_hand import descend, gaussian, gradients, half_squared, lowrank, seeded
from catalogue import members, small

import parameterizations
from bench.engine import Settings, initial_tensors
from bench.runs import run
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import OP, DeepLoRA, Flora, LoRA, OPLoRA, Parameterization
from problems import Stack

SIZES = {"hidden": 6, "embedding": 5}
METHODS = members(parameterizations, Parameterization)
SHAPES = [(6, 6), (9, 5), (5, 8)]
REFUSED = {"flora": "merges", "svd": "orthonormal", "stella": "beside the optimizer", "polar": "beside the optimizer"}
every_head = pytest.mark.parametrize("head", ["zero", "random"])
every_shape = pytest.mark.parametrize("shape", SHAPES)


def predictable(name):
    try:
        return OP(2, name)
    except InputError:
        return None


PREDICTABLE = [name for name in METHODS if name != "op" and predictable(name)]
ALONE = [name for name in PREDICTABLE if "layers" not in OP(2, name).inner.needs]


@dataclass(frozen=True)
class Elsewhere(Parameterization):
    """A method of somebody else's, with a fixed tensor under a name that a generator might have taken."""

    rank: int = 2
    slope: float = 1.0

    def initial(self, shape, generator, base, gradient):
        return {
            "embedding": torch.randn(shape[0], self.rank, generator=generator).double(),
            "hidden_bias": torch.ones(shape[1]).double(),
        }

    def factors(self, params):
        return params["embedding"], (self.slope * params["hidden_bias"][..., None, :]).expand(
            *params["embedding"].shape[:-2], self.rank, -1
        )

    @property
    def frozen(self):
        return ("base", "hidden_bias")


def start(method, shape, seed=1, layers=None, dtype=torch.float64):
    lead = () if layers is None else (layers,)
    target = gaussian(*lead, *shape, seed=9)
    base = gaussian(*lead, *shape, seed=8)
    return Parameterization.init(
        method, shape, generator=seeded(seed), dtype=dtype, base=base, gradient=lambda weight: weight - target, layers=layers
    )


def moved(params, method, seed=20):
    return {
        name: tensor if name in method.frozen else tensor + 0.3 * gaussian(*tensor.shape, seed=seed + i)
        for i, (name, tensor) in enumerate(params.items())
    }


def torch_mlp(method, params):
    """The generator as two nn.Linear, the second's outputs being a tall tensor by columns, any other by rows."""
    first = torch.nn.Linear(method.embedding, method.hidden, dtype=torch.float64)
    names = [name.removesuffix("_head_bias") for name in params if name.endswith("_head_bias")]
    second = {name: torch.nn.Linear(method.hidden, params[f"{name}_head_bias"].numel(), dtype=torch.float64) for name in names}
    with torch.no_grad():
        first.weight.copy_(params["generator_hidden_weight"])
        first.bias.copy_(params["generator_hidden_bias"])
        for name, layer in second.items():
            bias = params[f"{name}_head_bias"]
            layer.weight.copy_(params[f"{name}_head_weight"])
            layer.bias.copy_(bias.T.flatten() if is_tall(bias) else bias.flatten())
    return first, second


def is_tall(tensor):
    return tensor.ndim == 2 and tensor.shape[0] > tensor.shape[1]


def matrix(entries, like):
    return entries.reshape(like.shape[::-1]).T if is_tall(like) else entries.reshape(like.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", [None, 3])
@pytest.mark.parametrize("name", PREDICTABLE)
def test_it_starts_bitwise_where_the_other_method_starts(name, layers, dtype):
    method = OP(2, name, **SIZES)
    layers = layers or (3 if "layers" in method.needs else None)
    own = start(method.inner, (9, 5), layers=layers, dtype=dtype)
    params = start(method, (9, 5), layers=layers, dtype=dtype)
    predicted = method.predicted(params)
    assert {*predicted} == {*own}
    assert all(torch.equal(predicted[key], own[key]) for key in own)
    assert torch.equal(method.weight(params).dense(), method.inner.weight(own).dense())


@pytest.mark.parametrize("shared", [False, True])
@every_head
@pytest.mark.parametrize("name", PREDICTABLE)
def test_with_heads_drawn_or_shared_it_starts_there_to_rounding(name, head, shared):
    if shared and "layers" in OP(2, name).inner.needs:
        pytest.skip("its layers share what they train")
    method = OP(2, name, **SIZES, head=head, shared=shared)
    own, params = (start(which, (9, 5), layers=3) for which in (method.inner, method))
    for key, tensor in method.predicted(params).items():
        torch.testing.assert_close(tensor, own[key], rtol=1e-13, atol=1e-13)
        if f"{key}_head_weight" in params:
            assert bool(params[f"{key}_head_weight"].any()) == (head == "random" and bool(own[key].any()))


@every_head
@every_shape
def test_gradients_are_those_of_torchs_own_mlp(shape, head):
    method = OP(2, "lora", **SIZES, head=head)
    params = moved(start(method, shape), method)
    target = gaussian(*shape, seed=7)
    first, second = torch_mlp(method, params)
    z = params["generator_embedding"].clone().requires_grad_()
    units = torch.relu(first(z))
    left, right = (matrix(second[name](units), params[f"{name}_head_bias"]) for name in ("left", "right"))
    (0.5 * (params["base"] + left @ right - target).square().sum()).backward()
    found = gradients(method, params, half_squared(target))
    torch.testing.assert_close(method.weight(params).update(), (left @ right).detach())
    torch.testing.assert_close(found["generator_embedding"], z.grad)
    torch.testing.assert_close(found["generator_hidden_weight"], first.weight.grad)
    torch.testing.assert_close(found["generator_hidden_bias"], first.bias.grad)
    for name, layer in second.items():
        torch.testing.assert_close(found[f"{name}_head_weight"], layer.weight.grad)
        torch.testing.assert_close(found[f"{name}_head_bias"], matrix(layer.bias.grad, params[f"{name}_head_bias"]))


@pytest.mark.parametrize("lr", [1e-3, 1.0])
@pytest.mark.parametrize("name", ALONE)
def test_the_first_step_from_zero_heads_follows_the_other_methods_gradient_at_the_rate_of_the_hidden_units(name, lr):
    # W2 = 0 keeps everything below still, so that θ moves by -lr γ (‖h‖² + 1) g, whatever the rate, with the method's own γ
    method, target = OP(2, name, **SIZES), half_squared(gaussian(9, 5, seed=7))
    params = start(method, (9, 5))
    units = torch.relu(params["generator_hidden_weight"] @ params["generator_embedding"])
    own = start(method.inner, (9, 5))
    expected = {
        key: own[key] - lr * method.inner.rates.get(key, 1.0) * (units.square().sum() + 1) * grad
        for key, grad in gradients(method.inner, own, target).items()
    }
    descend(method, params, target, lr)
    predicted = method.predicted(params)
    for key, tensor in expected.items():
        torch.testing.assert_close(predicted[key], tensor, rtol=1e-11, atol=1e-11)


@every_head
def test_the_trunk_learns_from_the_first_step_only_where_heads_are_drawn(head):
    method, target = OP(2, "deep_lora", **SIZES, head=head), half_squared(gaussian(9, 5, seed=7))
    params = start(method, (9, 5))
    assert bool(gradients(method, params, target)["generator_hidden_weight"].any()) == (head == "random")
    descend(method, params, target, 0.1)
    assert gradients(method, params, target)["generator_hidden_weight"].any()
    assert gradients(method, params, target)["generator_embedding"].any()


def test_rates_go_to_the_heads():
    method = OP(2, "deep_lora", {"outer_rate": 0.25})
    assert method.rates == {f"{side}_head_{part}": 0.25 for side in ("left", "right") for part in ("weight", "bias")}


@every_shape
def test_over_lora_with_the_tensors_of_op_lora_it_has_its_factors(shape):
    theirs = OPLoRA(2, **SIZES)
    params = moved(start(theirs, shape), theirs)
    left, right = theirs.factors(params)
    ours = {f"generator_{name}": params[name] for name in ("embedding", "hidden_weight", "hidden_bias")}
    for name, factor in (("left", left), ("right", right)):  # op_lora predicts B by columns, whatever its shape
        order = torch.arange(factor.numel()).reshape(factor.shape)
        entries = order.T.flatten() if name == "left" else order.flatten()
        rows = torch.argsort(entries)[order.T.flatten() if is_tall(factor) else order.flatten()]
        ours[f"{name}_head_weight"] = params[f"{name}_head_weight"][rows]
        bias = params[f"{name}_head_bias"]
        ours[f"{name}_head_bias"] = bias.reshape(factor.shape[::-1]).T if name == "left" else bias.reshape(factor.shape)
    for found, expected in zip(OP(2, "lora", **SIZES).factors(ours), (left, right), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("head", "lr"), [("zero", 0.1), ("random", 0.03)])
@pytest.mark.parametrize("shape", [(9, 7), (7, 9)])
def test_over_lora_it_trains_to_the_same_optimum(shape, head, lr):
    target = lowrank(*shape, torch.tensor([1.0, 0.8, 0.2, 0.1], dtype=torch.float64), seed=3)
    loss, best = half_squared(target), 0.5 * (0.2**2 + 0.1**2)  # Eckart-Young for rank 2
    reached = []
    for method, rate in ((LoRA(2), 0.3), (OP(2, "lora", **SIZES, head=head), lr)):
        params = Parameterization.init(method, shape, generator=seeded(1), dtype=torch.float64)
        for _ in range(1500):
            descend(method, params, loss, rate)
        reached.append(float(loss(method.weight(params))))
    assert reached == pytest.approx([best, best], rel=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        OP(2, "lora", {"alpha": 3.0}, **SIZES, head="random"),
        OP(2, "deep_lora", **SIZES),
        OP(2, "vera", **SIZES),
        OP(2, "lorta", **SIZES),
        OP(2, "lora", **SIZES, head="random", shared=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("shape", [(8, 6), (5, 9)])
def test_in_a_stack_the_engine_takes_the_steps_of_a_plain_loop(method, shape):
    problem, rates, steps = Stack(shape=shape, ranks=(1, 2, 3)), (0.01, 0.05), 12
    result = run(problem, method, SGD(), lr=rates, seeds=[3], steps=steps, dtype="float64", probes="all")
    instance = problem.instance(3)
    settings = Settings(steps, dtype=torch.float64)
    for lr, loss in zip(rates, result.lanes.sort_values("lr").final_loss, strict=True):
        params = initial_tensors(instance, 3, method, settings)
        for _ in range(steps):
            descend(method, params, half_squared(instance.target), lr)
        assert loss == pytest.approx(float(half_squared(instance.target)(method.weight(params)).sum()), rel=1e-10)


@pytest.mark.parametrize("name", ALONE)
def test_it_has_k_plus_one_times_the_parameters_and_a_trunk(name):
    method = OP(2, name, hidden=7, embedding=3)

    def count(which):
        return sum(tensor.numel() for key, tensor in start(which, (9, 5)).items() if key not in which.frozen)

    assert count(method) == 8 * count(method.inner) + 7 * 3 + 3 + 7


@pytest.mark.parametrize("shared", [False, True])
def test_a_shared_generator_has_one_of_everything_but_its_input(shared):
    layers, (k, e), (m, n, r) = 4, (7, 3), (9, 5, 2)
    method = OP(r, "lora", hidden=k, embedding=e, shared=shared)
    params = start(method, (m, n), layers=layers)
    count = sum(tensor.numel() for key, tensor in params.items() if key not in method.frozen)
    one = k * e + k + (k + 1) * r * (m + n)
    assert count == (one if shared else layers * one) + layers * e


@pytest.mark.parametrize(("shared", "rank"), [(True, 2), (False, 4)])
def test_what_layers_learn_with_a_shared_generator_lies_in_k_plus_one_dimensions(shared, rank):
    # the predicted changes are c2 + W2 h of each layer; own generators have a span each
    layers, method = 4, OP(2, "lora", hidden=1, embedding=3, shared=shared)
    target = gaussian(layers, 9, 5, seed=2)
    params = start(method, (9, 5), seed=3, layers=layers)
    own = method.predicted(params)
    for _ in range(20):
        descend(method, params, half_squared(target), 0.02)
    changes = [
        torch.cat([(method.predicted(params)[name] - own[name])[layer].flatten() for name in ("left", "right")])
        for layer in range(4)
    ]
    assert torch.linalg.matrix_rank(torch.stack(changes), rtol=1e-9) == rank


def test_layers_that_share_what_they_train_have_one_generator():
    method = OP(2, "lorta", **SIZES)
    params = start(method, (9, 5), layers=3)
    assert params["generator_embedding"].shape == (5,)
    assert params["core_head_bias"].shape == (3, 2)
    assert params["left_head_weight"].shape == (18, 6)


@pytest.mark.parametrize("name", REFUSED)
def test_methods_that_move_their_own_tensors_are_refused_with_the_reason(name):
    with pytest.raises(InputError, match=f"^over='{name}': cannot be predicted: .*{REFUSED[name]}"):
        OP(2, name)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"op"}))
def test_whatever_changes_tensors_outside_the_optimizer_is_refused_and_nothing_else(name):
    method = small(METHODS[name][0])
    acts = method.merges or method.directs or type(method).after_step is not Parameterization.after_step or name == "svd"
    assert acts == (predictable(name) is None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"over": "nothing"}, r"^over='nothing': must be one of .*deep_lora"),
        ({"over": "torch.nn.Linear"}, r"^over='torch.nn.Linear': must be the dotted name of a Parameterization"),
        ({"over": "no.such.Thing"}, r"^over='no.such.Thing': must be a class that can be imported"),
        ({"over": "lora", "options": {"depth": 2}}, r"^options=.*among the options of lora: alpha, init, rslora"),
        ({"over": "lora", "options": {"rank": 2}}, r"^options="),
        ({"over": "full", "options": {"alpha": 2}}, r"^options=.*it has none"),
        ({"over": LoRA(2), "options": {"alpha": 2}}, r"^options=.*empty"),
        ({"over": "lora", "options": {"alpha": -1}}, r"^alpha=-1"),
        ({"rank": 3}, r"^rank=3: must be even"),
        ({"hidden": 0}, r"^hidden="),
        ({"embedding": 1.5}, r"^embedding="),
        ({"embedding_scale": 0}, r"^embedding_scale="),
        ({"head": "rezero"}, r"^head="),
        ({"shared": 2}, r"^shared="),
        ({"over": "lorta", "shared": True}, r"^shared=True: the layers of lorta share"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        OP(**arguments)


def test_a_method_given_as_an_object_becomes_a_plain_description():
    method = OP(over=DeepLoRA(4, depth=2))
    assert method == OP(4, "deep_lora", {"depth": 2})
    assert method.inner == DeepLoRA(4, depth=2)
    assert OP(over=LoRA(3, init="gaussian", alpha=2.0)).inner == LoRA(3, init="gaussian", alpha=2.0)
    assert len({OP(4, "lora"), OP(4, "lora"), OP(4, "deep_lora"), OP(4, "lora", {"alpha": 2})}) == 3


def test_a_method_from_elsewhere_keeps_its_own_tensors_whatever_their_names():
    method = OP(over=Elsewhere(3, slope=2.0), **SIZES)
    assert method.over == f"{__name__}.Elsewhere"
    params = moved(start(method, (9, 5)), method)
    assert torch.equal(params["hidden_bias"], torch.ones(5).double())
    torch.testing.assert_close(
        method.weight(params).update()[:, :1], 2 * method.predicted(params)["embedding"].sum(1, keepdim=True)
    )
    for twin in (replace(method), copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert twin == method
        assert twin.inner == Elsewhere(3, slope=2.0)


def test_a_generator_over_a_generator_is_one_too():
    method = OP(over=OP(2, "lora", hidden=3, embedding=2), **SIZES)
    params = moved(start(method, (9, 5)), method)
    inner = method.predicted(params)
    torch.testing.assert_close(method.weight(params).dense(), method.inner.weight(inner).dense())
    assert inner["generator_embedding"].shape == (2,)


def test_rules_that_precondition_see_the_pair_that_is_predicted():
    assert [OP(2, name).pair for name in ("lora", "deep_lora", "op_lora", "full")] == ["predicted", "", "predicted", ""]
    assert Adam().supports(OP(2)) is None


def test_one_projection_of_flora_is_not_predicted_either():
    with pytest.raises(InputError, match="beside the optimizer"):
        OP(over=Flora(2, interval=0))


def test_a_penalty_of_the_other_method_is_that_of_what_is_predicted():
    penalized = [name for name in PREDICTABLE if OP(2, name).penalizes]
    assert not OP(2, "lora").penalizes
    for name in penalized:
        method = OP(2, name, **SIZES)
        params = moved(start(method, (9, 5), layers=3 if "layers" in method.needs else None), method)
        torch.testing.assert_close(method.penalty(params), method.inner.penalty(method.predicted(params)))


@every_shape
def test_the_export_is_the_other_methods(shape):
    method = OP(2, "lora", {"alpha": 6.0}, **SIZES)
    params = moved(start(method, shape), method)
    for found, expected in zip(method.export(params), method.inner.export(method.predicted(params)), strict=True):
        assert torch.equal(found, expected)
    a, b = method.export(params)
    assert a.numel() + b.numel() == 2 * sum(shape)
