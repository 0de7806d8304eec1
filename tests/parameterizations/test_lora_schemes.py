"""PiSSA, MiLoRA and LoRA-GA: LoRA that starts from a part of the weight."""

import math

import numpy as np
import pytest
import torch
from by_hand import descend, gaussian, gradients, half_squared, lowrank, seeded

from bench.runs import run
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import LoRA
from problems import LinearRegression, MatrixFactorization, Stack

SHAPES = [(12, 9), (9, 12), (10, 10)]
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_start = pytest.mark.parametrize("init", ["pissa", "milora", "lora_ga"])
every_scale = pytest.mark.parametrize("options", [{}, {"alpha": 6.0}, {"alpha": 6.0, "rslora": True}], ids=str)


def begin(init, shape, rank=3, **options):
    """The method, its tensors, the pretrained weight and the first gradient, of ½ ‖W - M‖²."""
    method = LoRA(rank=rank, init=init, **options)
    base, target = gaussian(*shape, seed=3), gaussian(*shape, seed=4)
    params = method.init(shape, generator=seeded(), dtype=torch.float64, base=base, gradient=lambda weight: weight - target)
    return method, params, base, target


def singular(matrix):
    return np.linalg.svd(matrix.numpy(), full_matrices=False)


@every_shape
@every_start
@every_scale
def test_the_start_is_the_pretrained_weight_though_the_factors_are_not_zero(init, shape, options):
    method, params, base, _ = begin(init, shape, **options)
    torch.testing.assert_close(method.weight(params).dense(), base, rtol=1e-14, atol=1e-14)
    assert method.weight(params).update().norm() > 0.1
    torch.testing.assert_close(params["base"], base - method.scaling * params["left"] @ params["right"])


@every_shape
@every_scale
def test_pissa_trains_the_best_approximation_of_rank_r_and_freezes_the_rest(shape, options):
    method, params, base, _ = begin("pissa", shape, **options)
    u, s, vt = singular(base)
    best = torch.from_numpy(u[:, :3] * s[:3] @ vt[:3])
    torch.testing.assert_close(method.weight(params).update(), best)
    torch.testing.assert_close(params["base"], base - best)
    assert float(params["base"].norm()) == pytest.approx(math.sqrt(float((s[3:] ** 2).sum())))  # Eckart-Young
    assert float(torch.linalg.matrix_norm(params["base"], 2)) == pytest.approx(s[3])


@every_shape
@every_scale
def test_milora_trains_the_r_smallest_components_and_freezes_the_principal_ones(shape, options):
    method, params, base, _ = begin("milora", shape, **options)
    u, s, vt = singular(base)
    kept = torch.from_numpy(u[:, :-3] * s[:-3] @ vt[:-3])
    torch.testing.assert_close(params["base"], kept)
    update = method.weight(params).update()
    assert float(update.norm()) == pytest.approx(math.sqrt(float((s[-3:] ** 2).sum())))
    for overlap in (torch.from_numpy(u[:, :-3]).mT @ params["left"], params["right"] @ torch.from_numpy(vt[:-3]).mT):
        torch.testing.assert_close(overlap, torch.zeros_like(overlap), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("init", "chosen"), [("pissa", slice(3)), ("milora", slice(-3, None))])
@every_shape
def test_both_factors_share_the_singular_values_evenly(init, chosen, shape):
    method, params, base, _ = begin(init, shape, alpha=6.0)
    expected = torch.diag(torch.from_numpy(singular(base)[1])[chosen] / method.scaling)
    torch.testing.assert_close(params["left"].mT @ params["left"], expected)
    torch.testing.assert_close(params["right"] @ params["right"].mT, expected)


@every_start
def test_both_factors_have_a_gradient_at_the_start_where_loras_a_has_none(init):
    for scheme, moves in ((init, True), ("kaiming", False)):
        method, params, _, target = begin(scheme, (12, 9))
        found = gradients(method, params, half_squared(target))
        assert found["left"].norm() > 0.1
        assert bool(found["right"].norm() > 0.1) == moves


