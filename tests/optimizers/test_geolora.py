"""The measurable claims of geolora-adalora.md, section 6."""

import pytest
import torch
from by_hand import gaussian, gradients, half_squared, lowrank
from torch.utils._python_dispatch import TorchDispatchMode

import bench
from bench.engine import Block, Settings
from linalg import InputError
from optimizers import SGD, GeoLoRA, RiemannianGD
from parameterizations import SVD, LoRA
from problems import LinearRegression, MatrixCompletion, MatrixFactorization, Stack

PLAIN = GeoLoRA(tolerance=0, coefficient_steps=0)
NAMES = ("left", "core", "right")


def point(m, n, values, room, seed=0):
    """U S Vᵀ with these singular values and zeros up to `room`."""
    rank = len(values)
    left, right = (torch.linalg.qr(gaussian(side, rank, seed=seed + side)).Q for side in (m, n))
    params = {"left": torch.zeros(m, room), "core": torch.zeros(room, room), "right": torch.zeros(room, n)}
    params = {name: tensor.double() for name, tensor in params.items()}
    params["left"][:, :rank], params["right"][:rank], params["core"][:rank, :rank] = left, right.mT, torch.diag(values.double())
    return params


def dense(params):
    return params["left"] @ params["core"] @ params["right"]


def tangent(params, gradient):
    """P(W) Z from its definition."""
    left, right = params["left"] @ params["left"].mT, params["right"].mT @ params["right"]
    return left @ gradient + gradient @ right - left @ gradient @ right


def products(params, gradient):
    """What the engine hands over."""
    both = params["left"].mT @ gradient @ params["right"].mT
    return {"left": gradient @ params["right"].mT, "core": both, "right": params["left"].mT @ gradient}


def take(rule, params, gradient, lr, step=0, state=None):
    rule.update(params, products(params, gradient), rule.init(params) if state is None else state, lr, step)


def rank_of(params):
    return params["left"].any(-2).sum(-1)


def off_orthonormal(params):
    """The largest deviation of both bases from orthonormal columns up to the rank and zeros beyond."""
    used = torch.diag_embed(params["left"].any(-2).double())
    grams = params["left"].mT @ params["left"], params["right"] @ params["right"].mT
    return max(float((gram - used).abs().max()) for gram in grams)


def block(problem, method, rule, rates, seeds=(0, 1), steps=500):
    drawn = [problem.draw(seed, dtype=torch.float64) for seed in seeds]
    return Block(drawn, method, rule, list(seeds), list(rates), Settings(steps, dtype=torch.float64))


def advance(built, first, steps):
    for step in range(first, first + steps):
        built.find_gradients(step)
        built.step()
    return built


@pytest.mark.parametrize("shape", [(30, 22), (22, 30), (9, 9)])
@pytest.mark.parametrize("smallest", [1e-1, 1e-4, 1e-8, 1e-12, 0.0])
def test_a_step_is_a_gradient_step_in_the_tangent_space_whatever_the_smallest_singular_value(shape, smallest):
    params, gradient = point(*shape, torch.logspace(0, 0, 4) * torch.tensor([1, 0.5, 0.1, smallest]), room=8), gaussian(*shape)
    expected = dense(params) - 0.3 * tangent(params, gradient)
    take(PLAIN, params, gradient, 0.3)
    assert (dense(params) - expected).norm() <= 1e-12 * expected.norm()
    assert rank_of(params) == 8
    assert off_orthonormal(params) <= 1e-10


def test_at_zero_the_step_is_along_the_gradient_in_the_space_of_the_bases():
    # the gradients of U and V vanish there; those of the tangent space do not
    built = block(MatrixFactorization((20, 16), rank=3), SVD(8, start=4, scale=0.0), PLAIN, [0.3], seeds=(0,))
    left, right = built.params["left"].clone(), built.params["right"].clone()
    gradient = -built.instance.target
    assert not built.params["core"].any()
    advance(built, 0, 1)
    expected = -0.3 * tangent({"left": left, "right": right}, gradient)
    assert expected.norm() > 0.1
    torch.testing.assert_close(built.weight().dense(), expected)


