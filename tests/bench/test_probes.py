"""Condition numbers and angles against dense linear algebra."""

import itertools
import math

import numpy as np
import pytest
import torch
from by_hand import gaussian, lowrank

import bench
from bench import probes
from bench.engine import Block, Settings
from linalg import FactoredMatrix
from optimizers import SGD, Adam, RiemannianGD, ScaledAdamW, ScaledGD
from parameterizations import SVD, AdaLoRA, Deep, FlatLoRA, Flora, Full, LoRA, OPLoRA, PoLAR, StelLA, Step, XGBLoRA
from problems import LinearRegression, MatrixCompletion, MatrixFactorization, Stack


def pair_with_condition(m, n, r, condition, dtype=torch.float64):
    """Factors (1, 1, m, r), (1, 1, r, n), each of condition √condition, whose product has `condition`."""
    values = torch.logspace(0, -math.log10(condition) / 2, r, dtype=torch.float64)
    left = lowrank(m, r, values, seed=1)
    vt = torch.linalg.svd(left, full_matrices=False).Vh
    right = (vt.mT * values) @ lowrank(r, n, torch.ones(r), seed=2)
    return left.to(dtype)[None, None], right.to(dtype)[None, None]


@pytest.mark.parametrize(("m", "n", "r"), [(40, 40, 6), (50, 20, 5), (12, 60, 4)])
@pytest.mark.parametrize(
    ("condition", "dtype", "tolerance"), [(1e6, torch.float64, 1e-6), (1e10, torch.float64, 1e-3), (1e5, torch.float32, 1e-2)]
)
def test_conditions_agree_with_a_dense_svd(m, n, r, condition, dtype, tolerance):
    left, right = pair_with_condition(m, n, r, condition, dtype)
    dense = np.linalg.svd((left.double() @ right.double())[0, 0].numpy(), compute_uv=False)
    assert dense[0] / dense[r - 1] == pytest.approx(condition, rel=tolerance)
    measured = probes.basic(FactoredMatrix((left, right)), None, {"left": left}, dtype)
    assert measured["condition_product"].item() == pytest.approx(condition, rel=tolerance)
    assert measured["condition_factor_1"].item() == pytest.approx(math.sqrt(condition), rel=tolerance)
    assert measured["condition_factors"].item() == pytest.approx(math.sqrt(condition), rel=tolerance)


def kron_condition(left, right, train_left, train_right):
    """σ1/σmin on the range of Σ (dW/dfactor)(dW/dfactor)ᵀ, built as Kronecker products (row-major vec)."""
    m, n = left.shape[0], right.shape[1]
    total = torch.zeros(m * n, m * n, dtype=torch.float64)
    if train_left:
        total += torch.kron(torch.eye(m, dtype=torch.float64), right.mT @ right)
    if train_right:
        total += torch.kron(left @ left.mT, torch.eye(n, dtype=torch.float64))
    values = np.linalg.eigvalsh(total.numpy())
    values = values[values > 1e-9 * values[-1]]
    return values[-1] / values[0]


@pytest.mark.parametrize(("m", "n", "r"), [(7, 6, 2), (5, 9, 3), (6, 6, 6), (4, 7, 5), (7, 4, 4), (3, 3, 5)])
@pytest.mark.parametrize(("train_left", "train_right"), [(True, True), (True, False)])
def test_the_gauss_newton_condition_of_two_factors_agrees_with_kronecker_products(m, n, r, train_left, train_right):
    left, right = gaussian(m, r, seed=3), gaussian(r, n, seed=4)
    expected = kron_condition(left, right, train_left, train_right)
    method = LoRA(2) if train_right else Flora(2)
    params = {"left": left[None, None], "right": right[None, None]}
    weight = FactoredMatrix((params["left"], params["right"]))
    measured = probes.gauss_newton_condition(method, params, weight, torch.float64)
    assert measured.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("zero", ["left", "right", "column"])
def test_the_gauss_newton_condition_is_taken_on_the_range(zero):
    left, right = gaussian(6, 3, seed=3), gaussian(3, 5, seed=4)
    if zero == "left":
        left = torch.zeros_like(left)
    elif zero == "right":
        right = torch.zeros_like(right)
    else:
        left[:, 2] = left[:, 1]
    measured = probes.gauss_newton_condition(
        LoRA(3),
        params := {"left": left[None, None], "right": right[None, None]},
        FactoredMatrix(tuple(params.values())),
        torch.float64,
    )
    assert measured.item() == pytest.approx(kron_condition(left, right, True, True), rel=1e-6)


