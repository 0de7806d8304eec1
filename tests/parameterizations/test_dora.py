import numpy as np
import pytest
import torch
from by_hand import gaussian, seeded

from bench.runs import run
from linalg import InputError
from optimizers import Adam
from parameterizations import DoRA, LoRA, Step
from problems import LinearRegression

SHAPES = [(9, 5), (5, 9), (6, 6)]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def start(method, shape):
    base = gaussian(*shape, seed=3)
    return base, method.init(shape, generator=seeded(), dtype=torch.float64, base=base)


def moved(params, seed=4):
    """The trainable tensors in general position; lengths may turn negative."""
    return params | {name: gaussian(*params[name].shape, seed=seed) for name in ("left", "right", "magnitude")}


def gradients(method, params, g, at):
    """By autograd, of the loss <g, W>."""
    leaves = {name: params[name].clone().requires_grad_() for name in ("left", "right", "magnitude")}
    loss = (method.weight(params | leaves, at).dense() * g).sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@every_shape
def test_it_starts_at_the_pretrained_weight_with_its_rows_lengths(shape):
    base, params = start(DoRA(rank=2), shape)
    torch.testing.assert_close(params["magnitude"], base.square().sum(-1).sqrt())
    torch.testing.assert_close(DoRA(rank=2).weight(params).dense(), base, rtol=1e-14, atol=1e-14)


@every_shape
def test_its_pair_starts_as_loras(shape):
    _, params = start(DoRA(rank=2), shape)
    plain = LoRA(rank=2).init(shape, generator=seeded(), dtype=torch.float64)
    assert all(torch.equal(params[name], plain[name]) for name in ("left", "right"))


@every_shape
def test_it_trains_lora_and_one_number_a_row(shape):
    _, params = start(DoRA(rank=2), shape)
    trained = {name: tensor.numel() for name, tensor in params.items() if name not in DoRA().frozen}
    assert sum(trained.values()) == 2 * sum(shape) + shape[0]


@pytest.mark.parametrize("alpha", [None, 6.0])
@every_shape
def test_the_weight_is_lengths_times_unit_rows_of_base_and_product(shape, alpha):
    method = DoRA(rank=2, alpha=alpha)
    base, params = start(method, shape)
    params = moved(params)
    weight = method.weight(params).dense()
    v = base + (1.0 if alpha is None else 3.0) * params["left"] @ params["right"]
    torch.testing.assert_close(weight.square().sum(-1).sqrt(), params["magnitude"].abs())
    for row, length, direction in zip(weight, params["magnitude"], v, strict=True):
        torch.testing.assert_close(row, length * direction / direction.norm())


@pytest.mark.parametrize("detach_norm", [True, False])
@every_shape
def test_gradients_are_those_of_the_papers_equations(shape, detach_norm):
    method = DoRA(rank=2, alpha=6.0, detach_norm=detach_norm)
    base, params = start(method, shape)
    params = moved(params)
    g = gaussian(*shape, seed=9)
    found = gradients(method, params, g, Step())
    b, a, lengths, w0, g = (x.numpy() for x in (params["left"], params["right"], params["magnitude"], base, g))
    v = w0 + 3.0 * b @ a
    norms = np.sqrt((v**2).sum(1))
    by_v = np.empty_like(v)
    for i in range(len(v)):
        projection = np.eye(v.shape[1]) - (0 if detach_norm else np.outer(v[i], v[i]) / norms[i] ** 2)
        by_v[i] = lengths[i] / norms[i] * projection @ g[i]  # eqs. 6 and 11
    expected = {"left": 3.0 * by_v @ a.T, "right": 3.0 * b.T @ by_v, "magnitude": (g * v).sum(1) / norms}  # eq. 7
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], torch.from_numpy(gradient))


@every_shape
def test_as_it_would_be_used_the_weight_has_its_true_derivative(shape):
    _, params = start(DoRA(rank=2), shape)
    params = moved(params)
    g = gaussian(*shape, seed=9)
    used, full = gradients(DoRA(rank=2), params, g, None), gradients(DoRA(rank=2, detach_norm=False), params, g, Step())
    assert all(torch.equal(used[name], full[name]) for name in full)
    found, eps = full["left"], 1e-6
    for index in ((0, 0), (2, 1)):
        shifted = [params["left"].clone() for _ in range(2)]
        shifted[0][index] += eps
        shifted[1][index] -= eps
        up, down = ((DoRA(rank=2).weight(params | {"left": left}).dense() * g).sum() for left in shifted)
        assert float((up - down) / (2 * eps)) == pytest.approx(float(found[index]), rel=1e-5)


@pytest.mark.parametrize("shape", [(9, 5), (6, 6)])
def test_the_full_gradient_turns_rows_without_stretching_them(shape):
    # over A = I the gradient of B is that of V, which equation 6 projects onto the complement of each row
    method = DoRA(rank=shape[1], detach_norm=False)
    base, params = start(method, shape)
    params["right"] = torch.eye(shape[1]).double()
    turned = gradients(method, params, gaussian(*shape, seed=9), Step())["left"]
    torch.testing.assert_close((turned * base).sum(-1), torch.zeros(shape[0]).double(), rtol=0, atol=1e-12)
    assert turned.norm() > 0.1


@every_shape
def test_every_low_rank_step_from_the_base_can_be_taken(shape):
    base, params = start(DoRA(rank=2), shape)
    params = moved(params)
    target = base + params["left"] @ params["right"]
    params["magnitude"] = target.norm(dim=-1)
    torch.testing.assert_close(DoRA(rank=2).weight(params).dense(), target)


@pytest.mark.parametrize("detach_norm", [True, False])
def test_a_row_of_zeros_stays_finite(detach_norm):
    method = DoRA(rank=2, detach_norm=detach_norm)
    base = gaussian(6, 5, seed=3)
    base[2] = 0
    params = method.init((6, 5), generator=seeded(), dtype=torch.float64, base=base)
    torch.testing.assert_close(method.weight(params).dense(), base)
    assert all(grad.isfinite().all() for grad in gradients(method, params, gaussian(6, 5), Step()).values())


@pytest.mark.parametrize("detach_norm", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(20, 14), (14, 20)])
def test_it_fine_tunes_below_what_the_base_leaves(shape, dtype, detach_norm):
    problem = LinearRegression(shape=shape, rank=2)
    lanes = run(problem, DoRA(rank=2, detach_norm=detach_norm), Adam(), lr=[0.01], seeds=2, steps=300, dtype=dtype).lanes
    assert (lanes.status == "ok").all()
    assert (lanes.final_loss < 0.05 * lanes.initial_loss).all()


@pytest.mark.parametrize(("options", "key"), [({"alpha": 0}, "alpha"), ({"detach_norm": "no"}, "detach_norm")])
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        DoRA(**options)


def test_it_needs_a_pretrained_weight():
    with pytest.raises(InputError, match="base=None: DoRA"):
        DoRA(rank=2).init((5, 4))
