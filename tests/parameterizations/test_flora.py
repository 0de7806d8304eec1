"""The measured claims of flora-and-related.md, section 4, as identities and expectations."""

import math

import pytest
import torch
from by_hand import descend, gaussian, gradients, half_squared, lowrank, seeded, stacked

from linalg import InputError, numerical_rank
from optimizers import SGD, Adam, Momentum
from parameterizations import Flora, LoRA, Step

BOTH_WAYS = [(24, 16), (16, 24), (20, 20)]


def lanes(method, shape, count, base=None):
    """A block of `count` lanes and the generators that they resample from."""
    drawn = [method.init(shape, generator=seeded(seed), dtype=torch.float64, base=base) for seed in range(count)]
    return stacked(drawn), [seeded(10_000 + seed) for seed in range(count)]


def train(method, params, loss, optimizer, lr, steps, generators, first=0, state=None, watch=None):
    """The loop of a run: gradient, update, hook."""
    state = optimizer.init({"left": params["left"]}) if state is None else state
    for step in range(first, first + steps):
        grads = gradients(method, params, loss)
        optimizer.update(params, grads, state, lr, step)
        if watch:
            watch(step, params)
        method.after_step(params, grads, state, Step(step, generators=generators))
    return state


def resample(method, params, generators, state=None):
    method.after_step(params, {}, {"left": {}} if state is None else state, Step(method.interval - 1, generators=generators))


@pytest.mark.parametrize("shape", BOTH_WAYS)
@pytest.mark.parametrize("intervals", [1, 2, 4, 6, 9])
def test_after_k_intervals_the_weight_has_rank_k_times_r(shape, intervals):
    r, method = 3, Flora(rank=3, interval=4)
    params, generators = lanes(method, shape, 1)
    train(method, params, half_squared(gaussian(*shape, seed=50)), SGD(), 0.02, 4 * intervals, generators)
    values = torch.linalg.svdvals(method.weight(params).dense())
    assert numerical_rank(values, shape, torch.float64) == min(intervals * r, *shape)


@pytest.mark.parametrize("shape", BOTH_WAYS)
def test_one_projection_keeps_the_weight_at_rank_r(shape):
    method = Flora(rank=3, interval=0)
    params, generators = lanes(method, shape, 1)
    before = params["right"].clone()
    train(method, params, half_squared(gaussian(*shape, seed=50)), SGD(), 0.02, 30, generators)
    assert torch.equal(params["right"], before)
    assert not params["base"].any()
    assert numerical_rank(torch.linalg.svdvals(method.weight(params).dense()), shape, torch.float64) == 3


@pytest.mark.parametrize("shape", [(16, 32), (32, 16), (24, 24)])
def test_one_projection_leaves_one_minus_r_over_n_of_a_gaussian_target(shape):
    r, n, count = 4, shape[1], 60
    method = Flora(rank=r, interval=0)
    params, generators = lanes(method, shape, count)
    targets = torch.stack([gaussian(*shape, seed=300 + seed) for seed in range(count)])
    right = params["right"]
    lr = 1 / torch.linalg.matrix_norm(right, 2).square().max()
    train(method, params, half_squared(targets), SGD(), lr, 400, generators)
    shares = half_squared(targets)(method.weight(params)) / (0.5 * targets.square().sum((-2, -1)))
    kernel = torch.eye(n).double() - torch.linalg.pinv(right) @ right
    torch.testing.assert_close(
        shares, (targets @ kernel).square().sum((-2, -1)) / targets.square().sum((-2, -1)), rtol=1e-4, atol=0
    )
    assert abs(float(shares.mean()) - (1 - r / n)) < 4 * float(shares.std()) / math.sqrt(count)


