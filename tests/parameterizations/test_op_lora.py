"""The preconditioner of op-lora.md, section 2: one step of gradient descent on the generator moves the factors along P g."""

import math

import pytest
import torch
from by_hand import descend, gaussian, gradients, half_squared, seeded

from bench.runs import run
from linalg import InputError
from optimizers import SGD, Adam, Momentum
from parameterizations import LoRA, OPLoRA
from problems import MatrixFactorization

SHAPES = [(6, 6), (7, 4), (4, 7)]
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_head = pytest.mark.parametrize("head", ["zero", "rezero"])
every_generator = pytest.mark.parametrize("generators", ["shared", "separate"])


def small(**options):
    return OPLoRA(**{"rank": 2, "hidden": 6, "embedding": 5} | options)


def start(method, shape, trained=False):
    params = method.init(shape, generator=seeded(1), dtype=torch.float64)
    if trained:  # biases and B's head away from zero
        params = {name: tensor + 0.3 * gaussian(*tensor.shape, seed=20 + i) for i, (name, tensor) in enumerate(params.items())}
    return params


def factors_as_vector(method, params):
    """[A by rows; B by columns]."""
    left, right = method.factors(params)
    return torch.cat([right.flatten(), left.mT.flatten()])


def gradient_of_factors(method, params, target):
    """[dL/dA by rows; dL/dB by columns] for ½ ‖s B A - target‖²."""
    left, right = method.factors(params)
    residual = method.scaling * left @ right - target
    return method.scaling * torch.cat([(left.mT @ residual).flatten(), (residual @ right.mT).mT.flatten()])


def preconditioner(params, prefix, heads, rescale):
    """P = (‖h‖² + 1) I + W2 D [(‖z‖² + 1) I + W1 W1ᵀ] D W2ᵀ of one generator; `rescale` gives a head's learned multiplier."""
    z, w1, c1 = (params[f"{prefix}{name}"] for name in ("embedding", "hidden_weight", "hidden_bias"))
    active = w1 @ z + c1
    h, gate = active.clamp(min=0), torch.diag((active > 0).double())
    w2 = torch.cat([rescale.get(head, 1.0) * params[f"{head}_head_weight"] for head in heads])
    own = torch.cat([torch.full((len(params[f"{head}_head_bias"]),), float(rescale.get(head, 1.0)) ** 2) for head in heads])
    inner = (z.square().sum() + 1) * torch.eye(len(h)) + w1 @ w1.mT
    p = (h.square().sum() + 1) * torch.diag(own.double()) + w2 @ gate @ inner @ gate @ w2.mT
    offset = 0
    for head in heads:
        size = len(params[f"{head}_head_bias"])
        if head in rescale:
            output = params[f"{head}_head_weight"] @ h + params[f"{head}_head_bias"]
            p[offset : offset + size, offset : offset + size] += torch.outer(output, output)
        offset += size
    return p


def predicted_direction(method, params, g):
    rescale = {"left": params["rescale"]} if method.head == "rezero" else {}
    if method.generators == "shared":
        return preconditioner(params, "", ("right", "left"), rescale) @ g
    cut = len(params["right_head_bias"])
    blocks = preconditioner(params, "right_", ("right",), {}), preconditioner(params, "left_", ("left",), rescale)
    return torch.cat([blocks[0] @ g[:cut], blocks[1] @ g[cut:]])


def relative_error(method, params, target, lr):
    """‖Δv + lr P g‖ / ‖lr P g‖ for one step at that rate."""
    before, g = factors_as_vector(method, params), gradient_of_factors(method, params, target)
    expected = -lr * predicted_direction(method, params, g)
    stepped = dict(params)
    descend(method, stepped, half_squared(target), lr)
    moved = factors_as_vector(method, stepped) - before
    return float((moved - expected).norm() / expected.norm())


@pytest.mark.parametrize("alpha", [None, 6.0])
@every_shape
@every_head
@every_generator
def test_a_small_step_moves_the_factors_along_the_preconditioned_gradient(shape, head, generators, alpha):
    method = small(head=head, generators=generators, alpha=alpha)
    params, target = start(method, shape, trained=True), gaussian(*shape, seed=7)
    errors = [relative_error(method, params, target, lr) for lr in (1e-5, 5e-6)]
    assert errors[0] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("lr", [1e-4, 1.0])
@every_shape
@every_head
@every_generator
def test_the_first_step_is_along_the_preconditioned_gradient_at_any_rate(shape, head, generators, lr):
    # B = 0 leaves A without a gradient, and the hidden layer with it: B's map is linear in what moves
    method = small(head=head, generators=generators)
    assert relative_error(method, start(method, shape), gaussian(*shape, seed=7), lr) < 1e-11


@every_shape
@every_generator
def test_the_first_step_from_a_zero_head_moves_b_at_the_rate_of_the_hidden_units(shape, generators):
    # by -lr (‖h‖² + 1) g_B, with g_B = -target Aᵀ
    method = small(generators=generators)
    params, target = start(method, shape), gaussian(*shape, seed=7)
    trunk = "" if generators == "shared" else "left_"
    h = (params[f"{trunk}hidden_weight"] @ params[f"{trunk}embedding"]).clamp(min=0)
    right = method.factors(params)[1]
    stepped = dict(params)
    descend(method, stepped, half_squared(target), 0.5)
    left, right_after = method.factors(stepped)
    assert torch.equal(right_after, right)
    torch.testing.assert_close(left, 0.5 * (h.square().sum() + 1) * target @ right.mT)