def test_the_gauss_newton_condition_at_1e10_is_right_to_a_thousandth():
    left, right = pair_with_condition(30, 25, 5, 1e10)
    params = {"left": left, "right": right}
    measured = probes.gauss_newton_condition(LoRA(5), params, FactoredMatrix((left, right)), torch.float64)
    a, b = (np.linalg.svd(factor[0, 0].numpy(), compute_uv=False) for factor in (left, right))
    assert measured.item() == pytest.approx((a[0] ** 2 + b[0] ** 2) / min(a[-1] ** 2, b[-1] ** 2), rel=1e-3)
    assert measured.item() == pytest.approx(2e10, rel=1e-3)


def test_the_dense_route_agrees_with_the_formula_and_with_kronecker_products_of_a_chain():
    method = LoRA(2)
    params = {"left": gaussian(1, 2, 5, 2), "right": gaussian(1, 2, 2, 4, seed=1)}
    formula = probes.gauss_newton_condition(method, params, method.weight(params), torch.float64)
    for gram in (probes.jacobian_gram(method, params), probes.chain_gram(method.weight(params), [True, True])):
        torch.testing.assert_close(probes.dense_condition(gram), formula, rtol=1e-7, atol=0)
    deep = Deep(depth=3)
    chain = {f"factor_{i}": gaussian(4, 4, seed=i) for i in (1, 2, 3)}
    total = torch.zeros(16, 16, dtype=torch.float64)
    one, two, three = chain.values()
    eye = torch.eye(4, dtype=torch.float64)
    for before, after in ((eye, two @ one), (three, one), (three @ two, eye)):
        total += torch.kron(before @ before.mT, after.mT @ after)
    values = np.linalg.eigvalsh(total.numpy())
    params = {name: factor[None, None] for name, factor in chain.items()}
    torch.testing.assert_close(probes.jacobian_gram(deep, params)[0, 0], total)
    measured = probes.gauss_newton_condition(deep, params, deep.weight(params), torch.float64)
    assert measured.item() == pytest.approx(values[-1] / values[0], rel=1e-8)


@pytest.mark.parametrize(
    "method", [OPLoRA(2, hidden=5, embedding=3, alpha=6.0), OPLoRA(2, head="rezero", generators="separate"), LoRA(3)]
)
def test_the_gram_matrix_of_a_jacobian_taken_in_stages_is_that_of_the_whole(method):
    params = {name: gaussian(2, 1, *tensor.shape) for name, tensor in method.init((6, 5), dtype=torch.float64).items()}
    for seed in range(2):
        own = {name: tensor[seed, 0] for name, tensor in params.items()}
        weight = lambda *tensors, own=own: method.weight(dict(zip(own, tensors, strict=True))).dense().flatten()  # noqa: E731
        j = torch.cat([each.flatten(1) for each in torch.autograd.functional.jacobian(weight, tuple(own.values()))], dim=1)
        torch.testing.assert_close(probes.jacobian_gram(method, params)[seed, 0], j @ j.mT)


@pytest.mark.parametrize("trainable", [(True, True, True), (False, True, False), (True, False, True)])
def test_the_gram_matrix_of_a_chain_sums_over_the_factors_that_train(trainable):
    factors = tuple(gaussian(2, 1, p, q, seed=p) for p, q in ((5, 3), (3, 4), (4, 6)))

    def weight(*moved):
        return FactoredMatrix(moved, scale=0.7).dense().flatten()

    for lane in range(2):
        own = tuple(factor[lane, 0] for factor in factors)
        jacobians = torch.autograd.functional.jacobian(weight, own)
        j = torch.cat([each.flatten(1) for each, trains in zip(jacobians, trainable, strict=True) if trains], dim=1)
        torch.testing.assert_close(probes.chain_gram(FactoredMatrix(factors, scale=0.7), trainable)[lane, 0], j @ j.mT)


def test_the_full_weight_has_condition_one_and_large_networks_are_left_out():
    update = {"update": gaussian(1, 1, 50, 40)}
    assert probes.gauss_newton_condition(Full(), update, Full().weight(update), torch.float64).item() == 1.0
    method = OPLoRA(2)
    params = {name: tensor[None, None] for name, tensor in method.init((50, 40), dtype=torch.float64).items()}
    assert probes.gauss_newton_condition(method, params, method.weight(params), torch.float64) is None


def test_angles_are_those_between_known_planes():
    target = torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=torch.float64))
    for angle in (0.0, 1e-7, 0.3, 1.2, math.pi / 2):
        turned = torch.eye(4, dtype=torch.float64)
        turned[1, 1] = turned[2, 2] = math.cos(angle)
        turned[2, 1], turned[1, 2] = math.sin(angle), -math.sin(angle)
        problem = MatrixFactorization(shape=(4, 4), kind="low_rank", rank=2).draw(0, dtype=torch.float64)
        problem.target = target
        left, right = probes.angles_to_truth(
            problem, FactoredMatrix((turned[:, :2] * torch.tensor([3.0, 2.0]), torch.eye(4)[:2].double()))
        )
        assert left.item() == pytest.approx(angle, abs=1e-9 if angle < 1 else 1e-6)
        assert right.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("widths", [(9, 3, 7), (9, 5, 3, 7), (9, 7), (5, 6, 5)])
