"""Every module of the folder passes these by being there, with every choice that its options have."""

import contextlib
import copy
import json
import math
import pickle
import random
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
import scipy.io
import torch
from by_hand import gaussian, gradients, seeded
from catalogue import drawn, matrix_problems, small

import problems
from bench.catalogue import NEEDS
from bench.engine import Block, Settings
from bench.lanes import Lanes
from bench.runs import run
from linalg import FactoredMatrix, InputError, Program
from optimizers import SGD, Adam
from parameterizations import Flora, Full, LoRA, Step

FOUND = matrix_problems()
CLASSES = {name: found[0] for name, found in FOUND.items()}
SIZES = {"rotated_digits": {"test": 0.9, "validation": 0.05}}
SHAPES = {"wide": (9, 12), "of one row": (1, 7), "of one column": (7, 1)}
VARIANTS = {
    "continual of one task": ("continual", {"tasks": 1}),
    "continual of more tasks than inputs": ("continual", {"tasks": 8, "shape": (12, 5), "clusters": 2}),
    "continual of few samples": ("continual", {"samples": 4, "separation": 0.0}),
    "federated of one client": ("federated", {"clients": 1}),
    "federated of many samples": ("federated", {"samples": 30, "share": "nothing"}),
    "gene_expression of all genes of few samples": ("gene_expression", {"shape": (5, 0)}),
    "ill_conditioned of rank 1": ("ill_conditioned", {"rank": 1}),
    "ill_conditioned, close to singular": ("ill_conditioned", {"rank": 4, "condition": 1e8}),
    "inpainting of few pixels": ("inpainting", {"shape": (40, 30), "observed": 0.05}),
    "linear_regression with noise": ("linear_regression", {"noise": 0.3, "condition": 1.0}),
    "linear_regression of few samples": ("linear_regression", {"samples": 5, "noise": 0.3}),
    "linear_regression of batches": ("linear_regression", {"batch_size": 5, "noise": 0.3, "reduction": "mean"}),
    "matrix_completion with noise": ("matrix_completion", {"noise": 0.1, "rank": 1}),
    "matrix_completion of few entries": ("matrix_completion", {"shape": (30, 24), "observed": 0.04, "validation": 0.5}),
    "matrix_completion of few entries, scaled": (
        "matrix_completion",
        {"shape": (24, 30), "observed": 0.04, "validation": 0.5, "noise": 0.1, "reduction": "relative"},
    ),
    "matrix_factorization of rank 1": ("matrix_factorization", {"kind": "low_rank", "rank": 1}),
    "matrix_factorization, rank deficient": ("matrix_factorization", {"kind": "low_rank", "rank": 3, "spectrum": (5.0, 0.1, 0.0)}),
    "matrix_file, wide and of integers": ("matrix_file", {"path": "wide.mtx"}),
    "matrix_sensing with noise": ("matrix_sensing", {"noise": 0.2, "condition": 5.0}),
    "matrix_sensing of fewer measurements than entries": ("matrix_sensing", {"samples": 60, "noise": 0.2, "sensing": "rank_one"}),
    "phase_retrieval with noise": ("phase_retrieval", {"noise": 0.1, "condition": 3.0, "samples": 30}),
    "phase_retrieval of noisy intensities": ("phase_retrieval", {"noise": 0.1, "loss": "intensity", "samples": 30}),
    "robust_factorization without errors": ("robust_factorization", {"outliers": 0.0}),
    "robust_factorization with noise": ("robust_factorization", {"noise": 0.3, "delta": 0.7, "loss": "smoothed_l1"}),
    "rotated_digits of batches in turn": ("rotated_digits", {"batch_size": 7, "setting": "continual"}),
    "stack of one layer": ("stack", {"ranks": (2,)}),
}
SEEDS, RATES, STEPS = (3, 8), 3, 12


def options(cls):
    """The default of every option."""
    return {field.name: field.default for field in fields(cls) if field.default is not MISSING}


def choices(cls, option):
    """What an option may be, by its own account where it refuses something; nothing where that is no list."""
    try:
        small(cls, **{option: "nothing of the kind"})
    except InputError as refused:
        _, listed, rest = str(refused).partition("must be one of ")
        return rest.split(", ") if listed else []
    return []


