"""Every module of the folder passes these by being there."""

import copy
import pickle
from dataclasses import asdict, fields, is_dataclass, replace
from functools import reduce

import pytest
import torch
from by_hand import gaussian, gradients, half_squared, seeded, stacked
from catalogue import counted, members, small

import parameterizations
from linalg import FactoredMatrix, InputError, numerical_rank
from parameterizations import OP, LoKr, LoRA, Parameterization, Step
from parameterizations.lokr import split

METHODS = members(parameterizations, Parameterization)
CLASSES = [cls for found in METHODS.values() for cls in found]
VARIANTS = {
    "color with a scale": ("color", {"alpha": 5.0}),
    "deep of depth 2": ("deep", {"depth": 2}),
    "deep_lora with frozen outer factors": ("deep_lora", {"outer_rate": 0}),
    "deep_lora of depth 2": ("deep_lora", {"depth": 2}),
    "fed_lora that averages both": ("fed_lora", {"share": "both", "alpha": 5.0}),
    "fed_lora with A frozen": ("fed_lora", {"share": "left"}),
    "fed_lora of one client": ("fed_lora", {"share": "both", "weights": 3}),
    "flora with one projection": ("flora", {"interval": 0}),
    "flora with a scale": ("flora", {"alpha": 5.0}),
    "lora with a scale": ("lora", {"alpha": 5.0}),
    "lora with rslora": ("lora", {"alpha": 5.0, "rslora": True}),
    "lora from gaussian": ("lora", {"init": "gaussian"}),
    "lora from orthogonal": ("lora", {"init": "orthogonal"}),
    "lora from pissa": ("lora", {"init": "pissa", "alpha": 5.0}),
    "lora from milora": ("lora", {"init": "milora"}),
    "lora from lora_ga": ("lora", {"init": "lora_ga", "alpha": 5.0, "rslora": True}),
    "lora_fa with a scale": ("lora_fa", {"alpha": 5.0, "init": "gaussian"}),
    "dora with a scale": ("dora", {"alpha": 5.0}),
    "dora with the full gradient": ("dora", {"detach_norm": False}),
    "loha of rank 1": ("loha", {"rank": 1, "alpha": 5.0}),
    "lokr of two products": ("lokr", {"rank": 1, "alpha": 5.0, "decompose_both": True}),
    "lokr of a given factor": ("lokr", {"factor": 1}),
    "adalora with more triplets at the start": ("adalora", {"start": 4, "norm": "unsquared"}),
    "adalora without a penalty": ("adalora", {"orthogonality": 0.0}),
    "sora with the authors' thresholds": ("sora", {"proximal": "authors", "alpha": 5.0}),
    "relora with one pair": ("relora", {"interval": 0, "alpha": 5.0}),
    "relora with a reset": ("relora", {"momentum": "reset", "warmup": 0}),
    "xgblora with one booster": ("xgblora", {"interval": 0, "rank": 1}),
    "flat_lora with a scale": ("flat_lora", {"alpha": 5.0, "rho": 0.5}),
    "lorta with a scale": ("lorta", {"alpha": 5.0}),
    "op_lora with rezero": ("op_lora", {"head": "rezero"}),
    "op_lora with separate generators": ("op_lora", {"generators": "separate", "alpha": 3.0}),
    "op over lora from random heads": ("op", {"over": "lora", "options": {"alpha": 5.0}, "head": "random"}),
    "op over dora": ("op", {"over": "dora"}),
    "op over vera": ("op", {"over": "vera"}),
    "op over loha": ("op", {"over": "loha", "head": "random"}),
    "op over lokr": ("op", {"over": "lokr"}),
    "op over lorta": ("op", {"over": "lorta"}),
    "op over op_lora": ("op", {"over": "op_lora", "options": {"hidden": 3, "embedding": 2}}),
    "op over full": ("op", {"over": "full"}),
    "op over deep_lora with frozen outer factors": ("op", {"options": {"outer_rate": 0}}),
    "op shared by the layers": ("op", {"over": "lora", "shared": True, "head": "random"}),
    "op_dora with a scale": ("op_dora", {"alpha": 3.0, "head": "rezero"}),
    "op_dora with separate generators": ("op_dora", {"generators": "separate", "detach_norm": False}),
    "polar with a scale": ("polar", {"alpha": 5.0}),
    "stella with a diagonal core": ("stella", {"alpha": 5.0, "diagonal": True, "width": 7}),
}
CONFIGS = {name: small(cls) for name, found in METHODS.items() for cls in found}
CONFIGS |= {name: small(METHODS[module][0], **options) for name, (module, options) in VARIANTS.items()}
COUNTED = [name for name in CONFIGS if "frozen outer factors" not in name]  # the formula is that of factors which train
LAYERS = 3
SHAPES = [(6, 6), (9, 5), (5, 9), (30, 24)]