@pytest.mark.parametrize("coefficient_steps", [0, 1])
def test_new_singular_values_are_of_second_order_in_the_rate_and_of_first_with_a_step_of_the_coefficients(coefficient_steps):
    # a step in the tangent space leaves (I - P_U) G V S⁻¹ Uᵀ G (I - P_V) lr²; one on Ŝ puts -lr Ũᵀ G Ṽ into the empty block
    target = gaussian(20, 15, seed=3) / 5
    for lr in (1e-3, 1e-4):
        params, rule = point(20, 15, torch.tensor([1.0, 0.5]), room=8), GeoLoRA(tolerance=0, coefficient_steps=coefficient_steps)
        left, core, right = params["left"][:, :2].clone(), params["core"][:2, :2].clone(), params["right"][:2].clone()
        gradient = dense(params) - target
        beyond_left = gradient @ right.mT - left @ (left.mT @ gradient @ right.mT)
        beyond_right = left.mT @ gradient - (left.mT @ gradient @ right.mT) @ right
        if coefficient_steps:
            new_left, new_right = torch.linalg.qr(beyond_left).Q, torch.linalg.qr(beyond_right.mT).Q
            expected = lr * torch.linalg.svdvals(new_left.mT @ gradient @ new_right)
        else:
            expected = lr**2 * torch.linalg.svdvals(beyond_left @ torch.linalg.inv(core) @ beyond_right)[:2]
        state = rule.init(params)
        for step in range(coefficient_steps + 1):
            take(rule, params, dense(params) - target, lr, step, state)
        torch.testing.assert_close(torch.linalg.svdvals(dense(params))[2:4], expected, rtol=100 * lr, atol=0)
        assert rank_of(params) == 4


@pytest.mark.parametrize("room", [4, 5, 6, 7])
def test_without_room_for_all_directions_the_best_are_kept(room):
    params, gradient = point(20, 15, torch.tensor([1.0, 0.7, 0.2, 0.1]), room), gaussian(20, 15, seed=3)
    left, values, right = torch.linalg.svd(dense(params) - 0.3 * tangent(params, gradient), full_matrices=False)
    for rule in (PLAIN, GeoLoRA(tolerance=0, coefficient_steps=3)):
        stepped = {name: tensor.clone() for name, tensor in params.items()}
        take(rule, stepped, gradient, 0.3)
        torch.testing.assert_close(dense(stepped), (left * values)[:, :room] @ right[:room])
        assert off_orthonormal(stepped) <= 1e-10


def by_the_book(target, params, lr, tolerance, coefficient_steps, periods, smallest=1):
    """Lines 1 to 8 of the dossier on dense gradients, one lane, the rank as the size of the tensors; the weight after each step."""
    rank = int(rank_of(params))
    u, s, v = params["left"][:, :rank], params["core"][:rank, :rank], params["right"][:rank].mT
    weights = []
    for _ in range(periods):
        g = u @ s @ v.mT - target
        new_u = torch.linalg.qr(torch.cat([u, g @ v], 1)).Q[:, rank : 2 * rank]
        new_v = torch.linalg.qr(torch.cat([v, g.mT @ u], 1)).Q[:, rank : 2 * rank]
        k_step, l_step, s1 = u @ s - lr * g @ v, v @ s.mT - lr * g.mT @ u, s - lr * u.mT @ g @ v
        s = torch.cat([torch.cat([s1, l_step.mT @ new_v], 1), torch.cat([new_u.mT @ k_step, torch.zeros(rank, rank).double()], 1)])
        u, v = torch.cat([u, new_u], 1), torch.cat([v, new_v], 1)
        for _ in range(coefficient_steps):
            weights.append(u @ s @ v.mT)
            s = s - lr * u.mT @ (weights[-1] - target) @ v
        p, d, q = torch.linalg.svd(s)
        rank = next((j for j in range(len(d)) if d[j:].norm() < tolerance * d.norm()), len(d))
        rank = max(rank, smallest)
        u, s, v = u @ p[:, :rank], torch.diag(d[:rank]), v @ q[:rank].mT
        weights.append(u @ s @ v.mT)
    return weights, rank


