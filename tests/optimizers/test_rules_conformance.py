"""Every module of the folder passes these by being there, through the engine's blocks of lanes."""

import copy
import math
import pickle
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from catalogue import counted, members

import optimizers
from bench.engine import Block, Settings
from optimizers import Optimizer
from parameterizations import SVD, Full, LoRA, LoRAFA
from problems import LinearRegression, MatrixFactorization, Stack

RULES = members(optimizers, Optimizer)
RANK = {"rank": 2}  # the one size that a rule may have; all else is as shipped
CONFIGS = {name: cls(**(RANK if "rank" in cls.__dataclass_fields__ else {})) for name, found in RULES.items() for cls in found}
CLASSES = {cls.__name__: cls for found in RULES.values() for cls in found}
COMPANIONS = (LoRA(2), Full(), SVD(2), LoRAFA(2))
SEEDS = (3, 8)
REGAUGES = {"als", "geolora"}  # at rate zero they change the factors, but not their product
TAKES_NO_RATE = {"svd_oracle"}
WELL_DEFINED = {"soap": {"one_sided": True}}  # else it turns a kernel, whose basis hangs on the rounding of the gradient
OPTIONS = {
    "flora of sums": ("flora", {"accumulation": 2}),
    "flora without a past": ("flora", {"beta1": 0.0}),
    "geolora with adam": ("geolora", {"core_rule": "adam"}),
    "geolora with no steps on the core": ("geolora", {"core_rule": "adam", "coefficient_steps": 0}),
    "lbfgs of three pairs": ("lbfgs", {"history_size": 3, "line_search": "none"}),
    "lora_pro by gradient descent": ("lora_pro", {"rule": "sgd"}),
    "lorsum with momentum": ("lorsum", {"momentum": 0.9}),
    "momentum of nothing": ("momentum", {"momentum": 0.0}),
    "riemannian_gd with momentum": ("riemannian_gd", {"momentum": 0.9}),
    "rmsprop with momentum": ("rmsprop", {"momentum": 0.9}),
    "scaled_gd with momentum": ("scaled_gd", {"momentum": 0.9}),
    "sgd with momentum": ("sgd", {"momentum": 0.9}),
    "shampoo with roots for three steps": ("shampoo", {"interval": 3}),
    "soap of one side": ("soap", {"one_sided": True}),
}
VARIANTS = CONFIGS | {name: replace(CONFIGS[module], **options) for name, (module, options) in OPTIONS.items()}
every_rule = pytest.mark.parametrize("name", CONFIGS)
every_shape = pytest.mark.parametrize("shape", [(9, 6), (6, 9)])


def companion(rule):
    """The first parameterization that the rule supports."""
    return next(method for method in COMPANIONS if rule.supports(method) is None)


def problem_for(rule, shape):
    """A problem that provides what the rule needs."""
    if "layers" in rule.needs:
        return Stack(shape=shape, ranks=(2, 1))
    return LinearRegression(shape=shape, rank=2) if "base" in rule.needs else MatrixFactorization(shape, "low_rank", rank=2)


def rates_of(rule):
    """Three rates from the lower half of the rule's own range."""
    return np.geomspace(*rule.span, 5)[:3].tolist()


def start(name, rates=None, seeds=SEEDS, shape=(9, 6), dtype=torch.float64, problem=None, steps=12, rule=None, method=None):
    rule = rule or CONFIGS[name]
    problem = problem or problem_for(rule, shape)
    instances = [problem.draw(seed, dtype=dtype) for seed in seeds]
    settings = Settings(steps, dtype=dtype, probes="none")
    block = Block(instances, method or companion(rule), rule, seeds, rates_of(rule) if rates is None else rates, settings)
    block.taken = 0
    return block


def walked(block, steps=12):
    """The block after so many steps."""
    while block.taken < steps:
        block.find_gradients(block.taken)
        block.step()
        block.taken += 1
    return block