every_method = pytest.mark.parametrize("method", CONFIGS.values(), ids=CONFIGS)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def stack(method):
    """The leading dimensions of one lane: those of a stack, where the method is one for stacks."""
    return (LAYERS,) if "layers" in method.needs else ()


def start(method, shape, seed=0, base=None, **options):
    target = gaussian(*stack(method), *shape, seed=99)
    if base is None and "base" in method.needs:
        base = gaussian(*stack(method), *shape, seed=77)
    options = {"layers": LAYERS} | options if "layers" in method.needs else options
    gradient = lambda weight: weight - target  # noqa: E731  # a formula reads better as one
    options = {"dtype": torch.float64, "generator": seeded(seed), "base": base, "gradient": gradient} | options
    return Parameterization.init(method, shape, **options)


def anywhere(method, params, seed=5):
    """The parameters somewhere in general position: every trainable tensor at random."""
    return {
        name: tensor if name in method.frozen else gaussian(*tensor.shape, seed=seed + i)
        for i, (name, tensor) in enumerate(params.items())
    }


def learned(weight, base):
    """What a weight has beyond the pretrained one: its update, and what its base has lost where the factors started there."""
    return weight.update() if torch.equal(weight.base, base) else weight.dense() - base


@pytest.mark.parametrize("module", METHODS)
def test_a_module_holds_one_frozen_dataclass_with_a_reference(module):
    assert len(METHODS[module]) == 1
    (cls,) = METHODS[module]
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert isinstance(cls.reference, str)
    assert isinstance(cls.size, str)
    assert cls.size
    assert cls.__doc__


@every_shape
@every_method
def test_the_weight_has_the_shape_asked_for(method, shape):
    weight = method.weight(start(method, shape))
    assert isinstance(weight, FactoredMatrix)
    assert weight.shape == shape
    assert weight.dense().shape == (*stack(method), *shape)
    assert weight.dense().isfinite().all()


@every_shape
@every_method
def test_the_update_is_the_scaled_product_of_the_factors(method, shape):
    params = anywhere(method, start(method, shape))
    expected = method.scaling * reduce(torch.matmul, method.factors(params))
    torch.testing.assert_close(method.weight(params).update(), expected)


@pytest.mark.parametrize("leading", [(3,), (2, 3)])
@every_shape
@every_method
def test_a_block_of_lanes_equals_each_lane_alone(method, shape, leading):
    lanes = [anywhere(method, start(method, shape, seed), seed) for seed in range(torch.Size(leading).numel())]
    block = {name: tensor.reshape(*leading, *tensor.shape[1:]) for name, tensor in stacked(lanes).items()}
    together = method.weight(block).dense()
    assert together.shape == (*leading, *stack(method), *shape)
    for alone, lane in zip(lanes, together.flatten(0, len(leading) - 1), strict=True):
        torch.testing.assert_close(lane, method.weight(alone).dense(), rtol=1e-12, atol=1e-12)