@pytest.mark.parametrize("coefficient_steps", [0, 3])
@pytest.mark.parametrize("smallest", [1, 4])
def test_a_run_is_that_of_the_published_algorithm(coefficient_steps, smallest):
    # near convergence the new directions are rounding, so that two programs agree on the weight for as long as they are not
    target = lowrank(24, 20, torch.tensor([1.0, 0.8, 0.5, 0.05]))
    params = point(24, 20, torch.tensor([0.6, 0.3]), room=20)
    rule = GeoLoRA(tolerance=0.2, coefficient_steps=coefficient_steps, min_rank=smallest)
    expected, rank = by_the_book(target, params, 0.4, 0.2, coefficient_steps, 6, smallest)
    state = rule.init(params)
    for step, weight in enumerate(expected):
        take(rule, params, dense(params) - target, 0.4, step, state)
        torch.testing.assert_close(dense(params), weight, rtol=1e-9, atol=1e-9)
    assert rank_of(params) == rank


@pytest.mark.parametrize(("tolerance", "rank"), [(0.1, 4), (0.15, 3), (0.18, 2), (0.2, 1)])
def test_every_layer_is_cut_once_by_the_norm_of_all_that_it_loses(tolerance, rank):
    # ‖σ‖ = √1.04: single values all lie below 0.1 ‖σ‖, and a second cut of what 0.15 leaves would leave one
    spectrum = torch.tensor([1.0, 0.1, 0.1, 0.1, 0.1]).double()
    layers = [point(14, 11, spectrum, room=10, seed=100 * seed) for seed in range(3)]
    params = {name: torch.stack([layer[name] for layer in layers])[None, None] for name in NAMES}
    take(GeoLoRA(tolerance=tolerance, coefficient_steps=0), params, torch.zeros(14, 11).double(), torch.full((1, 1), 0.5).double())
    assert rank_of(params).tolist() == [[[rank] * 3]]
    for layer, before in enumerate(layers):
        left, values, right = torch.linalg.svd(dense(before))
        found = {name: params[name][0, 0, layer] for name in NAMES}
        torch.testing.assert_close(torch.linalg.svdvals(dense(found))[:rank], values[:rank])
        torch.testing.assert_close(dense(found) @ right[0], values[0] * left[:, 0])


def test_a_tail_of_exactly_the_tolerance_stays():
    values, most = torch.tensor([[4.0, 3.0]]).double(), torch.tensor([2])
    assert GeoLoRA(tolerance=0.6).kept(values, most, stack=False).tolist() == [2]  # 3 = 0.6 · 5 is not less
    assert GeoLoRA(tolerance=0.61).kept(values, most, stack=False).tolist() == [1]


@pytest.mark.parametrize("lr", [0.1, 0.5, 1.0, 1.9])
def test_every_step_descends_as_far_as_theory_says(lr):
    mask = (gaussian(12, 10, seed=5) > -0.5).double()  # so that the loss, of smoothness 1, is not one that a step can solve
    target, tolerance = lowrank(12, 10, torch.linspace(1, 0.1, 10)), 0.05
    params, rule = point(12, 10, torch.tensor([0.3, 0.1]), room=10), GeoLoRA(tolerance=tolerance, coefficient_steps=0)
    losses = []
    for step in range(500):
        weight = dense(params)
        gradient = mask * (weight - target)
        along = tangent(params, gradient)
        stepped = weight - lr * along
        loss, after = (0.5 * (mask * (w - target)).square().sum() for w in (weight, stepped))
        descent = lr * (1 - lr / 2) * along.square().sum()
        assert after <= loss - descent + 1e-14
        take(rule, params, gradient, lr, step)
        dropped = tolerance * stepped.norm()
        truncated = 0.5 * (mask * (dense(params) - target)).square().sum()
        assert truncated <= loss - descent + dropped * ((mask * (stepped - target)).norm() + dropped / 2) + 1e-14
        assert truncated <= loss + 1e-14
        losses.append(truncated)
    assert losses[-1] < 0.05 * losses[0]