@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize(("r", "n"), [(4, 64), (1, 16), (8, 16)])
def test_one_step_is_the_gradient_on_average_with_one_plus_n_plus_one_over_r_of_its_energy(r, n, resampled):
    m, lr, count, method = 10, 0.1, 3000, Flora(rank=r, interval=1)
    params, generators = lanes(method, (m, n), count)
    g = gaussian(m, n, seed=1)
    if resampled:
        resample(method, params, generators)
    train(Flora(rank=r, interval=0), params, lambda weight: (weight.dense() * g).sum((-2, -1)), SGD(), lr, 1, generators)
    projected = method.weight(params).dense() / -lr
    a = params["right"]
    torch.testing.assert_close(projected, g @ a.mT @ a)
    energy = projected.square().sum((-2, -1)) / g.square().sum()
    assert abs(float(energy.mean()) - (1 + (n + 1) / r)) < 4 * float(energy.std()) / math.sqrt(count)
    off = float((projected.mean(0) - g).norm() / g.norm())
    assert off == pytest.approx(math.sqrt((n + 1) / r / count), rel=0.3)


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("shape", BOTH_WAYS)
def test_gradient_descent_takes_the_full_step_seen_through_the_projection_of_its_interval(shape, alpha):
    # dossier 1.6: (ii) a pair that merges is (i) W ← W - lr s² G AᵀA
    method, lr, steps, scale = Flora(rank=3, interval=4, alpha=alpha), 0.01, 14, 1.0 if alpha is None else 2.0
    params, generators = lanes(method, shape, 2, gaussian(*shape, seed=7))
    target, expected, rows = gaussian(*shape, seed=8), params["base"].clone(), []
    train(method, params, half_squared(target), SGD(), lr, steps, generators, watch=lambda _, now: rows.append(now["right"]))
    for a in rows:
        expected = expected - lr * scale**2 * (expected - target) @ a.mT @ a
    assert len({id(a) for a in rows}) == 4
    torch.testing.assert_close(method.weight(params).dense(), expected)


@pytest.mark.parametrize("share", [0.4, 0.9, 1.1])
@pytest.mark.parametrize(("r", "n"), [(4, 64), (2, 16)])
def test_with_a_projection_a_step_gradient_descent_shrinks_what_is_left_only_below_two_over_its_energy(r, n, share):
    # E ‖R (I - lr AᵀA)‖² = ‖R‖² (1 - 2 lr + lr² (1 + (n + 1) / r)): least at the inverse of the energy's factor
    m, steps, count, energy = 10, 4, 600, 1 + (n + 1) / r
    lr, method = 2 * share / energy, Flora(rank=r, interval=1)
    params, generators = lanes(method, (m, n), count)
    target = gaussian(m, n, seed=1)
    train(method, params, half_squared(target), SGD(), lr, steps, generators)
    left = (target - method.weight(params).dense()).square().sum((-2, -1)) / target.square().sum()
    factor = 1 - 2 * lr + lr**2 * energy
    assert (factor < 1) == (share < 1)
    assert abs(float(left.mean()) - factor**steps) < 4 * float(left.std()) / math.sqrt(count)


def test_projections_of_their_own_take_a_full_rank_target_to_nothing_where_one_stops():
    r, n = 4, 16
    lr, target = 1 / (1 + math.sqrt(n / r)) ** 2, gaussian(12, n, seed=1)
    left = {}
    for interval in (0, 1, 10):
        method = Flora(rank=r, interval=interval)
        params, generators = lanes(method, (12, n), 1)
        train(method, params, half_squared(target), SGD(), lr, 800, generators)
        left[interval] = float((target - method.weight(params).dense()).norm() / target.norm())
    assert left[0] > 0.5
    assert left[1] < 1e-12
    assert left[10] < 1e-3


@pytest.mark.parametrize(("share", "falls"), [(0.95, True), (1.05, False)])
def test_under_one_projection_gradient_descent_needs_a_rate_below_two_over_its_largest_eigenvalue(share, falls):
    m, n, r = 16, 1024, 16
    method = Flora(rank=r, interval=0)
    params, generators = lanes(method, (m, n), 1)
    largest = float(torch.linalg.matrix_norm(params["right"][0], 2) ** 2)
    assert largest == pytest.approx((1 + math.sqrt(n / r)) ** 2, rel=0.1)  # Bai and Yin
    target = gaussian(m, n, seed=1)
    inside = target @ torch.linalg.pinv(params["right"][0]) @ params["right"][0]
    train(method, params, half_squared(target), SGD(), 2 * share / largest, 200, generators)
    left = float((inside - method.weight(params).dense()[0]).norm() / inside.norm())
    assert left < 1e-3 if falls else left > 1e3


def from_one_start(shape, r, scale=1.0, seed=0):
    """The tensors of LoRA and of Flora that keep to one projection, with the same A ~ scale · N(0, 1/r)."""
    start = LoRA(rank=r, init="gaussian").init(shape, generator=seeded(seed), dtype=torch.float64)
    start["right"] *= scale
    return start, start | {"base": torch.zeros(shape, dtype=torch.float64)}