def test_singular_vectors_of_a_chain_are_those_of_its_product(widths):
    chain = tuple(gaussian(2, 1, p, q, seed=p + q) for p, q in itertools.pairwise(widths))
    weight = FactoredMatrix(chain, scale=-0.5)
    left, right, ok = probes.singular_vectors(weight)
    assert ok.all()
    u, _, vt = torch.linalg.svd(weight.dense(), full_matrices=False)
    for ours, theirs in ((left, u), (right, vt.mT)):
        for k in range(1, weight.rank + 1):
            torch.testing.assert_close(ours[..., :k] @ ours[..., :k].mT, theirs[..., :k] @ theirs[..., :k].mT)
    lost = FactoredMatrix((chain[0].clone(), *chain[1:]))
    lost.factors[0][1, 0, 0, 0] = torch.inf
    assert probes.singular_vectors(lost)[2].tolist() == [[True], [False]]


def test_the_step_length_is_how_far_the_weight_moved():
    run = bench.run(MatrixFactorization(shape=(9, 7)), Full(), SGD(), lr=0.05, steps=200, dtype="float64")
    curves = run.curves.set_index("step")
    # full gradient descent: W_t - M shrinks by 1 - lr a step, so the step to t has length lr ‖W_(t-1) - M‖
    distance = np.sqrt(2 * curves.loss[0])
    for step in curves.index[1:]:  # the later ones lie apart
        assert curves.step_length[step] == pytest.approx(0.05 * distance * 0.95 ** (step - 1), rel=1e-9)
    assert math.isnan(curves.step_length[0])
    assert curves.gradient_norm[0] == pytest.approx(distance)


@pytest.mark.parametrize("size", [1.0, 1e-7])
@pytest.mark.parametrize("widths", [(40, 3, 30), (40, 9, 3, 30), (9, 5, 7), (9, 7)])
def test_the_distance_of_two_chains_is_that_of_their_products(widths, size):
    chain = tuple(gaussian(2, 3, p, q, seed=p + q) for p, q in itertools.pairwise(widths))
    other = tuple(factor + size * gaussian(*factor.shape, seed=9) for factor in chain)
    weights = [FactoredMatrix(factors, scale=0.3) for factors in (chain, other)]
    dense = (weights[1].dense() - weights[0].dense()).norm(dim=(-2, -1))
    torch.testing.assert_close(probes.distance(*weights), dense, rtol=1e-7, atol=0)
    base = [FactoredMatrix(weight.factors, gaussian(widths[0], widths[-1], seed=i), 0.3) for i, weight in enumerate(weights)]
    dense = (base[1].dense() - base[0].dense()).norm(dim=(-2, -1))
    torch.testing.assert_close(probes.distance(*base), dense, rtol=1e-7, atol=0)


STACKED = Stack((9, 8), ranks=(1, 2))
TURNED = [
    (LoRA(2, alpha=3.0), ScaledGD(), MatrixFactorization((9, 7))),
    (LoRA(2), ScaledAdamW(), MatrixCompletion((9, 7), rank=2, observed=0.5)),
    (LoRA(2), ScaledGD(), LinearRegression((6, 8), rank=2, batch_size=4)),
    (OPLoRA(2, hidden=4, embedding=3), ScaledAdamW(), MatrixFactorization((9, 7))),
    (StelLA(2), Adam(), MatrixFactorization((9, 7))),
    (PoLAR(2), Adam(), MatrixFactorization((9, 7))),
    (SVD(2), RiemannianGD(), MatrixFactorization((9, 7))),
    (XGBLoRA(1, interval=3, layers_per_round=1), Adam(), STACKED),
    (AdaLoRA(2), Adam(), MatrixFactorization((9, 7))),
    (AdaLoRA(2), ScaledAdamW(), MatrixFactorization((9, 7))),
    (FlatLoRA(2), Adam(), MatrixFactorization((9, 7))),
]