@every_method
def test_a_seed_decides_every_tensor_and_another_seed_some(method):
    first, again, other = (start(method, (9, 5), seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    source = seeded(1)
    start(method, (9, 5), generator=source)
    draws_nothing = torch.equal(source.get_state(), seeded(1).get_state())
    assert draws_nothing or any(not torch.equal(first[name], other[name]) for name in first)


@every_method
def test_a_seed_means_the_same_numbers_in_every_precision(method):
    double, single = start(method, (9, 5)), start(method, (9, 5), dtype=torch.float32)
    assert list(double) == list(single)
    for name, tensor in single.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, double[name].float())


@every_method
def test_drawing_leaves_the_global_random_numbers_alone(method):
    before = torch.get_rng_state()
    start(method, (9, 5))
    assert torch.equal(torch.get_rng_state(), before)


@every_shape
@every_method
def test_a_base_travels_with_the_parameters_and_is_added_to_the_update(method, shape):
    base = gaussian(*stack(method), *shape, seed=3)
    params = start(method, shape, base=base)
    weight = method.weight(params)
    if not torch.equal(params["base"], base):  # the factors start from a part that the base lost
        torch.testing.assert_close(weight.dense(), base)
    assert "base" in method.frozen
    torch.testing.assert_close(weight.dense(), params["base"] + weight.update())
    assert start(method, shape, base=base.float())["base"].dtype == torch.float64


@every_shape
@every_method
def test_every_trainable_tensor_gets_a_finite_gradient(method, shape):
    for params in (start(method, shape), anywhere(method, start(method, shape))):
        grads = gradients(method, params, half_squared(gaussian(*stack(method), *shape, seed=8)))
        assert set(grads) == set(params) - set(method.frozen)
        assert grads
        for name, grad in grads.items():
            assert grad.shape == params[name].shape
            assert grad.isfinite().all()


def sizes(method, m, n, layers):
    """What a formula may name beside a method's own hyperparameters."""
    known = {"m": m, "n": n, "r": getattr(method, "rank", 0), "L": layers}
    if isinstance(method, LoKr):
        known |= zip("abcd", (*split(m, method.factor), *split(n, method.factor)), strict=True)
    if isinstance(method, OP):
        known["over_size"] = counted(method.inner.size, method.inner, **sizes(method.inner, m, n, layers))
    return known


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("shape", [*SHAPES, (5, 4), (4, 5)])
@pytest.mark.parametrize("name", COUNTED)
def test_the_size_counts_what_trains_for_one_weight_and_for_a_stack(name, shape, rank):
    method = replace(CONFIGS[name], **({"rank": rank} if hasattr(CONFIGS[name], "rank") else {}))
    together = "layers" in method.needs and "L" in method.size
    for layers, lead in ((1, ()), (LAYERS, (LAYERS,))):
        base, target = gaussian(*lead, *shape, seed=77), gaussian(*lead, *shape, seed=99)
        options = {"base": base, "gradient": lambda weight, target=target: weight - target}
        params = Parameterization.init(method, shape, generator=seeded(), layers=layers if lead else None, **options)
        trained = sum(tensor.numel() for key, tensor in params.items() if key not in method.frozen)
        assert trained == counted(method.size, method, **sizes(method, *shape, layers)) * (1 if together else layers)


@every_method
def test_the_first_gradient_moves_something(method):
    params = start(method, (9, 5))
    grads = gradients(method, params, half_squared(gaussian(*stack(method), 9, 5, seed=8)))
    assert any(grad.abs().max() > 0 for grad in grads.values())


@every_method
def test_the_frozen_and_the_rated_tensors_exist(method):
    params = start(method, (9, 5), base=gaussian(*stack(method), 9, 5))
    assert set(method.frozen) <= set(params)
    assert set(method.rates) <= set(params) - set(method.frozen)
    assert all(rate > 0 for rate in method.rates.values())


@every_shape
@every_method
def test_the_update_reaches_the_rank_it_may_and_no_more(method, shape):
    base = gaussian(*stack(method), *shape, seed=3)
    weight = method.weight(anywhere(method, start(method, shape, base=base)))
    ranks = numerical_rank(torch.linalg.svdvals(learned(weight, base)), shape, torch.float64)
    reach = method.reach(shape)
    assert 1 <= reach <= min(shape)
    assert (ranks <= reach).all() if method.merges else (ranks == reach).all()


@every_shape
@every_method
def test_the_export_is_a_lora_pair_of_the_update(method, shape):
    base = gaussian(*stack(method), *shape)
    params = anywhere(method, start(method, shape, base=base))
    if method.merges:
        with pytest.raises(InputError, match=r"merges.*interval=0"):
            method.export(params)
        return
    a, b = method.export(params)
    assert a.shape == (*stack(method), method.reach(shape), shape[1])
    assert b.shape == (*stack(method), shape[0], method.reach(shape))
    torch.testing.assert_close(b @ a, learned(method.weight(params), base))
    if torch.equal(params["base"], base):
        assert torch.equal(b @ a, method.weight(params).update())
        torch.testing.assert_close(b @ a, method.scaling * reduce(torch.matmul, method.factors(params)))


@every_method
def test_after_step_leaves_alone_what_does_not_merge(method):
    if method.merges:
        pytest.skip("it merges: test_flora.py")
    params = anywhere(method, start(method, (9, 5)))
    before = {name: tensor.clone() for name, tensor in params.items()}
    for step in range(4):
        method.after_step(params, {}, {}, Step(step, generators=[seeded()]))
    assert all(torch.equal(params[name], before[name]) for name in before)


RANKED = [cls for cls in CLASSES if "rank" in {field.name for field in fields(cls)}]


@pytest.mark.parametrize("rank", [0, -2, "4", 2.5, None, True])
@pytest.mark.parametrize("cls", RANKED)
def test_what_is_no_positive_integer_is_refused_as_a_rank(cls, rank):
    with pytest.raises(InputError, match=r"^rank="):
        cls(rank=rank)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (4, 4)])