def test_with_noise_and_rates_of_finite_square_sum_the_gradient_in_the_tangent_space_vanishes():
    target, mask = lowrank(12, 10, torch.linspace(1, 0.1, 10)), (gaussian(12, 10, seed=5) > -0.5).double()
    start = point(12, 10, torch.tensor([0.3, 0.1, 0.05]), room=3)
    params, norms = {name: start[name].expand(1, 2, *start[name].shape).clone() for name in NAMES}, []
    for step in range(800):
        gradient = mask * (dense(params) - target)
        norms.append(tangent(params, gradient).norm(dim=(-2, -1))[0])
        rates = torch.tensor([[0.3, (1 + step) ** -0.7]]).double()
        take(PLAIN, params, gradient + 0.2 * gaussian(12, 10, seed=step), rates, step)
    constant, falling = torch.stack(norms)[-100:].mean(0)
    assert falling < 0.3 * constant


def test_a_moving_matrix_is_followed_to_first_order_in_the_rate_whatever_its_smallest_singular_value():
    # the gradient -A'(t) of a flow that goes through A(t) = exp(tX) U Σ Vᵀ exp(tY)ᵀ: rotations of angle 1 in all
    (m, n), values, turns = (16, 12), [1.0, 0.5, 0.25], []
    for size, seed in ((m, 1), (n, 2)):
        x = gaussian(size, size, seed=seed)
        turns.append((x - x.mT) / (x - x.mT).norm(2))

    def missed(smallest, steps):
        params = point(m, n, torch.tensor([*values, smallest]), room=4)
        start = dense(params)
        at = lambda t: torch.matrix_exp(t * turns[0]) @ start @ torch.matrix_exp(t * turns[1]).mT  # noqa: E731  # a formula
        for step in range(steps):
            now = at(step / steps)
            take(PLAIN, params, -(turns[0] @ now + now @ turns[1].mT), 1 / steps, step)
        return float((dense(params) - at(1.0)).norm())

    errors = {smallest: [missed(smallest, steps) for steps in (50, 100)] for smallest in (1e-1, 1e-2, 1e-4, 1e-8, 1e-12)}
    for coarse, fine in errors.values():
        assert coarse / fine == pytest.approx(2, rel=0.05)
    coarse = [pair[0] for pair in errors.values()]
    assert max(coarse) < 1.2 * min(coarse) < 0.01


@pytest.mark.parametrize("rule", [PLAIN, GeoLoRA(), GeoLoRA(core_rule="adam", moments_at_augmentation="rotate"), RiemannianGD(0.9)])
def test_the_bases_stay_orthonormal(rule):
    built = block(MatrixCompletion((20, 16), rank=2), SVD(6, start=2), rule, [0.5, 0.05])
    worst = 0.0
    for step in range(300):
        advance(built, step, 1)
        worst = max(worst, off_orthonormal(built.params))
    assert worst <= 1e-10


@pytest.mark.parametrize(
    ("start", "tolerance", "coefficient_steps"),  # from 10 with 0.1 and no coefficient steps, some lanes end at 4
    [(10, 0.01, 0), (10, 0.01, 10), (10, 0.1, 10), (20, 0.01, 0), (20, 0.01, 10), (20, 0.1, 0), (20, 0.1, 10)],
)
def test_the_true_rank_is_found_from_above(start, tolerance, coefficient_steps):
    problem = MatrixFactorization((60, 50), kind="low_rank", rank=5, spectrum=(1.0, 0.8, 0.6, 0.4, 0.2))
    rule = GeoLoRA(tolerance=tolerance, coefficient_steps=coefficient_steps)
    built = advance(block(problem, SVD(2 * start, start=start), rule, [0.1, 0.5, 1.0], seeds=(0,)), 0, 40 * (1 + coefficient_steps))
    assert rank_of(built.params).tolist() == [[5, 5, 5]]