def values(block):
    return {name: tensor.detach().clone() for name, tensor in block.trainable.items()}


@pytest.mark.parametrize("module", RULES)
def test_a_module_holds_one_frozen_dataclass_with_a_formula_and_a_reference(module):
    assert len(RULES[module]) == 1
    (cls,) = RULES[module]
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert isinstance(cls.reference, str)
    assert cls.reference
    assert cls.__dict__["__doc__"].split("\n")[0].strip()
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # what a dataclass writes itself
    assert "lr" not in {field.name for field in fields(cls)}
    assert 0 < cls.span[0] < cls.span[1]
    assert set(cls.needs) <= {"quadratic", "target", "layers", "base"}
    assert cls.__name__ in optimizers.__all__


@every_rule
def test_a_configuration_is_a_value(name):
    rule = CONFIGS[name]
    for twin in (replace(rule), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule)), eval(repr(rule), dict(CLASSES))):
        assert twin == rule
        assert hash(twin) == hash(rule)
    with pytest.raises(AttributeError):
        rule.span = (0.1, 1.0)


@every_rule
def test_a_rule_supports_one_of_the_plain_parameterizations_or_says_why_not(name):
    reasons = [CONFIGS[name].supports(method) for method in COMPANIONS]
    assert None in reasons
    assert all(reason is None or (isinstance(reason, str) and reason) for reason in reasons)


@every_rule
def test_a_seed_decides_the_run(name):
    first, again, other = (values(walked(start(name, seeds=seeds), 5)) for seeds in ((3,), (3,), (8,)))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_rule
def test_a_block_of_lanes_equals_each_lane_alone(name):
    rule = replace(CONFIGS[name], **WELL_DEFINED.get(name, {}))
    together = values(walked(start(name, rule=rule)))
    for s, seed in enumerate(SEEDS):
        for k, rate in enumerate(rates_of(rule)):
            alone = values(walked(start(name, [rate], [seed], rule=rule)))
            for key, tensor in alone.items():
                torch.testing.assert_close(together[key][s, k], tensor[0, 0], rtol=1e-7, atol=1e-9)


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_rule
def test_shapes_of_both_kinds_run_in_both_precisions(name, dtype, shape):
    block = start(name, shape=shape, dtype=dtype)
    before = values(block)
    after = values(walked(block))
    assert all(tensor.dtype == dtype and tensor.isfinite().all() for tensor in after.values())
    moved = torch.stack([(after[key] - before[key]).abs().flatten(2).amax(-1) for key in after]).amax(0)
    assert (moved > 0).all()


@every_shape
@every_rule
def test_a_stack_of_layers_runs(name, shape):
    rule = CONFIGS[name]
    block = start(name, problem=Stack(shape=shape, ranks=(2, 1, 2)))
    first = block.instance.measure(block.weight())["loss"]
    last = walked(block).instance.measure(block.weight())["loss"]
    assert all(tensor.shape[:3] == (2, 3, 3) for tensor in block.trainable.values())
    assert last.isfinite().all()
    assert (last != first).all(), f"{rule} left a stack where it was"


def assert_others_walk_on(name, spoiled, kept=(0, 2)):
    whole = values(walked(start(name)))
    for key, tensor in values(walked(spoiled)).items():
        for lane in kept:
            torch.testing.assert_close(tensor[:, lane], whole[key][:, lane], rtol=1e-7, atol=1e-9)