@pytest.mark.parametrize("shape", BOTH_WAYS)
def test_loras_factors_stay_in_the_spans_of_the_recursion_of_theorem_2_1(shape):
    # A = A_0 + lr A_0 f_A, B = lr f_B A_0ᵀ; f_A ← f_A - lr f_Bᵀ G, f_B ← f_B - G (I + lr f_Aᵀ)
    (m, n), lr, target, method = shape, 0.02, gaussian(*shape, seed=5), LoRA(rank=3)
    params, _ = from_one_start(shape, 3)
    first = params["right"]
    f_a, f_b = torch.zeros(n, n).double(), torch.zeros(m, n).double()
    for _ in range(30):
        g = method.weight(params).dense() - target
        f_a, f_b = f_a - lr * f_b.mT @ g, f_b - g @ (torch.eye(n) + lr * f_a.mT)
        descend(method, params, half_squared(target), lr)
        torch.testing.assert_close(params["right"], first + lr * first @ f_a)
        torch.testing.assert_close(params["left"], lr * f_b @ first.mT)
    assert (params["right"] - first).norm() > 0.1 * first.norm()


def apart(lr, steps, scale=1.0, shape=(20, 20), r=2, seed=0):
    """How far LoRA is from LoRA with A frozen, relative to the way that the latter has gone."""
    loss, start = half_squared(gaussian(*shape, seed=1 + seed)), from_one_start(shape, r, scale, seed)
    ends = []
    for method, params in zip((LoRA(rank=r), Flora(rank=r, interval=0)), start, strict=True):
        for _ in range(steps):
            descend(method, params, loss, lr)
        ends.append(method.weight(params).dense())
    return float((ends[0] - ends[1]).norm() / ends[1].norm())


@pytest.mark.parametrize("seed", [0, 1])
def test_lora_is_a_random_projection_while_it_has_not_gone_far_or_where_its_a_is_large(seed):
    # dossier C2: the difference is of order (lr Σ G)², so that a small rate alone, over more steps, makes none the smaller
    steps = [apart(lr, 50, seed=seed) for lr in (1e-4, 1e-5)]
    assert steps[0] / steps[1] == pytest.approx(100, rel=0.1)
    way = [apart(lr, round(0.5 / lr), seed=seed) for lr in (5e-3, 1e-3)]
    assert way[0] == pytest.approx(way[1], rel=0.02)
    assert way[1] > 0.3
    large = [apart(1e-2 / scale**2, 50, scale, seed=seed) for scale in (4, 8)]
    assert large[0] / large[1] == pytest.approx(16, rel=0.1)


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("shape", BOTH_WAYS)
def test_a_resample_leaves_the_weight_where_it_was(shape, alpha):
    base = gaussian(*shape, seed=7)
    method = Flora(rank=3, interval=4, alpha=alpha)
    params, generators = lanes(method, shape, 2, base)
    assert torch.equal(method.weight(params).dense()[0], base)
    params["left"].copy_(gaussian(*params["left"].shape, seed=8))
    before, right = method.weight(params).dense(), params["right"].clone()
    scale = 1.0 if alpha is None else 2.0
    torch.testing.assert_close(before, base + scale * params["left"] @ right)
    resample(method, params, generators)
    assert torch.equal(method.weight(params).dense(), before)
    assert torch.equal(params["base"], before)
    assert not params["left"].any()
    assert (params["right"] != right).all()
    assert not torch.equal(params["right"][0], params["right"][1])


def test_only_the_last_step_of_an_interval_resamples():
    method = Flora(rank=2, interval=5)
    params, generators = lanes(method, (6, 6), 1)
    changed = []
    for step in range(11):
        before = params["right"].clone()
        method.after_step(params, {}, {"left": {}}, Step(step, generators=generators))
        if not torch.equal(before, params["right"]):
            changed.append(step)
    assert changed == [4, 9]


@pytest.mark.parametrize(("r", "n"), [(4, 24), (2, 16)])
def test_the_best_b_of_every_round_shrinks_what_is_left_by_one_minus_r_over_n(r, n):
    count, m = 200, 10
    method = Flora(rank=r, interval=1)
    params, generators = lanes(method, (m, n), count)
    target = gaussian(m, n, seed=1)
    for rounds in range(1, 9):
        a = params["right"]
        params["left"].copy_((target - params["base"]) @ torch.linalg.pinv(a))
        resample(method, params, generators)
        left = (target - method.weight(params).dense()).square().sum((-2, -1)) / target.square().sum()
        assert abs(float(left.mean()) - (1 - r / n) ** rounds) < 4 * float(left.std()) / math.sqrt(count)