@pytest.mark.parametrize("start", [1, 2])
def test_the_true_rank_is_found_from_below_with_coefficient_steps(start):
    problem = MatrixFactorization((60, 50), kind="low_rank", rank=5, spectrum=(1.0, 0.8, 0.6, 0.4, 0.2))
    built = block(problem, SVD(20, start=start), GeoLoRA(tolerance=0.01), [0.1, 0.5, 1.0], seeds=(0, 1))
    advance(built, 0, 60 * 11)
    assert rank_of(built.params).tolist() == [[5, 5, 5], [5, 5, 5]]
    assert (built.instance.measure(built.weight())["relative_error"] < 0.02).all()


@pytest.mark.parametrize("start", [1, 2])
def test_without_coefficient_steps_new_directions_are_cut_before_they_have_grown(start):
    # they are of second order in the rate: at a tolerance of 0.1 a run ends with ranks 2, 3 and 4, at 0.13 or more, and stays there
    problem = MatrixFactorization((60, 50), kind="low_rank", rank=5, spectrum=(1.0, 0.8, 0.6, 0.4, 0.2))
    built = block(problem, SVD(20, start=start), GeoLoRA(tolerance=0.1, coefficient_steps=0), [0.1, 0.5, 1.0], seeds=(0, 1))
    advance(built, 0, 150)
    assert (rank_of(built.params) < 5).all()
    assert (built.instance.measure(built.weight())["relative_error"] > 0.1).all()


def stationary(second):
    """Where the gradients of all three factors vanish, at `second` = 0, and yet the loss falls along the manifold."""
    basis = torch.eye(6).double()
    target = 2 * basis[:, :1] @ basis[:1] + basis[:, 1:2] @ basis[1:2]
    params = {"left": basis[:, [0, 2]], "core": torch.diag(torch.tensor([2.0, second]).double()), "right": basis[[0, 1]]}
    return target, {name: tensor.clone() for name, tensor in params.items()}


def test_it_leaves_a_point_where_descent_in_the_factors_stands_still():
    target, params = stationary(0.0)
    assert all(not grad.any() for grad in gradients(SVD(2), params, half_squared(target)).values())
    gradient = dense(params) - target
    assert 0.5 * gradient.square().sum() == 0.5
    assert tangent(params, gradient).norm() == pytest.approx(1)
    take(PLAIN, params, gradient, 1.0)
    assert 0.5 * (dense(params) - target).square().sum() < 1e-25


def test_descent_in_the_factors_moves_the_weight_by_more_than_one_projection_of_the_gradient():
    # to first order by P̂ G = G V SᵀS Vᵀ + U Uᵀ G V Vᵀ + U S Sᵀ Uᵀ G, no projection; zero with P G where S is regular
    params, gradient, lr = point(9, 7, torch.tensor([2.0, 0.5, 0.1]), room=3), gaussian(9, 7, seed=4), 1e-6
    params["core"] += 0.1 * gaussian(3, 3)
    left, core, right = (params[name].clone() for name in NAMES)
    expected = (gradient @ right.mT @ core.mT @ core @ right) + (left @ left.mT @ gradient @ right.mT @ right)
    expected = expected + left @ core @ core.mT @ left.mT @ gradient
    loss = lambda weight: (weight.dense() * gradient).sum()  # noqa: E731  # a formula
    before, after = dense(params), {**params}
    for name, grad in gradients(SVD(3), params, loss).items():
        after[name] = params[name] - lr * grad
    torch.testing.assert_close((before - dense(after)) / lr, expected, rtol=0, atol=1e-4)
    parts = gradient @ right.mT @ core.mT, left.mT @ gradient @ right.mT, core.mT @ left.mT @ gradient
    assert float((expected * gradient).sum()) == pytest.approx(sum(float(part.square().sum()) for part in parts))


def steps_to(loss, move, params, below, most=1000):
    return next(step for step in range(most) if loss(params) < below or move(params, step))