@every_rule
def test_a_lane_that_explodes_leaves_the_others_alone(name):
    rates = rates_of(CONFIGS[name])
    assert_others_walk_on(name, start(name, [rates[0], 1e30, rates[2]]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@every_rule
def test_a_lane_that_is_not_finite_leaves_the_others_alone(name, value):
    block = walked(start(name), 4)
    for tensor in block.trainable.values():
        tensor[:, 1] = value
    assert_others_walk_on(name, block)


def held(thing, found):
    """Every tensor within a rule's state."""
    if isinstance(thing, torch.Tensor):
        found.append(thing)
    elif isinstance(thing, torch.optim.Optimizer):
        held(list(thing.state.values()), found)
    elif isinstance(thing, dict):
        held(list(thing.values()), found)
    elif isinstance(thing, (list, tuple)):
        for each in thing:
            held(each, found)
    return found


@every_rule
def test_the_state_takes_the_bytes_that_it_says(name):
    block, lane = walked(start(name), 4), walked(start(name, [CONFIGS[name].span[0]], SEEDS[:1]), 4)
    beside = {"counts", "_scratch", "rates", "scale", "restarted", "lanes"}  # `lanes` are the parameters of wrapped optimizers
    kept = [dict(block.state), {key: value for key, value in vars(block.state).items() if key not in beside}]
    own = {tensor.data_ptr() for tensor in [*block.params.values(), *block.grads.values()]}
    tensors = {id(tensor): tensor for tensor in held(kept, []) if tensor.data_ptr() not in own or not tensor.numel()}
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    rule = CONFIGS[name]
    assert rule.state_bytes(block.state) == taken
    wrapped = name == "torch"  # the steps that its optimizers count come one a tensor and lane, too
    assert wrapped or rule.state_bytes(block.state) == 6 * rule.state_bytes(lane.state)
    again = rule.state_bytes(walked(block, 8).state)
    assert again == taken, "a state that grows is allocated at the start"


def test_every_rule_but_that_of_another_library_has_a_formula_for_its_state():
    assert [name for name, rule in CONFIGS.items() if not rule.memory] == ["torch"]


@pytest.mark.parametrize("rank", [2, 4, 6])
@every_shape
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "torch"])
def test_the_memory_counts_what_is_kept_for_a_matrix_or_a_pair(name, shape, rank):
    rule = VARIANTS[name]
    if hasattr(rule, "rank"):  # of a projection, which may reach the smaller side and pass it
        rule = replace(rule, rank=3 * rank // 2)
    method = next(method for method in (Full(), LoRA(rank), SVD(rank), LoRAFA(rank)) if rule.supports(method) is None)
    block = walked(start(name, [rule.span[0]], SEEDS[:1], shape, rule=rule, method=method), 4)
    kept = counted(rule.memory, rule, m=shape[0], n=shape[1], r=rank)
    assert rule.state_bytes(block.state) == 8 * kept  # float64, and the seed of a projection, one a lane here, is an int64


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in TAKES_NO_RATE])
def test_at_rate_zero_nothing_moves(name):
    block = start(name, [0.0])
    before, weight = values(block), block.weight().dense().clone()
    walked(block, 5)
    torch.testing.assert_close(block.weight().dense(), weight, rtol=1e-12, atol=1e-12)
    if name not in REGAUGES:
        for key, tensor in values(block).items():
            torch.testing.assert_close(tensor, before[key], rtol=1e-12, atol=1e-12)


@every_rule
def test_a_rule_reaches_a_matrix_of_low_rank_at_its_best_rate(name):
    rule, steps = CONFIGS[name], 400
    problem = problem_for(rule, (12, 10))
    block = start(name, np.geomspace(*rule.span, 9).tolist(), seeds=(0,), problem=problem, dtype=torch.float32, steps=steps)
    floor = 0.0
    if companion(rule) == LoRAFA(2):  # a frozen factor reaches the best weight with its row space alone
        basis = torch.linalg.qr(block.params["right"][0, 0].double().mT).Q
        target = block.instance.truth[0, 0].double()
        floor = float((target - target @ basis @ basis.mT).norm() / target.norm())
    lowest = math.inf
    for step in range(0, steps + 1, 20):
        errors = block.instance.measure(walked(block, step).weight())["relative_error"]
        lowest = min(lowest, float(errors.nan_to_num(math.inf).min()) - floor)
        if lowest < 0.05:
            break
    assert lowest < 0.05