@pytest.mark.parametrize("name", ["momentum", "exp_avg"])
@pytest.mark.parametrize(("r", "n"), [(4, 64), (8, 16)])
def test_carrying_keeps_the_momentum_on_average_and_multiplies_its_energy(name, r, n):
    m, count, method = 10, 3000, Flora(rank=r, interval=1)
    params, generators = lanes(method, (m, n), count)
    moment = gaussian(m, r, seed=1).expand(count, m, r).clone()
    one = params["right"][:1].expand(count, r, n).clone()  # the same projection in every lane, so that only the new one varies
    params["right"] = one
    before = moment[0] @ one[0]
    state = {"left": {name: moment}}
    resample(method, params, generators, state)
    after = state["left"][name] @ params["right"]
    torch.testing.assert_close(state["left"][name], before @ params["right"].mT)
    growth = after.square().sum((-2, -1)) / before.square().sum()
    assert abs(float(growth.mean()) - (1 + (n + 1) / r)) < 4 * float(growth.std()) / math.sqrt(count)
    assert float((after.mean(0) - before).norm() / before.norm()) == pytest.approx(math.sqrt((n + 1) / r / count), rel=0.3)


def test_carrying_gives_every_entry_of_a_second_moment_its_rows_mean():
    # E over A of the squares of a row of G Aᵀ is ‖G_i‖²/r in every entry, whatever A was before
    shape, r, count = (6, 20), 4, 4000
    g = gaussian(*shape, seed=1) * torch.logspace(0, 3, 6, dtype=torch.float64)[:, None]
    method = Flora(rank=r, interval=1)
    params, generators = lanes(method, shape, count)
    seen = (g @ params["right"].mT).square()
    state = {"left": {"exp_avg_sq": seen.clone()}}
    resample(method, params, generators, state)
    carried = state["left"]["exp_avg_sq"]
    torch.testing.assert_close(carried, (seen.sum(-1) / r)[..., None].expand_as(seen))
    expected = (g.square().sum(-1) / r)[:, None].expand(6, r)
    torch.testing.assert_close(carried.mean(0), expected, rtol=5 * math.sqrt(2 / r / count), atol=0)


def momentum_after(method, steps, count=8, n=64, beta=0.9):
    """Root mean square over lanes of ‖M A‖ / ‖G‖ under a constant gradient G, with M the mean that β makes."""
    params, generators = lanes(method, (8, n), count)
    g = gaussian(8, n, seed=1)
    state = train(
        method, params, lambda weight: (weight.dense() * g).sum((-2, -1)), Momentum(momentum=beta), 1e-3, steps, generators
    )
    kept = (1 - beta) * state["left"]["momentum"] @ params["right"]
    return float((kept.square().sum((-2, -1)) / g.square().sum()).mean().sqrt())


@pytest.mark.parametrize(("interval", "grows"), [(1, True), (2, True), (5, True), (40, False), (100, False)])
def test_carried_momentum_is_stable_only_where_the_interval_outlasts_its_growth(interval, grows):
    n, r, beta, steps = 64, 4, 0.9, 199  # as far from a resample as can be
    gain = beta ** (2 * interval) * (1 + (n + 1) / r)  # of the energy, an interval
    assert grows == (gain > 1)
    reached = momentum_after(Flora(rank=r, interval=interval), steps)
    if grows:
        expected = gain ** (steps / interval / 2)
        assert reached > expected**0.5 > 30
    else:
        assert reached < 2 * math.sqrt(1 + (n + 1) / r)


def carried(method, intervals, count, n=64, m=8, beta=0.9):
    """The mean momentum M A (count, m, n) of each interval's last step under a constant gradient, and that gradient."""
    params, generators = lanes(method, (m, n), count)
    g, found = gaussian(m, n, seed=1), []
    optimizer = Momentum(momentum=beta)
    state = optimizer.init({"left": params["left"]})

    def watch(step, now):
        if (step + 1) % method.interval == 0:
            found.append((1 - beta) * state["left"]["momentum"] @ now["right"])

    def loss(weight):
        return (weight.dense() * g).sum((-2, -1))

    train(method, params, loss, optimizer, 1e-3, intervals * method.interval, generators, state=state, watch=watch)
    return found, g