@pytest.mark.parametrize(
    ("method", "rule", "problem"), TURNED, ids=[f"{type(m).__name__}-{type(r).__name__}" for m, r, _ in TURNED]
)
def test_the_gradients_norm_is_that_of_the_loss_whatever_the_rule_follows(method, rule, problem):
    drawn = [problem.draw(seed, dtype=torch.float64) for seed in (0, 1)]
    block, unseen = (Block(drawn, method, rule, [0, 1], [0.1, 0.03], Settings(20, dtype=torch.float64)) for _ in range(2))
    for step in range(5):
        block.find_gradients(step)
        found = block.probe(None, False)["gradient_norm"]
        for seed, rate in np.ndindex(2, 2):
            own = {name: tensor.expand(2, 2, *tensor.shape[2:])[seed, rate] for name, tensor in block.params.items()}
            leaves = {name: own[name].clone().requires_grad_() for name in block.trainable}
            batch = None if block.batch is None else block.batch[seed, 0]
            at = Step(step, 20, block.at.generators[seed : seed + 1])
            total = drawn[seed].loss(method.weight(own | leaves, at), batch)
            penalty = method.penalty(own | leaves)
            grads = torch.autograd.grad(total if penalty is None else total + penalty.sum(), list(leaves.values()))
            expected = torch.cat([grad.flatten() for grad in grads]).norm()
            torch.testing.assert_close(found[seed, rate], expected, rtol=1e-8, atol=1e-12)
        block.step()
        unseen.find_gradients(step)
        unseen.step()
    assert all(torch.equal(block.params[name], tensor) for name, tensor in unseen.params.items())  # measuring moves nothing


def test_a_rule_that_follows_the_gradient_itself_pays_nothing_for_its_norm():
    for method in (LoRA(2), OPLoRA(2), AdaLoRA(2)):
        block = Block([MatrixFactorization((9, 7)).draw(0)], method, Adam(), [0], [0.1], Settings(5))
        block.find_gradients(0)
        assert block.loss_gradients() is block.grads


@pytest.mark.parametrize("level", probes.LEVELS)
def test_each_level_measures_what_it_says(level):
    run = bench.run(MatrixCompletion(shape=(12, 10), rank=2, observed=0.5), LoRA(2), SGD(), lr=0.1, steps=100, probes=level)
    always = {"loss", "relative_error", "validation_rmse", "test_rmse"}
    basic = {"gradient_norm", "step_length", "condition_product", "condition_factors", "rank", "effective_rank", "stable_rank"}
    everything = {"condition_gauss_newton", "angle_left", "angle_right"}
    expected = always | (basic if level != "none" else set()) | (everything if level == "all" else set())
    measured = {name for name in always | basic | everything if name in run.curves}
    assert measured == expected
    if level == "all":
        assert run.curves.condition_gauss_newton.notna().sum() <= probes.COARSE_STEPS
    steps = {"none": set(), "basic": {100}, "all": probes.coarse_grid(100)}[level]
    assert set(run.spectra.get("step", [])) == steps


@pytest.mark.parametrize("steps", [1, 2, 7, 500, 12345])
def test_the_grid_of_probed_steps_is_geometric_and_holds_both_ends(steps):
    grid = probes.geometric_grid(steps)
    assert grid[0] == 0
    assert grid[-1] == steps
    assert len(grid) <= probes.PROBED_STEPS + 1
    assert probes.coarse_grid(steps) <= set(grid)
    assert {0, steps} <= probes.coarse_grid(steps)
    ratios = np.array(grid[2:]) / np.array(grid[1:-1])
    assert (ratios <= 2).all()


def test_a_wide_pair_in_float32_keeps_its_condition():
    """Its parts are multiplied out for the gradient, but its singular values are still taken from the factors."""
    left, right = pair_with_condition(128, 96, 32, 1e5, torch.float32)
    measured = probes.basic(FactoredMatrix((left, right)), None, {"left": left}, torch.float32)
    assert measured["condition_product"].item() == pytest.approx(1e5, rel=1e-2)


def test_a_dense_update_of_low_rank_is_singular_to_its_own_rounding():
    update = (gaussian(20, 3) @ gaussian(3, 12, seed=1)).float()[None, None]
    measured = probes.basic(FactoredMatrix((update,)), None, {"update": update}, torch.float32)
    assert measured["condition_product"].item() == math.inf
    assert measured["rank"].item() == 3


@pytest.mark.parametrize(("method", "rank"), [(Flora(2, interval=5), 2), (LoRA(2), 4), (LoRA(6), 3)])
def test_angles_vanish_for_all_that_was_learned(method, rank):
    """A run that has found the target, or its leading subspace, has angles near zero whatever was merged on the way."""
    values = tuple(10.0 ** -(i // 2) for i in range(rank))
    problem = MatrixFactorization(shape=(10, 8), kind="low_rank", rank=rank, spectrum=values)
    run = bench.run(problem, method, SGD(), lr=0.1, seeds=2, steps=1500, dtype="float64", probes="all")
    last = run.curves[run.curves.step == 1500]
    assert (last[["angle_left", "angle_right"]] < 0.05).all(axis=None)