@every_shape
@every_scale
def test_lora_gas_factors_are_orthogonal_of_the_papers_size(shape, options):
    _, params, base, target = begin("lora_ga", shape, **options)
    u, _, vt = singular(base - target)
    squared = math.sqrt(shape[0]) / 16
    eye = torch.eye(3).double() * squared
    torch.testing.assert_close(params["left"].mT @ params["left"], eye)
    torch.testing.assert_close(params["right"] @ params["right"].mT, eye)
    expected = torch.from_numpy(u[:, 3:6] @ u[:, 3:6].T) * squared  # left vectors r + 1 to 2r, right ones 1 to r
    torch.testing.assert_close(params["left"] @ params["left"].mT, expected)
    torch.testing.assert_close(params["right"].mT @ params["right"], torch.from_numpy(vt[:3].T @ vt[:3]) * squared)


@every_shape
@every_scale
def test_the_first_step_after_lora_ga_is_one_along_the_gradients_best_rank_2r(shape, options):
    errors = []
    for lr in (1e-3, 1e-4):
        method, params, base, target = begin("lora_ga", shape, **options)
        zeta = method.scaling**2 * math.sqrt(shape[0]) / 16
        u, s, vt = singular(base - target)
        best = torch.from_numpy(u[:, :6] * s[:6] @ vt[:6])
        descend(method, params, half_squared(target), lr)
        moved = (method.weight(params).dense() - base) / (-lr * zeta)
        errors.append(float((moved - best).norm() / best.norm()))
        full = float((moved - (base - target)).norm())
        assert full == pytest.approx(math.sqrt(float((s[6:] ** 2).sum())), rel=200 * lr)  # no pair does better: theorem 3.1
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.05)  # all that is left is the product of the two steps


@every_shape
def test_no_other_orthonormal_start_follows_the_gradient_as_closely(shape):
    _, params, base, target = begin("lora_ga", shape)
    g = base - target
    unit = 16 / math.sqrt(shape[0])

    def distance(left, right):
        return float((left @ left.mT @ g + g @ right.mT @ right - g).norm())

    best = distance(math.sqrt(unit) * params["left"], math.sqrt(unit) * params["right"])
    u, _, vt = (torch.from_numpy(part) for part in singular(g))
    others = [distance(u[:, :3], vt[:3])]  # the same leading directions on both sides
    others += [
        distance(torch.linalg.qr(gaussian(shape[0], 3, seed=i)).Q, torch.linalg.qr(gaussian(shape[1], 3, seed=i + 50)).Q.mT)
        for i in range(20)
    ]
    assert best < min(others)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5)])
@pytest.mark.parametrize("rank", [3, 5])
def test_lora_ga_takes_the_last_vectors_where_there_are_fewer_than_2r(shape, rank):
    _, params, base, target = begin("lora_ga", shape, rank=rank)
    u, _, _ = singular(base - target)
    expected = torch.from_numpy(u[:, 5 - rank : 5] @ u[:, 5 - rank : 5].T) * math.sqrt(shape[0]) / 16
    torch.testing.assert_close(params["left"] @ params["left"].mT, expected)


@every_shape
def test_without_a_pretrained_weight_lora_gas_base_is_minus_its_product(shape):
    method, target = LoRA(rank=3, init="lora_ga"), gaussian(*shape, seed=4)
    params = method.init(shape, dtype=torch.float64, gradient=lambda weight: weight - target)
    torch.testing.assert_close(params["base"], -params["left"] @ params["right"])
    assert not method.weight(params).dense().abs().max() > 1e-15


@pytest.mark.parametrize("rank", [2, 5])
@every_shape
@every_start
def test_the_export_goes_with_the_pretrained_weight(init, shape, rank):
    method, params, base, target = begin(init, shape, rank=rank, alpha=6.0)
    params = {name: tensor.clone() for name, tensor in params.items()}
    for _ in range(3):
        descend(method, params, half_squared(target), 0.01)
    a, b = method.export(params)
    torch.testing.assert_close(base + b @ a, method.weight(params).dense())
    assert a.shape[0] == b.shape[1] == min(2 * rank, *shape) == method.reach(shape)