def test_near_that_point_it_takes_the_same_time_and_descent_in_the_factors_longer_and_longer():
    ours, theirs = [], []
    for second in (1e-2, 1e-4, 1e-6):
        target, params = stationary(second)
        loss = lambda params, target=target: 0.5 * (dense(params) - target).square().sum()  # noqa: E731  # a formula

        def along(params, step, target=target):
            take(PLAIN, params, dense(params) - target, 0.1, step)

        def factors(params, step, target=target):
            for name, grad in gradients(SVD(2), params, half_squared(target)).items():
                params[name] = params[name].detach() - 0.1 * grad

        theirs.append(steps_to(loss, factors, dict(params), 1e-3))
        ours.append(steps_to(loss, along, params, 1e-3))
    assert ours == [30, 30, 30]
    assert theirs[0] > 100
    assert theirs[1] - theirs[0] > 50
    assert theirs[2] - theirs[1] > 50


@pytest.mark.parametrize("condition", [1, 10, 1000])
def test_the_condition_of_the_target_does_not_count(condition):
    spectrum = tuple(torch.logspace(0, -1, 5, base=condition, dtype=torch.float64).tolist())
    problem = MatrixFactorization((50, 50), kind="low_rank", rank=5, spectrum=spectrum)
    built, found = block(problem, SVD(5, scale=1e-2), PLAIN, [0.1, 0.5, 1.0, 1.5], seeds=(0,)), {}
    for step in range(160):
        error = built.instance.measure(built.weight())["relative_error"][0]
        for rate, reached in zip(built.lr[0].tolist(), (error < 1e-6).tolist(), strict=True):
            if reached:
                found.setdefault(rate, step)
        advance(built, step, 1)
    # at rate λ the error falls by |1 - λ| a step once the subspaces are found
    assert found[0.1] <= 150
    assert found[0.5] <= 30
    assert found[1.0] <= 10
    assert found[1.5] <= 30
    lora = bench.run(problem, LoRA(5), SGD(), lr=[0.1, 0.3, 0.5, 0.7, 0.9, 1.2], steps=1500, dtype="float64").lanes.headline.min()
    assert (lora < 1e-6) if condition < 1000 else (lora > 1e-3)


@pytest.mark.parametrize("condition", [1, 100])
def test_the_rates_that_converge_are_those_of_theory_whatever_the_condition(condition):
    # |1 - lr|^300 < 1e-3, from 0.023 to 1.977, where gradient descent on LoRA's factors has none left at condition 100
    spectrum = tuple(torch.logspace(0, -1, 5, base=condition, dtype=torch.float64).tolist())
    problem = MatrixFactorization((50, 40), kind="low_rank", rank=5, spectrum=spectrum)
    rates = torch.logspace(-4, 1, 26, dtype=torch.float64)
    options = {"lr": rates.tolist(), "seeds": 1, "steps": 300, "dtype": "float64"}
    reached = bench.run(problem, SVD(10, start=5), GeoLoRA(tolerance=1e-3, coefficient_steps=0), **options).lanes.headline < 1e-3
    assert reached.tolist() == ((1 - rates).abs() ** 300 < 1e-3).tolist()
    lora = (bench.run(problem, LoRA(5), SGD(), **options).lanes.headline < 1e-3).sum()
    assert (lora > 0) == (condition == 1)


def test_at_full_rank_it_is_riemannian_gradient_descent():
    problem = MatrixCompletion((20, 16), rank=2)
    pair = [block(problem, SVD(4), rule, [0.2, 1.0]) for rule in (PLAIN, RiemannianGD())]
    for step in range(50):
        ours, theirs = (advance(built, step, 1).weight().dense() for built in pair)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("coefficient_steps", [0, 10])