@pytest.mark.parametrize("interval", [5, 13, 14, 40])
@pytest.mark.parametrize("momentum", ["carry", "reset"])
def test_the_energy_of_the_momentum_is_what_its_recursion_gives(interval, momentum):
    # Y ← (β^κ Y + (1 - β^κ) G) AᵀA where it is carried, and (1 - β^κ) G AᵀA where it is not; E ‖X AᵀA‖² = ‖X‖² (1 + (n + 1) / r)
    r, n, beta, count = 4, 64, 0.9, 800
    gain, kept = 1 + (n + 1) / r, beta**interval
    threshold = math.log(gain) / (2 * math.log(1 / beta))
    assert threshold == pytest.approx(13.5, abs=0.05)
    assert (gain * kept**2 > 1) == (interval < threshold)
    found, g = carried(Flora(rank=r, interval=interval, momentum=momentum), 3, count)
    energy = along = 0.0
    for y in found:
        before = (energy, along) if momentum == "carry" else (0.0, 0.0)
        energy = gain * (kept**2 * before[0] + 2 * kept * (1 - kept) * before[1] + (1 - kept) ** 2)
        along = kept * before[1] + 1 - kept
        for measured, expected in ((y.square().sum((-2, -1)), energy), ((y * g).sum((-2, -1)), along)):
            share = measured / g.square().sum()
            assert abs(float(share.mean()) - expected) < 4 * float(share.std()) / math.sqrt(count)
    if momentum == "reset":  # the cosine is that of one projection at every interval; carrying only lowers it
        assert along / math.sqrt(energy) == pytest.approx(math.sqrt(r / (r + n + 1)))


@pytest.mark.parametrize("interval", [1, 2, 5, 40])
def test_reset_momentum_is_bounded_at_every_interval(interval):
    # right after κ steps from zero it is (1 - β^κ) G Aᵀ, less what a resample took
    assert momentum_after(Flora(rank=4, interval=interval, momentum="reset"), 199) < 1.5 * math.sqrt(1 + 65 / 4)


def adam_updates(method, steps, lr, shape=(6, 32), count=40):
    """The steps of B under Adam and a constant gradient, by step."""
    g, moved = gaussian(*shape, seed=1), []
    params, generators = lanes(method, shape, count)
    previous = [params["left"].clone()]

    def watch(step, now):
        moved.append(now["left"] - previous[0])
        previous[0] = now["left"].clone() if (step + 1) % method.interval else torch.zeros_like(now["left"])

    state = train(method, params, lambda weight: (weight.dense() * g).sum((-2, -1)), Adam(), lr, steps, generators, watch=watch)
    return torch.stack(moved), state


def test_after_a_reset_adam_starts_like_new():
    lr = 1e-3
    moved, state = adam_updates(Flora(rank=4, interval=10, momentum="reset"), 25, lr)
    # under a constant gradient both corrected moments are exact at every step, so every entry moves by the rate
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, lr), rtol=1e-4, atol=0)
    assert state.counts["left"] == 5


def test_the_first_step_after_a_resample_is_of_the_order_of_the_rate_when_momentum_is_carried():
    lr, r, n, beta = 1e-3, 16, 32, 0.9
    moved, _ = adam_updates(Flora(rank=r, interval=20), 21, lr, shape=(20, n))
    rms = float((moved[20] / lr).square().mean().sqrt())
    # β M A_oldᵀ A_newᵀ + (1 - β) G A_newᵀ over rows whose mean squares are those of G Aᵀ
    assert rms == pytest.approx(math.sqrt(1 + beta**2 * (n + 1) / r), rel=0.35)
    assert moved[20].abs().median() < 3 * lr


def test_a_lane_resamples_as_it_does_alone():
    shape, method = (8, 12), Flora(rank=2, interval=3)
    target = lowrank(*shape, torch.ones(4), seed=2)
    params, generators = lanes(method, shape, 3)
    together = {name: tensor.clone() for name, tensor in params.items()}
    train(method, together, half_squared(target), Adam(), 0.05, 10, generators)
    for lane in range(3):
        alone = {name: tensor[lane : lane + 1].clone() for name, tensor in params.items()}
        train(method, alone, half_squared(target), Adam(), 0.05, 10, [seeded(10_000 + lane)])
        for name in alone:
            torch.testing.assert_close(together[name][lane], alone[name][0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"interval": -1}, "interval"), ({"interval": 2.5}, "interval"), ({"alpha": 0}, "alpha"), ({"momentum": "drop"}, "momentum")],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        Flora(**options)


def test_the_reach_is_full_only_where_it_merges():
    assert Flora(rank=3, interval=5).reach((9, 7)) == 7
    assert Flora(rank=3, interval=0).reach((9, 7)) == 3


@pytest.mark.parametrize(("m", "n", "r"), [(9, 5, 2), (5, 9, 1)])
def test_it_trains_b_alone(m, n, r):
    params = Flora(rank=r).init((m, n))
    assert sum(tensor.numel() for name, tensor in params.items() if name not in Flora().frozen) == r * m