@pytest.mark.parametrize("init", ["pissa", "milora"])
def test_even_a_change_of_rank_one_leaves_the_tail_of_change_and_start_together(init):
    shape, rank = (8, 7), 3
    base = lowrank(*shape, torch.linspace(1, 0.4, 7), seed=1)
    target = base + lowrank(*shape, torch.ones(1), seed=2)
    method = LoRA(rank=rank, init=init)
    params = method.init(shape, dtype=torch.float64, base=base, gradient=lambda weight: weight - target)
    values = torch.linalg.svdvals(target - base + params["left"] @ params["right"])
    floor = 0.5 * float(values[rank:].square().sum())
    assert floor > 1e-3
    for _ in range(1500):
        descend(method, params, half_squared(target), 0.2)
    assert float(half_squared(target)(method.weight(params))) == pytest.approx(floor, rel=1e-3)
    plain = LoRA(rank=rank).init(shape, generator=seeded(), dtype=torch.float64, base=base)
    for _ in range(1500):
        descend(LoRA(rank=rank), plain, half_squared(target), 0.2)
    assert float(half_squared(target)(LoRA(rank=rank).weight(plain))) < 1e-3 * floor


def test_lora_ga_reaches_a_change_whose_rows_its_gradient_has():
    method, base, change = LoRA(rank=3, init="lora_ga"), gaussian(8, 7, seed=1), lowrank(8, 7, torch.ones(3), seed=2)
    params = method.init((8, 7), dtype=torch.float64, base=base, gradient=lambda weight: weight - base - change)
    assert int(torch.linalg.matrix_rank(change + params["left"] @ params["right"])) == 3


@every_shape
@every_start
def test_the_start_that_is_kept_does_not_train(init, shape):
    method, params, _, _ = begin(init, shape)
    assert {name for name in params if name not in method.frozen} == {"left", "right"}
    assert params["left"].numel() + params["right"].numel() == 3 * sum(shape)


@every_start
def test_a_stack_starts_every_layer_from_its_own_part(init):
    base, target = gaussian(4, 6, 5, seed=1), gaussian(4, 6, 5, seed=2)
    method = LoRA(rank=2, init=init)
    stack = method.init((6, 5), dtype=torch.float64, base=base, gradient=lambda weight: weight - target, layers=4)
    for layer in range(4):
        alone = method.init(
            (6, 5), dtype=torch.float64, base=base[layer], gradient=lambda weight, layer=layer: weight - target[layer]
        )
        for name, tensor in alone.items():
            torch.testing.assert_close(stack[name][layer], tensor)


def test_what_the_starts_need_is_asked_for():
    with pytest.raises(InputError, match=r"base=None: LoRA"):
        LoRA(rank=2, init="pissa").init((5, 4))
    with pytest.raises(InputError, match=r"gradient=None: LoRA-GA"):
        LoRA(rank=2, init="lora_ga").init((5, 4))
    assert LoRA(init="lora_ga").needs == LoRA().needs == ()
    assert LoRA(init="milora").needs == ("base",)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(20, 14), (14, 20)])
@every_start
def test_they_fine_tune_through_the_engine_from_the_loss_that_lora_starts_from(init, shape, dtype):
    problem = LinearRegression(shape=shape, rank=2)
    found, plain = (
        run(problem, LoRA(rank=4, init=scheme), Adam(), lr=[0.01], seeds=2, steps=300, dtype=dtype, probes="all").lanes
        for scheme in (init, "kaiming")
    )
    assert found.initial_loss.to_numpy() == pytest.approx(plain.initial_loss.to_numpy(), rel=1e-4)
    assert (found.final_loss < 0.1 * found.initial_loss).all()


@pytest.mark.parametrize("problem", [MatrixFactorization((20, 14)), MatrixFactorization((14, 20)), Stack((12, 10), (1, 3))])
def test_lora_ga_trains_from_zero_through_the_engine(problem):
    lanes = run(problem, LoRA(rank=3, init="lora_ga"), SGD(), lr=[0.3], seeds=2, steps=300, probes="all").lanes
    start = [problem.draw(seed).measure(LoRA(rank=3).weight(LoRA(rank=3).init(problem.shape)))["loss"] for seed in range(2)]
    assert lanes.initial_loss.to_numpy() == pytest.approx([float(loss) for loss in start], rel=1e-5)
    assert (lanes.final_loss < 0.5 * lanes.initial_loss).all()