@pytest.mark.parametrize("budget", [8, 16, 20])
def test_a_budget_is_spent_where_the_layers_need_it(budget, coefficient_steps):
    problem, period = Stack((32, 28), ranks=(1, 2, 4, 9)), 1 + coefficient_steps
    rule = GeoLoRA(budget=budget, coefficient_steps=coefficient_steps)
    built = block(problem, SVD(16, start=5), rule, [0.5, 1.0])
    for truncation in range(60):
        advance(built, truncation * period, period)
        assert (rank_of(built.params).sum(-1) == budget).all()
    if budget == 16:
        assert rank_of(built.params).tolist() == [[[1, 2, 4, 9]] * 2] * 2
    if budget >= 16:
        assert (built.instance.measure(built.weight())["relative_error"] < 1e-6).all()


@pytest.mark.parametrize("budget", [8, 12])
def test_a_budget_too_small_for_all_goes_to_the_largest_singular_values_of_all_layers(budget):
    # with coefficient steps; without them 12 end as 1, 1, 4, 6, at 0.21 where 0.12 can be had
    problem = Stack((32, 28), ranks=(1, 2, 4, 9))
    built = advance(block(problem, SVD(12, start=5), GeoLoRA(budget=budget), [0.3, 0.5, 1.0]), 0, 100 * 11)
    values = torch.linalg.svdvals(built.instance.target)
    pooled = values.flatten(-2).sort(-1, descending=True).values[..., budget:].square().sum(-1) / 2
    equal_shares = values[..., budget // 4 :].square().sum((-2, -1)) / 2
    loss = (built.weight().dense() - built.instance.target).square().sum((-3, -2, -1)) / 2
    torch.testing.assert_close(loss, pooled.expand_as(loss), rtol=1e-6, atol=0)
    assert (loss < 0.7 * equal_shares).all()


def test_a_budget_below_what_every_layer_keeps_is_refused():
    with pytest.raises(InputError, match=r"^budget=7: must be at least 8"):
        advance(block(Stack((9, 8), ranks=(1, 2, 3, 4)), SVD(4), GeoLoRA(budget=7, min_rank=2, coefficient_steps=0), [0.5]), 0, 1)
    rule = GeoLoRA(budget=8, min_rank=2, coefficient_steps=0)
    built = advance(block(Stack((9, 8), ranks=(1, 2, 3, 4)), SVD(4), rule, [0.5]), 0, 20)
    assert rank_of(built.params).tolist() == [[[2, 2, 2, 2]]] * 2


@pytest.mark.parametrize("shape", [(14, 9), (9, 14)])
def test_coefficient_steps_are_those_of_torchs_adam_anew_in_every_period(shape):
    target, lr, steps = gaussian(*shape) / 5, 0.05, 4
    params = point(*shape, torch.tensor([0.5, 0.2]), room=8)
    rule = GeoLoRA(coefficient_steps=steps, core_rule="adam", moments_at_augmentation="reset")
    state = rule.init(params)
    for period in range(3):
        take(rule, params, dense(params) - target, lr, period * (steps + 1), state)
        left, right = params["left"].clone(), params["right"].clone()
        core = params["core"].clone().requires_grad_()
        twin = torch.optim.Adam([core], lr=lr)
        for step in range(1, steps + 1):
            # the same gradient for both: some are zero but for rounding, which Adam would blow up
            core.grad = left.mT @ (dense(params) - target) @ right.mT
            twin.step()
            take(rule, params, dense(params) - target, lr, period * (steps + 1) + step, state)
            if step < steps:
                torch.testing.assert_close(params["core"], core.detach(), rtol=1e-10, atol=1e-12)
                assert torch.equal(params["left"], left)
        values = torch.linalg.svdvals(core.detach())
        keep = int(rank_of(params))
        torch.testing.assert_close(params["core"].diagonal()[:keep], values[:keep])


def test_rotated_moments_keep_their_direction_and_sign():
    params = point(14, 9, torch.tensor([0.5, 0.2]), room=4)
    rule = GeoLoRA(coefficient_steps=3, core_rule="adam", moments_at_augmentation="rotate")
    state = rule.init(params)
    first, second = state["core"]["exp_avg"], state["core"]["exp_avg_sq"]
    first[:2, :2], second[:2, :2] = gaussian(2, 2), gaussian(2, 2).square()
    before, energy = params["left"] @ first @ params["right"], second.sum()
    take(rule, params, gaussian(14, 9, seed=2), 0.1, 0, state)
    torch.testing.assert_close(params["left"] @ first @ params["right"], before)
    assert (second >= 0).all()
    torch.testing.assert_close(second.sum(), energy)  # the squares of orthonormal columns add up to one


def test_rotated_moments_follow_a_truncation_too():
    params, target = point(14, 9, torch.tensor([0.5, 0.2]), room=4), gaussian(14, 9, seed=2) / 5
    rule = GeoLoRA(tolerance=0.3, coefficient_steps=1, core_rule="adam", moments_at_augmentation="rotate")
    state = rule.init(params)
    take(rule, params, dense(params) - target, 0.1, 0, state)
    left, right = params["left"].clone(), params["right"].clone()
    state["core"]["exp_avg"].copy_(gaussian(4, 4, seed=6))
    gradient = dense(params) - target
    moment = left @ (0.9 * gaussian(4, 4, seed=6) + 0.1 * left.mT @ gradient @ right.mT) @ right
    take(rule, params, gradient, 0.1, 1, state)
    assert 0 < rank_of(params) < 4
    kept = params["left"] @ params["left"].mT @ moment @ params["right"].mT @ params["right"]
    torch.testing.assert_close(params["left"] @ state["core"]["exp_avg"] @ params["right"], kept)


def test_nothing_as_large_as_the_weight_is_allocated():
    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, torch.Tensor):
                    self.largest = max(self.largest, tensor.numel())
            return result

    m, n, room = 150, 120, 4
    for rule in (GeoLoRA(coefficient_steps=2), GeoLoRA(coefficient_steps=0), RiemannianGD(0.9)):
        params = point(m, n, torch.ones(2), room)
        grads, state = products(params, gaussian(m, n)), rule.init(params)
        with Sizes() as sizes:
            for step in range(3):
                rule.update(params, grads, state, 0.1, step)
        assert 0 < sizes.largest <= 2 * room * m