@pytest.mark.parametrize("cls", RANKED)
def test_a_rank_above_the_smaller_side_is_refused(cls, shape):
    start(small(cls, rank=4), shape)
    with pytest.raises(InputError, match=r"^rank=6: must be at most 4"):
        start(small(cls, rank=6), shape)


@pytest.mark.parametrize("shape", [(0, 3), (3, -1), (3,), (2, 3, 4)])
@every_method
def test_what_is_no_shape_is_refused(method, shape):
    with pytest.raises(InputError, match=r"^shape="):
        Parameterization.init(method, shape, gradient=lambda weight: weight, base=torch.zeros(3, 3))


@every_method
def test_a_configuration_is_a_value(method):
    assert hash(method) == hash(replace(method))
    assert method == replace(method)
    assert type(method).__name__ in repr(method)
    assert eval(repr(method), {cls.__name__: cls for cls in CLASSES}) == method
    assert type(method)(**asdict(method)) == method
    with pytest.raises(AttributeError):
        method.rank = 3


def copies(method):
    return {
        "replace": replace(method),
        "copy": copy.copy(method),
        "deepcopy": copy.deepcopy(method),
        "pickle": pickle.loads(pickle.dumps(method)),
        "asdict": type(method)(**asdict(method)),
    }


@pytest.mark.parametrize("way", ["replace", "copy", "deepcopy", "pickle", "asdict"])
@every_method
def test_a_copy_draws_what_the_original_draws(method, way):
    twin = copies(method)[way]
    assert twin == method
    assert hash(twin) == hash(method)
    target = gaussian(9, 5, seed=99)
    base = gaussian(9, 5, seed=77) if "base" in method.needs else None
    drawn, original = (
        which.init((9, 5), generator=seeded(), dtype=torch.float64, base=base, gradient=lambda weight: weight - target)
        for which in (twin, method)
    )
    assert all(torch.equal(drawn[name], original[name]) for name in original)


@pytest.mark.parametrize("way", ["replace", "copy", "deepcopy", "pickle", "asdict"])
def test_loras_init_stays_both_the_name_of_a_law_and_the_draw(way):
    lora = copies(LoRA(rank=3, init="gaussian"))[way]
    assert lora.init == "gaussian"
    assert isinstance(lora.init, str)
    params = lora.init((5, 4), generator=seeded())
    assert params["left"].shape == (5, 3)
    assert params["right"].shape == (3, 4)


def test_replacing_loras_rank_draws_with_the_new_rank():
    wider = replace(LoRA(rank=2), rank=3)
    assert wider.init((5, 4))["right"].shape == (3, 4)
    orthogonal = replace(wider, init="orthogonal")
    right = orthogonal.init((5, 4), dtype=torch.float64)["right"]
    torch.testing.assert_close(right @ right.mT, torch.eye(3).double())


def test_a_configuration_of_lora_as_a_dictionary_is_plain():
    assert type(asdict(LoRA(init="orthogonal"))["init"]) is str


def test_a_method_that_lacks_its_formulas_says_which():
    with pytest.raises(NotImplementedError, match=r"Parameterization must define initial\(\)"):
        Parameterization().init((3, 3))
    with pytest.raises(NotImplementedError, match=r"Parameterization must define factors\(\)"):
        Parameterization().weight({})


def test_draws_for_a_block_come_one_from_each_generator():
    like = torch.zeros(2, 1, 3, 4)
    drawn = Step(generators=[seeded(1), seeded(2)]).gaussian_like(like)
    assert drawn.shape == like.shape
    assert drawn.dtype == like.dtype
    for lane, seed in ((0, 1), (1, 2)):
        assert torch.equal(drawn[lane, 0], gaussian(3, 4, seed=seed).float())
    with pytest.raises(InputError, match="1 given, but 2 matrices"):
        Step(generators=[seeded()]).gaussian_like(like)