def configurations():
    """Every problem at a small size, with every choice of its options, wide, and of one row or column where it can be."""
    for name, cls in CLASSES.items():
        build = partial(small, cls, **SIZES.get(name, {}))
        yield name, build()
        for option, default in options(cls).items():
            for choice in choices(cls, option) if isinstance(default, str) else ():
                if choice != default:
                    yield f"{name}, {option} {choice}", build(**{option: choice})
        for kind, shape in SHAPES.items() if "shape" in options(cls) else ():
            with contextlib.suppress(InputError):
                yield f"{name}, {kind}", build(shape=shape, rank=min(2, *shape), ranks=(1, min(3, *shape), 0))
    for name, (module, own) in VARIANTS.items():
        yield name, small(CLASSES[module], **SIZES.get(module, {}) | own)


CONFIGS = dict(configurations())
every_problem = pytest.mark.parametrize("problem", CONFIGS.values(), ids=CONFIGS)
every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    """Where the matrices of `matrix_file` are."""
    path = tmp_path_factory.mktemp("matrices")
    np.save(path / "matrix.npy", gaussian(12, 9).numpy())
    scipy.io.mmwrite(path / "wide.mtx", np.arange(36).reshape(4, 9) % 7)
    with contextlib.chdir(path):
        yield path


@cache
def alone(problem, seed=SEEDS[0]):
    return drawn(problem, seed)


@cache
def together(problem, seeds=SEEDS):
    instances = [alone(problem, seed) for seed in seeds]
    return type(instances[0]).stack(instances)


def noiseless(problem):
    return not (getattr(problem, "noise", 0) or getattr(problem, "outliers", 0))


def seeds_matter(problem):
    return "in how the factors start" not in type(problem).__doc__


def layers_of(instance):
    """The dimension of the layers, where there is one."""
    return () if instance.layers is None else (instance.layers,)


def pair_of(instance, *lanes, seed=0, rank=2):
    (m, n), lanes = instance.shape, (*lanes, *layers_of(instance))
    return gaussian(*lanes, m, rank, seed=seed) / m**0.5, gaussian(*lanes, rank, n, seed=seed + 1) / n**0.5


def update_of(instance, *lanes, seed=0):
    m, n = instance.shape
    return (gaussian(*lanes, *layers_of(instance), m, n, seed=seed) / (m * n) ** 0.25,)


KINDS = {"pair": pair_of, "update": update_of}


def bases_of(instance, *lanes):
    """No base, the instance's, and one of every lane's own, as merging makes it."""
    yield None
    if instance.base is not None:
        yield instance.base
    yield update_of(instance, *lanes, seed=77)[0]


def batches_of(instance, seeds=SEEDS):
    """Everything, and what the first and the last step of a run see where that is less."""
    yield None
    for step in (0, STEPS - 1):
        batch = instance.batch(Step(step, STEPS, generators=[seeded(seed) for seed in seeds]))
        if batch is not None:
            yield batch


def at_start(instance):
    """No update."""
    return FactoredMatrix((torch.zeros(*layers_of(instance), *instance.shape, dtype=torch.float64),), instance.base)


def tensors(instance):
    return {
        field.name: getattr(instance, field.name) for field in fields(instance) if torch.is_tensor(getattr(instance, field.name))
    }