@pytest.mark.parametrize("rule", [GeoLoRA(coefficient_steps=2), GeoLoRA(budget=6, coefficient_steps=0), RiemannianGD(0.5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", [MatrixFactorization((13, 10)), LinearRegression((8, 11)), Stack((9, 12), ranks=(1, 2))])
def test_a_lane_goes_its_own_way_beside_one_that_diverges(problem, dtype, rule):
    run = bench.run(problem, SVD(4, start=2), rule, lr=[0.5, 1e30], seeds=2, steps=40, dtype=dtype)
    assert run.lanes.status.tolist() == ["ok", "diverged"] * 2
    alone = bench.run(problem, SVD(4, start=2), rule, lr=0.5, seeds=[1], steps=40, dtype=dtype)
    tolerance = 1e-4 if dtype == "float32" else 1e-9
    assert run.lanes.final_loss[2] == pytest.approx(alone.lanes.final_loss[0], rel=tolerance)
    assert run.lanes.final_loss[2] < run.lanes.initial_loss[2]


def test_it_needs_orthonormal_factors_and_keeps_what_it_says():
    assert "svd" in GeoLoRA().supports(LoRA())
    assert GeoLoRA().supports(SVD()) is None
    params = point(9, 7, torch.ones(2), 4)
    assert GeoLoRA().state_bytes(GeoLoRA().init(params)) == 0
    assert GeoLoRA().state_bytes(GeoLoRA(core_rule="adam").init(params)) == 2 * 16 * 8
    assert GeoLoRA().state_bytes(GeoLoRA(core_rule="adam", coefficient_steps=0).init(params)) == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tolerance", -0.1),
        ("tolerance", 1.5),
        ("budget", 0),
        ("min_rank", 0),
        ("coefficient_steps", -1),
        ("core_rule", "lion"),
        ("moments_at_augmentation", "keep"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=f"^{key}="):
        GeoLoRA(**{key: value})