@every_shape
@every_head
@every_generator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_update_is_bitwise_zero_at_the_start(shape, head, generators, dtype):
    method = small(head=head, generators=generators)
    params = method.init(shape, generator=seeded(), dtype=dtype)
    assert not method.weight(params).dense().any()
    assert method.factors(params)[1].any()


@every_shape
@every_head
@every_generator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exported_pair_is_the_weight_bitwise_and_as_small_as_loras(shape, head, generators, dtype):
    method = small(head=head, generators=generators, alpha=6.0)
    params = {name: tensor.to(dtype) for name, tensor in start(method, shape, trained=True).items()}
    a, b = method.export(params)
    assert torch.equal(b @ a, method.weight(params).dense())
    assert a.numel() + b.numel() == 2 * sum(shape)


@pytest.mark.parametrize(("m", "n", "r", "k", "e"), [(6, 6, 2, 4, 5), (9, 4, 3, 7, 2), (4, 9, 1, 1, 1), (100, 100, 8, 32, 128)])
def test_the_generator_has_ke_e_k_and_k_plus_one_times_loras_parameters(m, n, r, k, e):
    def count(**options):
        method = OPLoRA(rank=r, hidden=k, embedding=e, **options)
        return sum(tensor.numel() for name, tensor in method.init((m, n)).items() if name not in method.frozen)

    trunk, heads = k * e + e + k, (k + 1) * r * (m + n)
    assert count() == trunk + heads
    assert count(head="rezero") == trunk + heads + 1
    assert count(generators="separate") == 2 * trunk + heads


@every_generator
def test_weights_are_uniform_within_one_over_the_root_of_their_inputs(generators):
    method = OPLoRA(rank=4, hidden=25, embedding=100, embedding_scale=0.1, head="rezero", generators=generators)
    params = method.init((40, 50), generator=seeded(), dtype=torch.float64)
    for name, tensor in params.items():
        if name.endswith("bias") or name == "rescale":
            assert not tensor.any()
        elif name.endswith("weight"):
            bound = 1 / math.sqrt(100 if "hidden" in name else 25)
            assert 0.99 * bound < tensor.abs().max() <= bound
            assert float(tensor.var()) == pytest.approx(bound**2 / 3, rel=0.1)
        else:
            assert float(tensor.square().mean()) == pytest.approx(0.1**2, rel=0.5)


@pytest.mark.parametrize(("scale", "hidden"), [(1.0, 32), (0.01, 32), (1.0, 8)])
def test_hidden_units_start_with_a_sum_of_squares_of_k_times_that_of_the_input_over_six(scale, hidden):
    # a unit has variance ‖z‖² / 3e, of which ReLU lets half pass: B's first step is 1 + k scale² / 6 times LoRA's on average
    sums = []
    for seed in range(300):
        params = OPLoRA(rank=1, hidden=hidden, embedding_scale=scale).init((3, 2), generator=seeded(seed), dtype=torch.float64)
        units = torch.relu(params["hidden_weight"] @ params["embedding"] + params["hidden_bias"])
        sums.append(float(units.square().sum()))
    found = torch.tensor(sums)
    assert abs(float(found.mean()) - hidden * scale**2 / 6) < 4 * float(found.std()) / math.sqrt(300)


@pytest.mark.parametrize(
    ("optimizer", "rates"), [(SGD(), [0.3, 1.0]), (Momentum(), [0.03, 0.1]), (Adam(), [0.003, 0.01])], ids=repr
)
@pytest.mark.parametrize(
    "method", [LoRA(3), small(rank=3, hidden=32, embedding=16, generators="separate")], ids=["lora", "op_lora"]
)
def test_it_comes_to_the_svds_error_under_every_rule_and_so_does_lora(method, optimizer, rates):
    # dossier C12 and section 3: the paper's LoRA does not get there; at a rate of its own it does
    problem = MatrixFactorization((20, 16))
    lanes = run(problem, method, optimizer, lr=rates, seeds=3, steps=1500, schedule="linear", dtype="float64", probes="none").lanes
    best = (lanes.final_loss / lanes.floor).groupby(lanes.lr).max().min()
    assert best < 1.01


def test_one_generator_is_shared_and_two_are_not():
    shared, separate = (set(small(generators=kind).init((6, 6))) for kind in ("shared", "separate"))
    assert {"embedding", "hidden_weight", "hidden_bias"} <= shared
    assert {"left_embedding", "right_embedding"} <= separate


@every_head
def test_a_shared_hidden_layer_feels_both_factors(head):
    method = small(head=head)
    params, target = start(method, (6, 5), trained=True), gaussian(6, 5, seed=7)
    grads = gradients(method, params, half_squared(target))
    left, right = method.factors(params)
    residual = left @ right - target
    scale = params["rescale"] if head == "rezero" else 1.0
    back = params["right_head_weight"].mT @ (left.mT @ residual).flatten()
    back = back + scale * params["left_head_weight"].mT @ (residual @ right.mT).mT.flatten()
    active = params["hidden_weight"] @ params["embedding"] + params["hidden_bias"]
    torch.testing.assert_close(grads["hidden_bias"], back * (active > 0))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"hidden": 0}, "hidden"),
        ({"embedding": 1.5}, "embedding"),
        ({"alpha": 0}, "alpha"),
        ({"embedding_scale": 0}, "embedding_scale"),
        ({"head": "one"}, "head"),
        ({"generators": "both"}, "generators"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        OPLoRA(**options)
