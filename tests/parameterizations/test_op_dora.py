"""OP-DoRA against its formula in plain torch, and what its third head does on the first step."""

import pytest
import torch
from by_hand import descend, gaussian, gradients, half_squared, seeded

from linalg import InputError
from optimizers import ScaledGD
from parameterizations import DoRA, OPDoRA, OPLoRA, Step

SHAPES = [(6, 6), (9, 5), (5, 9)]
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_generator = pytest.mark.parametrize("generators", ["shared", "separate"])


def small(**options):
    return OPDoRA(**{"rank": 2, "hidden": 6, "embedding": 5, "alpha": 3.0} | options)


def start(method, shape, trained=False, dtype=torch.float64):
    params = method.init(shape, generator=seeded(1), dtype=dtype, base=gaussian(*shape, seed=4))
    if trained:
        names = [name for name in params if name != "base"]
        params |= {name: params[name] + 0.3 * gaussian(*params[name].shape, seed=20 + i) for i, name in enumerate(names)}
    return params


@every_shape
@every_generator
@pytest.mark.parametrize("head", ["zero", "rezero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_update_is_bitwise_zero_at_the_start(shape, generators, head, dtype):
    params = start(small(generators=generators, head=head), shape, dtype=dtype)
    assert not small(generators=generators, head=head).weight(params).update().any()


@every_shape
@every_generator
def test_the_weight_is_the_formula_and_its_gradient_holds_the_norm_only_while_it_trains(shape, generators):
    for detach in (True, False):
        method = small(generators=generators, detach_norm=detach)
        params = start(method, shape, trained=True)
        leaves = {name: tensor.clone().requires_grad_(name != "base") for name, tensor in params.items()}

        def head(name, leaves=leaves, separate=generators == "separate"):
            trunk = f"{name}_" if separate else ""
            z, w1, c1 = (leaves[f"{trunk}{part}"] for part in ("embedding", "hidden_weight", "hidden_bias"))
            return leaves[f"{name}_head_weight"] @ torch.relu(w1 @ z + c1) + leaves[f"{name}_head_bias"]

        direction = params["base"] + 1.5 * head("left").reshape(2, -1).T @ head("right").reshape(2, -1)
        norms = direction.norm(dim=1, keepdim=True)
        magnitude = params["base"].norm(dim=1, keepdim=True) + head("magnitude")[:, None]
        expected = magnitude * direction / (norms.detach() if detach else norms)
        target = gaussian(*shape, seed=7)
        wanted = {name: leaf for name, leaf in leaves.items() if name != "base"}
        reference = torch.autograd.grad(half_squared(target)(FactoredLike(expected)), list(wanted.values()))
        own = {name: tensor.clone().requires_grad_(name != "base") for name, tensor in params.items()}
        weight = method.weight(own, Step())
        torch.testing.assert_close(weight.dense(), expected)
        found = torch.autograd.grad(half_squared(target)(weight), [own[name] for name in wanted])
        for name, ours, theirs in zip(wanted, found, reference, strict=True):
            torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")
        full = gradients(method, params, half_squared(target))["left_head_bias"]  # as it is used: of the weight itself
        assert torch.allclose(full, found[list(wanted).index("left_head_bias")]) != detach


class FactoredLike:
    """A dense weight for a loss that asks for one."""

    def __init__(self, matrix):
        self.matrix = matrix

    def dense(self):
        return self.matrix


@every_shape
def test_rows_have_the_length_of_the_pretrained_ones_and_what_the_head_predicts(shape):
    method = small()
    params = start(method, shape, trained=True)
    units = torch.relu(params["hidden_weight"] @ params["embedding"] + params["hidden_bias"])
    moved = params["magnitude_head_weight"] @ units + params["magnitude_head_bias"]
    lengths = method.weight(params).dense().norm(dim=1)
    torch.testing.assert_close(lengths, (params["base"].norm(dim=1) + moved).abs())


@every_shape
@pytest.mark.parametrize("lr", [1e-3, 0.5])
def test_the_first_step_moves_the_lengths_along_their_gradient_at_the_rate_of_the_hidden_units(shape, lr):
    # δ = W2 h + c2 with W2 = 0 and dL/dδ_i = G_i · W0_i / ‖W0_i‖; B's head is zero as well, so that the trunk stays
    method, target = small(), gaussian(*shape, seed=7)
    params = start(method, shape)
    base = params["base"]
    units = torch.relu(params["hidden_weight"] @ params["embedding"])
    gradient = ((base - target) * base).sum(1) / base.norm(dim=1)
    descend(method, params, half_squared(target), lr)
    moved = params["magnitude_head_weight"] @ units + params["magnitude_head_bias"]
    torch.testing.assert_close(moved, -lr * (units.square().sum() + 1) * gradient)


@every_shape
def test_with_its_predictions_dora_has_the_same_weight(shape):
    method = small()
    params = start(method, shape, trained=True)
    left, right = OPLoRA.factors(method, params)
    units = torch.relu(params["hidden_weight"] @ params["embedding"] + params["hidden_bias"])
    moved = params["magnitude_head_weight"] @ units + params["magnitude_head_bias"]
    plain = {"left": left, "right": right, "magnitude": params["base"].norm(dim=1) + moved, "base": params["base"]}
    torch.testing.assert_close(method.weight(params).dense(), DoRA(2, alpha=3.0).weight(plain).dense())


@pytest.mark.parametrize(("m", "n", "r", "k", "e"), [(6, 6, 2, 4, 5), (9, 4, 3, 7, 2), (4, 9, 1, 1, 1)])
def test_it_trains_k_plus_one_times_doras_parameters_and_the_trunk(m, n, r, k, e):
    def count(**options):
        method = OPDoRA(r, hidden=k, embedding=e, **options)
        params = method.init((m, n), base=torch.ones(m, n))
        return sum(tensor.numel() for name, tensor in params.items() if name not in method.frozen)

    trunk, heads = k * e + e + k, (k + 1) * (r * (m + n) + m)
    assert count() == trunk + heads
    assert count(generators="separate") == 3 * trunk + heads


def test_a_pretrained_row_of_zeros_stays_finite():
    method = small()
    params = start(method, (6, 5), trained=True)
    params["base"][2] = 0
    fresh = method.init((6, 5), generator=seeded(1), dtype=torch.float64, base=params["base"])
    for tensors in (params, fresh):
        assert method.weight(tensors).dense().isfinite().all()
        found = gradients(method, tensors, half_squared(gaussian(6, 5, seed=7)))
        assert all(grad.isfinite().all() for grad in found.values())


def test_it_starts_from_a_pretrained_weight_and_offers_no_pair_of_factors():
    with pytest.raises(InputError, match=r"^base=None: OPDoRA starts from a pretrained weight"):
        OPDoRA(2).init((6, 6))
    assert ScaledGD().supports(OPDoRA(2))
    assert OPDoRA(2).reach((9, 5)) == 5


@pytest.mark.parametrize(
    ("options", "key"), [({"detach_norm": 2}, "detach_norm"), ({"head": "one"}, "head"), ({"alpha": 0}, "alpha")]
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        OPDoRA(**options)