def assert_close(found, expected, rtol=1e-8):
    """Equal to so many digits of the largest entry."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()), equal_nan=True)


def assert_same(first, second):
    """Bit by bit."""
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert torch.equal(one, other) if torch.is_tensor(one) else one == other, field.name


# Configurations


@pytest.mark.parametrize("module", FOUND)
def test_a_module_holds_one_frozen_dataclass_with_a_docstring_and_a_reference(module):
    assert len(FOUND[module]) == 1
    (cls,) = FOUND[module]
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert isinstance(cls.reference, str)
    assert cls.reference
    assert cls.__dict__["__doc__"].split("\n")[0].strip()
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # what a dataclass writes itself
    assert cls.__name__ in problems.__all__
    assert getattr(problems, cls.__name__) is cls
    assert cls.dtype in (torch.float32, torch.float64)


@every_problem
def test_a_configuration_is_a_value(problem):
    names = {cls.__name__: cls for cls in CLASSES.values()}
    twins = [replace(problem), copy.copy(problem), copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))]
    plain = json.loads(json.dumps(asdict(problem)))  # has lists for tuples
    for twin in (*twins, eval(repr(problem), names), type(problem)(**asdict(problem)), type(problem)(**plain)):
        assert twin == problem
        assert hash(twin) == hash(problem)
    with pytest.raises(AttributeError):
        problem.reference = "none"
    for name in asdict(problem):
        with pytest.raises(AttributeError):
            setattr(problem, name, None)


BAD = {
    bool: (None, "yes"),
    int: (-1, 2.5, "4", None, True),
    float: (-1.0, math.nan, math.inf, "4", None, True),
    str: ("nothing of the kind", 3, None),
    tuple: (3, "ab", None, (), ("a", "b"), (-1, -1), (math.nan, 2), [[1], [2]]),
}


@every_class
def test_a_bad_option_is_refused_in_one_line_that_names_it(cls):
    for option, default in options(cls).items():
        for value in BAD.get(type(default), ()):
            with pytest.raises(InputError) as refused:
                cls(**{option: value})
            assert str(refused.value).startswith(f"{option}="), (option, value)
            assert "must be" in str(refused.value)
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "3", None, True])
@every_class
def test_what_is_no_seed_is_refused(cls, seed):
    with pytest.raises(InputError, match=r"^seed="):
        cls().draw(seed)


# Draws


@every_problem
def test_a_seed_decides_the_instance_and_another_seed_another_one(problem):
    first, again, other = drawn(problem, 3), drawn(problem, 3), drawn(problem, 4)
    assert_same(first, again)
    same = [torch.equal(value, tensors(other)[name]) for name, value in tensors(first).items()]
    assert all(same) == (not seeds_matter(problem))
    if first.truth is not None:
        assert torch.equal(first.truth, other.truth) == (not seeds_matter(problem))


@every_problem
def test_a_draw_depends_on_no_other_draw(problem):
    first = drawn(problem, 3)
    kept = copy.deepcopy(first)
    for tensor in tensors(first).values():  # what is done to one instance is not seen in the next
        tensor.zero_()
    drawn(problem, 5)
    assert_same(drawn(problem, 3), kept)
    stacked = type(kept).stack([drawn(problem, 5), drawn(problem, 3)])
    for name, tensor in tensors(stacked).items():
        assert tensor.shape[:2] == (2, 1)
        assert torch.equal(tensor[1, 0], getattr(kept, name))


@every_problem
def test_a_seed_means_the_same_numbers_in_every_precision(problem):
    double, single = drawn(problem, 3), drawn(problem, 3, torch.float32)
    for name, value in tensors(double).items():
        expected = value.float() if value.is_floating_point() else value
        assert tensors(single)[name].dtype == expected.dtype
        assert torch.equal(tensors(single)[name], expected)
    default = {value.dtype for value in tensors(drawn(problem, 3, None)).values() if value.is_floating_point()}
    assert default == {problem.dtype}


@every_problem
def test_a_draw_leaves_the_global_random_numbers_alone(problem):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    drawn(problem, 6)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@every_problem
def test_the_fingerprint_is_a_word_that_equal_problems_share(problem):
    alone(problem)
    assert isinstance(problem.fingerprint(), str)
    assert problem.fingerprint() == replace(problem).fingerprint()


# What an instance says about itself


@every_problem
def test_base_truth_and_spectrum_have_the_shapes_and_types_stated(problem):
    for dtype in (torch.float64, torch.float32):
        instances = [drawn(problem, seed, dtype) for seed in SEEDS]
        for instance, lead in ((instances[0], ()), (type(instances[0]).stack(instances), (len(SEEDS), 1))):
            m, n = instance.shape
            asked = getattr(problem, "shape", instance.shape)
            assert all(side == wanted for side, wanted in zip((m, n), asked, strict=True) if wanted)
            for matrix in (instance.base, instance.truth):
                if matrix is not None:
                    assert matrix.shape == (*lead, *layers_of(instance), m, n)
                    assert matrix.dtype == dtype
            if instance.truth is None:
                assert instance.spectrum is None
                continue
            values = instance.spectrum
            assert values.shape == (*lead, min(m, n) * (instance.layers or 1))
            assert values.dtype == torch.float64
            expected = np.linalg.svd(instance.truth.double().numpy(), compute_uv=False)
            expected = -np.sort(-expected.reshape(*lead, -1), axis=-1)
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12 * expected.max())
            u, s, vt = instance.truth_svd
            assert_close((u * s[..., None, :]) @ vt, instance.truth.double(), rtol=1e-10)


@every_problem
def test_measures_are_one_value_a_lane_and_never_pick_the_rate_by_a_test(problem):
    instance = together(problem)
    measures = instance.measure(FactoredMatrix(update_of(instance, len(SEEDS), RATES)))
    assert {"loss", instance.selection, instance.headline} <= set(measures)
    assert "test" not in instance.selection
    for name, value in measures.items():
        assert value.shape == (len(SEEDS), RATES), name
        assert value.isfinite().all()
        assert (value >= 0).all()


@every_problem
def test_a_problem_provides_what_it_says(problem):
    instance, provides = alone(problem), problem.provides
    assert set(provides) <= set(NEEDS)
    assert ("base" in provides) == (instance.base is not None)
    assert ("layers" in provides) == (instance.layers is not None)
    assert ("clients" in provides) == ("client_loss" in instance.measure(at_start(instance)))
    if "clients" in provides:
        assert "layers" in provides
    if "tasks" in provides:
        order = [instance.active(step, STEPS) for step in range(STEPS)]
        assert order == sorted(order)
        assert set(order) == set(range(instance.tasks))
        losses = torch.stack([instance.loss(at_start(instance), batch) for batch in list(batches_of(instance, SEEDS[:1]))[1:]])
        assert (losses[0] != losses[1]) == (instance.tasks > 1 or bool(getattr(problem, "batch_size", 0)))
    else:
        assert getattr(instance, "tasks", 1) == 1
        first, last = (instance.batch(Step(step, STEPS, generators=[seeded()])) for step in (0, STEPS - 1))
        assert first is last is None or torch.equal(first, last)


@every_problem
def test_a_loss_is_said_to_be_quadratic_where_it_is(problem):
    instance = alone(problem)
    (start,), (direction,) = update_of(instance, 4, seed=1), update_of(instance, 4, seed=2)
    values = torch.stack([instance.loss(FactoredMatrix((start + t * direction,), instance.base)) for t in (-2.0, -1, 0, 1, 2)])
    second = values.diff(n=2, dim=0)
    constant = (second - second[0]).abs().amax() < 1e-10 * values.max()
    if "tasks" not in problem.provides:  # there a step sees one task's loss
        assert ("quadratic" in problem.provides) == constant


@every_problem
def test_a_loss_is_said_to_be_the_distance_to_a_target_where_it_is(problem):
    instance = alone(problem)
    if instance.truth is None:
        assert "target" not in problem.provides
        return
    directions = torch.cat([update_of(instance, 4, seed=1)[0], pair_of(instance, 4, rank=1)[0] @ pair_of(instance, 4, rank=1)[1]])
    losses = instance.loss(FactoredMatrix((instance.truth + directions,), instance.base))
    ratio = losses / directions.flatten(1).square().sum(-1)
    constant = (ratio - ratio[0]).abs().amax() < 1e-10 * ratio[0]
    if "target" in problem.provides or min(instance.shape) > 1:  # inputs of one dimension stretch all alike
        assert ("target" in problem.provides) == constant


# The loss


@every_problem
def test_the_loss_of_everything_is_what_it_measures(problem):
    instance = together(problem)
    for make in KINDS.values():
        for base in bases_of(instance, len(SEEDS), RATES):
            weight = FactoredMatrix(make(instance, len(SEEDS), RATES), base, 0.3)
            assert_close(instance.measure(weight)["loss"], instance.loss(weight))


@every_problem
def test_a_loss_is_that_of_the_matrix_however_it_is_factored(problem):
    instance = together(problem)
    for base in bases_of(instance, len(SEEDS), RATES):
        for batch in batches_of(instance):
            left, right = pair_of(instance, len(SEEDS), RATES)
            expected = instance.loss(FactoredMatrix((0.3 * left @ right + (0 if base is None else base),)), batch)
            assert_close(instance.loss(FactoredMatrix((left, right), base, 0.3), batch), expected)
            half = torch.diag_embed(torch.full(left.shape[-1:], 0.5, dtype=torch.float64))
            assert_close(instance.loss(FactoredMatrix((left, half, 2 * right), base, 0.3), batch), expected)


@every_problem
def test_a_stack_of_seeds_is_each_alone(problem):
    stacked = together(problem)
    batches = list(batches_of(stacked))
    for make in KINDS.values():
        parts = make(stacked, len(SEEDS), RATES)
        block = FactoredMatrix(parts, stacked.base)
        for i, batch in enumerate(batches):
            losses, grads = stacked.loss(block, batch), stacked.gradient(block, batch)
            measures = stacked.measure(block) if batch is None else {}
            for s, seed in enumerate(SEEDS):
                instance = alone(problem, seed)
                own = list(batches_of(instance, [seed]))[i]
                assert batch is None or torch.equal(own, batch[s, 0])
                rates = FactoredMatrix(tuple(part[s] for part in parts), instance.base)  # the rates of a seed on its own
                assert_close(instance.loss(rates, own), losses[s])
                for k in range(RATES):
                    lane = FactoredMatrix(tuple(part[s, k] for part in parts), instance.base)
                    assert_close(instance.loss(lane, own), losses[s, k])
                    for found, gradient in zip(instance.gradient(lane, own), grads, strict=True):
                        assert_close(found, gradient[s, k])
                    for name, value in instance.measure(lane).items() if batch is None else ():
                        assert_close(measures[name][s, k], value)


@every_problem
def test_a_batch_is_the_same_for_the_same_generator_and_everything_where_none_is_asked_for(problem):
    instance = together(problem)
    for first, again in zip(batches_of(instance), batches_of(instance), strict=True):
        assert first is again is None or torch.equal(first, again)
    whole = instance.batch(Step(0, STEPS, generators=[seeded(seed) for seed in SEEDS])) is None
    assert whole == (not getattr(problem, "batch_size", 0) and "tasks" not in problem.provides)


@every_problem
def test_reductions_scale_one_loss_and_relative_is_to_no_update(problem):
    if not hasattr(problem, "reduction"):
        pytest.skip("has one loss")
    instances = [alone(replace(problem, reduction=reduction)) for reduction in ("sum", "mean", "relative")]
    weights = [at_start(instances[0]), FactoredMatrix(update_of(instances[0]), instances[0].base)]
    start, other = (torch.stack([instance.loss(weight) for instance in instances]) for weight in weights)
    assert_close(other / start, (other / start)[:1].expand(3))
    assert float(start[2]) == pytest.approx(1, rel=1e-10)


# Gradients


def assert_gradients_agree(instance, parts, base, wanted, batch):
    """Of the parts, against autograd through the loss."""
    leaves = [part.clone().requires_grad_(want) for part, want in zip(parts, wanted, strict=True)]
    loss = instance.loss(FactoredMatrix(tuple(leaves), base), batch).sum()
    expected = iter(torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad]))
    found = instance.part_gradients(parts, base, wanted, batch)
    assert len(found) == len(parts)
    for gradient, want in zip(found, wanted, strict=True):
        if want:
            assert not gradient.requires_grad
            assert_close(gradient, next(expected))
        else:
            assert gradient is None


SUBSETS = {"pair": [(True, True), (True, False), (False, True)], "update": [(True,)]}


@every_problem
def test_gradients_are_those_of_autograd(problem):
    for instance, lanes, seeds in ((alone(problem), (), SEEDS[:1]), (together(problem), (len(SEEDS), RATES), SEEDS)):
        for kind, make in KINDS.items():
            for base in bases_of(instance, *lanes):
                for batch in batches_of(instance, seeds):
                    for wanted in SUBSETS[kind]:
                        parts = make(instance, *lanes)
                        assert_gradients_agree(instance, parts, base, wanted, batch)
                        if lanes and not all(wanted):  # what no rate changes is there once a seed
                            shared = [part if want else part[:, :1] for part, want in zip(parts, wanted, strict=True)]
                            assert_gradients_agree(instance, tuple(shared), base, wanted, batch)


@every_problem
def test_gradients_are_the_slopes_of_the_loss(problem):
    instance, step = together(problem), 1e-6
    for make in KINDS.values():
        parts, toward = (make(instance, len(SEEDS), RATES, seed=seed) for seed in (1, 4))
        for base in bases_of(instance, len(SEEDS), RATES):
            for batch in batches_of(instance):
                ahead, behind = (
                    instance.loss(FactoredMatrix(tuple(p + s * d for p, d in zip(parts, toward, strict=True)), base), batch)
                    for s in (step, -step)
                )
                grads = instance.part_gradients(parts, base, (True,) * len(parts), batch)
                slopes = sum((grad * d).flatten(2).sum(-1) for grad, d in zip(grads, toward, strict=True))
                rounding = 1e-15 * float(ahead.max()) / step
                torch.testing.assert_close(
                    (ahead - behind) / (2 * step), slopes, rtol=1e-5, atol=1e-5 * float(slopes.abs().max()) + rounding
                )


@every_problem
def test_gradients_follow_other_blocks_and_a_base_that_is_changed_in_place(problem):
    instance = together(problem)
    for rates in (3, 1, 4, 3):
        assert_gradients_agree(instance, pair_of(instance, len(SEEDS), rates), instance.base, (True, True), None)
    base = update_of(instance, len(SEEDS), RATES, seed=77)[0].clone()
    for make in (pair_of, update_of):
        parts = make(instance, len(SEEDS), RATES)
        for _ in range(2):
            assert_gradients_agree(instance, parts, base, (True,) * len(parts), None)
            base.add_(0.5)


@every_problem
def test_a_gradient_is_given_for_what_asks_or_for_all_and_changes_nothing(problem):
    instance = alone(problem)
    before = copy.deepcopy(tensors(instance))
    left, right = pair_of(instance)
    for asks in [(True, True), (True, False), (False, True), (False, False)]:
        factors = left.clone().requires_grad_(asks[0]), right.clone().requires_grad_(asks[1])
        weight = FactoredMatrix(factors, instance.base, 0.3)
        first, again = instance.gradient(weight), instance.gradient(weight)
        given = asks if any(asks) and len(weight.parts) == 2 else (True,) * len(weight.parts)
        assert tuple(grad is not None for grad in first) == given
        leaves = tuple(part.detach().clone().requires_grad_() for part in weight.parts)
        expected = torch.autograd.grad(instance.loss(FactoredMatrix(leaves, instance.base)), leaves)
        for one, other, truth in zip(first, again, expected, strict=True):
            if one is not None:
                assert torch.equal(one, other)
                assert_close(one, truth)
        assert torch.equal(factors[0], left)
        assert torch.equal(factors[1], right)
    for name, tensor in tensors(instance).items():
        assert torch.equal(tensor, before[name])


def laid_out(parts, lanes):
    """Parts, and blank places for their gradients, as a block has them in memory."""
    layout = Lanes({str(i): part[0, 0] for i, part in enumerate(parts)}, lanes)
    memory, places = (tuple(layout.zeros(parts[0])[1].values()) for _ in range(2))
    for place, part in zip(memory, parts, strict=True):
        place.copy_(part)
    return memory, places


@every_problem
def test_what_is_recorded_computes_the_same_gradients_at_every_run(problem):
    instance = together(problem)
    for rates in (RATES, 16):  # from where on products are laid out otherwise
        for base in bases_of(instance, len(SEEDS), rates) if rates == RATES else [instance.base]:
            for kind, subsets in SUBSETS.items():
                for wanted in subsets:
                    assert_recorded_agrees(instance, KINDS[kind], rates, base, wanted, in_place=False)
            assert_recorded_agrees(instance, update_of, rates, base, (True,), in_place=True)


def assert_recorded_agrees(instance, make, rates, base, wanted, in_place):
    """What a program leaves is what `part_gradients` gives, at other parts and another batch as well.

    Args:
        in_place: whether gradients go where the parts are.
    """
    lanes = len(SEEDS), rates
    parts, places = laid_out(make(instance, *lanes), lanes)
    parts = tuple(part if want else part[:, :1].clone() for part, want in zip(parts, wanted, strict=True))
    places = parts if in_place else tuple(place if want else None for place, want in zip(places, wanted, strict=True))
    program, box = Program(), []
    instance.record(program, parts, base, places, box.pop)
    batches = list(batches_of(instance))[-2:]
    for seed in range(2):
        for part, fresh, want in zip(parts, make(instance, *lanes, seed=10 * seed), wanted, strict=True):
            if want:
                part.copy_(fresh)
        kept = tuple(part.clone() for part in parts)
        box[:] = [batches[seed % len(batches)]]
        expected = instance.part_gradients(kept, base, wanted, box[0])
        program()
        for part, before, place, gradient in zip(parts, kept, places, expected, strict=True):
            assert in_place or torch.equal(part, before)
            if place is not None:
                assert_close(place, gradient, rtol=1e-10)


@every_problem
def test_the_engines_gradients_are_those_of_the_loss(problem):
    instances = [alone(problem, seed) for seed in SEEDS]
    smaller = min(instances[0].shape)
    for method in (LoRA(min(2, smaller)), LoRA(smaller), Full(), Flora(min(2, smaller), interval=2)):
        settings = Settings(STEPS, dtype=torch.float64, probes="none")
        block = Block(instances, method, SGD(), SEEDS, [1e-3, 1e-4], settings)
        for i, tensor in enumerate(block.trainable.values()):
            tensor.copy_(gaussian(*tensor.shape, seed=i) / sum(tensor.shape[-2:]) ** 0.5)
        for step in (0, 1, 2):
            block.find_gradients(step)
            if step < 2:
                block.step()
        for s, instance in enumerate(instances):
            batch = None if block.batch is None else block.batch[s, 0]
            for k in range(2):
                lane = {name: tensor[s, min(k, tensor.shape[1] - 1)] for name, tensor in block.params.items()}
                expected = gradients(method, lane, lambda weight, instance=instance, batch=batch: instance.loss(weight, batch))
                for name, gradient in expected.items():
                    assert_close(block.grads[name][s, k], gradient)


# Optima


@every_problem
def test_at_the_truth_there_is_no_error_and_without_noise_the_lowest_loss(problem):
    instance = alone(problem)
    if instance.truth is None:
        pytest.skip("hides no matrix")
    measures, start = instance.measure(FactoredMatrix((instance.truth,), instance.base)), instance.measure(at_start(instance))
    assert float(measures["relative_error"]) < 1e-12
    assert float(start["relative_error"]) > 0
    rank = int((instance.spectrum > 1e-12 * instance.spectrum[0]).sum()) if instance.layers is None else min(instance.shape)
    floor = instance.best(rank)
    if floor is not None:
        assert floor <= float(measures["loss"]) + 1e-12
        if noiseless(problem):
            assert float(measures["loss"]) == pytest.approx(floor, abs=1e-14 * float(start["loss"]))
    if noiseless(problem):
        assert float(measures["loss"]) < 1e-20 * float(start["loss"])


@every_problem
def test_the_best_of_a_rank_falls_with_the_rank_and_is_below_every_weight_of_that_rank(problem):
    ranks = range(min(alone(problem).shape) + 1)
    expected = {rank: floor for rank in ranks if (floor := alone(problem).best(rank)) is not None}
    assert list(expected) == list(ranks)[len(ranks) - len(expected) :]  # what is known of a rank is known of higher ones
    start = float(alone(problem).loss(at_start(alone(problem))))
    for dtype, tolerance in ((torch.float64, 1e-12 * start), (torch.float32, 1e-5 * start)):
        instance = drawn(problem, SEEDS[0], dtype)
        floors = [instance.best(rank) for rank in expected]
        assert floors == pytest.approx(list(expected.values()), abs=tolerance)
        assert all(type(floor) is float and floor >= 0 for floor in floors)
        assert all(later <= earlier + tolerance for earlier, later in pairwise(floors))
        for rank, floor in zip(expected, floors, strict=True):
            for size in (0.01, 0.3, 1.0):
                factors = (part.to(dtype) for part in pair_of(instance, 5, rank=rank, seed=rank))
                assert (instance.loss(FactoredMatrix(tuple(factors), instance.base, size)) >= floor - tolerance).all()


def lowest(instance, rank):
    """The best update of that rank for a loss c/2 Σ ‖E X - Y‖²: by the SVD of Y in the metric of X, both read off gradients."""
    n, shape = instance.shape[1], (*layers_of(instance), *instance.shape)

    def slope(updates):
        leaf = updates.requires_grad_()
        return torch.autograd.grad(instance.loss(FactoredMatrix((leaf,), instance.base)).sum(), leaf)[0]

    at_zero = slope(torch.zeros(shape, dtype=torch.float64))
    units = torch.zeros(n, *shape, dtype=torch.float64)
    units[..., 0, :] = torch.eye(n, dtype=torch.float64).view(n, *[1] * (len(shape) - 2), n)
    metric = (slope(units) - at_zero)[..., 0, :].movedim(0, -2)
    values, axes = torch.linalg.eigh(metric)
    values = torch.where(values > 1e-12 * values[..., -1:], values, 0.0).unsqueeze(-2)
    whiten = axes * torch.where(values > 0, values, torch.inf).rsqrt()
    u, s, vt = torch.linalg.svd(-at_zero @ whiten, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :] @ whiten.mT


@every_problem
def test_the_best_of_a_rank_is_what_an_svd_reaches(problem):
    instance = alone(problem)
    if instance.best(0) is None:
        pytest.skip("below the rank of the truth theory gives none")
    start = float(instance.loss(at_start(instance)))
    assert instance.best(0) == pytest.approx(start, rel=1e-10)
    for rank in range(min(instance.shape) + 1):
        update = lowest(instance, rank)
        assert (torch.linalg.matrix_rank(update) <= rank).all()
        assert float(instance.loss(FactoredMatrix((update,), instance.base))) == pytest.approx(
            instance.best(rank), rel=1e-9, abs=1e-13 * start
        )


# Lanes that are lost


LOST = {(1, 2): math.nan, (0, 1): math.inf, (1, 0): -math.inf}


@every_problem
def test_a_lane_that_is_not_finite_has_no_finite_loss_and_leaves_the_others_alone(problem):
    instance, lost = together(problem), torch.zeros(len(SEEDS), RATES, dtype=torch.bool)
    for make in KINDS.values():
        parts = make(instance, len(SEEDS), RATES)
        spoiled = (parts[0].clone(), *parts[1:])
        for lane, value in LOST.items():
            spoiled[0][lane], lost[lane] = value, True
        for base in (instance.base, update_of(instance, len(SEEDS), RATES, seed=77)[0]):
            clean, found = FactoredMatrix(parts, base), FactoredMatrix(spoiled, base)
            for batch in batches_of(instance):
                loss = instance.loss(found, batch)
                assert not loss[lost].isfinite().any()
                assert_close(loss[~lost], instance.loss(clean, batch)[~lost])
                wanted = (True,) * len(parts)
                grads, expected = (instance.part_gradients(each, base, wanted, batch) for each in (spoiled, parts))
                for one, other in zip(grads, expected, strict=True):
                    assert_close(one[~lost], other[~lost])
        measures, expected = instance.measure(found), instance.measure(clean)
        assert not measures["loss"][lost].isfinite().any()
        for name, own in measures.items():
            assert_close(own[~lost], expected[name][~lost])


# Runs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_problem
def test_a_run_lowers_the_loss(problem, dtype):
    alone(problem)
    method = LoRA(min(2, *alone(problem).shape))
    lanes = run(problem, method, Adam(), lr=0.01, seeds=2, steps=30, dtype=dtype, probes="none").lanes
    assert lanes.status.eq("ok").all()
    assert np.isfinite(lanes.final_loss).all()
    assert (lanes.final_loss < lanes.initial_loss).all()
