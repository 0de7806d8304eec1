"""Flora on the full weight: its projections, its memory, its loop, and the interval below which carried momentum grows."""

import math

import pytest
import torch
from by_hand import gaussian, seeded
from lanes_alone import Walk, assert_a_lost_lane_leaves_the_rest, assert_block_steps_as_lanes_alone, assert_runs
from pytorch_optimizer import AdaFactor as Twin

from linalg import InputError
from optimizers import Flora
from optimizers._projection import down, projection, up
from parameterizations import Step


def seeds(count, start=0):
    return torch.arange(start, start + count)


@pytest.mark.parametrize("shape", [(12, 9), (9, 12)])
def test_the_way_down_and_up_is_unbiased_and_multiplies_the_energy_as_theory_says(shape):
    count, rank, short = 5000, 4, 9
    grad = gaussian(*shape, seed=1)
    back = up(down(grad.expand(count, *shape), seeds(count), rank), seeds(count), grad.expand(count, *shape))
    energy = 1 + (short + 1) / rank
    spread = math.sqrt(energy - 1) / math.sqrt(count)  # of the mean, relative to the gradient
    assert (back.mean(0) - grad).norm() < 1.5 * spread * grad.norm()
    assert (back.square().sum((-2, -1)) / grad.square().sum()).mean().item() == pytest.approx(energy, rel=0.04)
    cosine = (back * grad).sum() / (back.norm() * grad.norm() * math.sqrt(count))
    assert cosine.item() == pytest.approx(math.sqrt(rank / (rank + short + 1)), rel=0.04)


def test_each_transfer_of_momentum_multiplies_its_energy_alike_and_is_unbiased():
    count, rank, shape = 5000, 4, (12, 9)
    grad = gaussian(*shape, seed=1).expand(count, *shape)
    momentum = down(grad, seeds(count), rank)
    carried = down(up(momentum, seeds(count), grad), seeds(count, count), rank)
    ratio = carried.square().sum((-2, -1)).mean() / momentum.square().sum((-2, -1)).mean()
    assert ratio.item() == pytest.approx(1 + 10 / rank, rel=0.04)
    assert (up(carried, seeds(count, count), grad).mean(0) - grad[0]).norm() < 0.1 * grad[0].norm()


def test_a_projection_is_its_seed():
    like = torch.zeros(3, 2, 5, 6, 4)  # seeds, rates, layers
    found = projection(seeds(15), 2, like)
    assert found.shape == (3, 1, 5, 4, 2)
    expected = torch.randn(4, 2, dtype=torch.float64, generator=seeded(7)).float() / math.sqrt(2)
    torch.testing.assert_close(found[1, 0, 2], expected)
    assert torch.equal(projection(seeds(15), 2, like), found)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_the_state_is_what_the_paper_counts(shape):
    def taken(**options):
        rule = Flora(rank=4, **options)
        return rule.state_bytes(rule.init({"w": torch.zeros(shape)}))

    factored = 4 * (30 + 20)
    assert taken(beta1=0.0) == factored
    assert taken() == factored + 4 * 4 * 30 + 8  # r times the longer side, and a seed
    assert taken(accumulation=3) == factored + 2 * (4 * 4 * 30 + 8)
    whole = Flora(rank=20)  # no smaller than the shorter side: nothing to save
    assert whole.state_bytes(whole.init({"w": torch.zeros(shape)})) == factored + 4 * 600
    lanes = {"w": torch.zeros(2, 3, *shape)}
    rule = Flora(rank=4)
    assert rule.state_bytes(rule.init(lanes)) == 6 * (factored + 4 * 4 * 30) + 2 * 8  # the rates of a seed share its projection


@pytest.mark.parametrize("options", [{}, {"scale_parameter": False}, {"clip_threshold": 0.5}, {"weight_decay": 0.1}])
def test_without_momentum_it_is_adafactor(options):
    own = {{"clip_threshold": "d"}.get(name, name): value for name, value in options.items()}
    theirs = {"betas": (None, 1.0 - 1e-16), "relative_step": False, "foreach": False} | options
    Walk(Flora(beta1=0.0, **own), Twin, 0.05, {"tall": (6, 3), "wide": (3, 5), "bias": (4,)}, **theirs).go(30, 1e-9)


def reference(grads, weight, lr, rank, interval, beta1, streams):
    """The order of the authors' torch code, step by step."""
    m, n = weight.shape
    row, column = torch.zeros(m).double(), torch.zeros(n).double()

    def draw():
        seed = int(torch.randint(2**62, (1,), generator=streams))
        return torch.randn(min(m, n), rank, dtype=torch.float64, generator=seeded(seed)) / math.sqrt(rank)

    def compress(x, a):
        return a.T @ x if m < n else x @ a

    def decompress(x, a):
        return a @ x if m < n else x @ a.T

    a = draw()
    momentum = torch.zeros_like(compress(weight, a))
    for t, grad in enumerate(grads, 1):
        beta2 = 1 - t**-0.8
        rate = lr * max(1e-3, weight.square().mean().sqrt().item())
        squares = grad**2 + 1e-30
        row, column = beta2 * row + (1 - beta2) * squares.mean(1), beta2 * column + (1 - beta2) * squares.mean(0)
        update = grad / torch.sqrt(row / row.mean())[:, None] / torch.sqrt(column)
        moved = beta1 * decompress(momentum, a) + (1 - beta1) * update
        if t % interval == 0:
            old, a = a, draw()
            momentum = compress(decompress(momentum, old), a)
        momentum = beta1 * momentum + (1 - beta1) * compress(update, a)
        weight = weight - rate * 0.1 * weight - rate * moved / max(1.0, moved.square().mean().sqrt().item())
    return weight


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_it_is_the_authors_loop(shape):
    grads, start = gaussian(20, *shape, seed=3), gaussian(*shape)
    rule, params = Flora(rank=2, interval=6, beta1=0.8, weight_decay=0.1), {"w": start.clone()}
    state, at = rule.init(params), Step(generators=[seeded(9)])
    for at.step, grad in enumerate(grads):
        rule.update(params, {"w": grad}, state, 0.1, at)
    torch.testing.assert_close(params["w"], reference(grads, start, 0.1, 2, 6, 0.8, seeded(9)), rtol=1e-10, atol=1e-10)


def size_of_momentum(interval, steps=300):
    """Mean of M Aᵀ's energy over a constant gradient's direction, from 10 streams."""
    sign = gaussian(16, 16, seed=2).sign()  # Adafactor's direction is the sign itself, at every step
    rule, params = Flora(rank=4, interval=interval), {"w": torch.zeros(10, 1, 16, 16).double()}
    state, at = rule.init(params), Step(generators=[seeded(100 + seed) for seed in range(10)])
    for at.step in range(steps):
        rule.update(params, {"w": sign.expand(10, 1, 16, 16)}, state, torch.zeros(10, 1).double(), at)
    return state["w"]["momentum"].square().sum((-2, -1)).mean().item() / sign.square().sum().item()


def test_carried_momentum_stays_bounded_only_over_long_intervals():
    threshold = math.log(1 + 17 / 4) / (2 * math.log(1 / 0.9))
    assert threshold == pytest.approx(7.87, abs=0.01)
    assert size_of_momentum(3) > 1e6
    assert size_of_momentum(5) > 1e2
    assert size_of_momentum(30) < 10
    assert size_of_momentum(0) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_accumulated_gradients_move_the_weight_by_their_compressed_mean(shape):
    options = {"beta1": 0.0, "eps1": 0.1}  # with an eps1 that counts: else Adafactor does not tell a mean from a sum
    grads, start = gaussian(6, *shape, seed=3), gaussian(*shape)
    rule, params = Flora(rank=2, accumulation=3, **options), {"w": start.clone()}
    state, at, streams = rule.init(params), Step(generators=[seeded(9)]), seeded(9)
    plain, expected, used = Flora(**options), {"w": start.clone()}, []
    moments = plain.init(expected)
    for at.step, grad in enumerate(grads):
        assert torch.equal(params["w"], start) == (at.step < 3)
        rule.update(params, {"w": grad}, state, 0.1, at)
        if at.step % 3 < 2:
            continue
        used.append(int(torch.randint(2**62, (1,), generator=streams)))
        a = torch.randn(4, 2, dtype=torch.float64, generator=seeded(used[-1])) / math.sqrt(2)
        mean = grads[at.step - 2 : at.step + 1].mean(0)
        plain.update(expected, {"w": mean @ a @ a.T if shape[0] > shape[1] else a @ a.T @ mean}, moments, 0.1, at.step)
        torch.testing.assert_close(params["w"], expected["w"])
    assert used[0] != used[1]  # another projection for every sum


def test_without_streams_it_says_so():
    rule, params = Flora(rank=2), {"w": gaussian(6, 4)}
    with pytest.raises(InputError, match=r"^generators: 0 given, but 1 projections"):
        rule.update(params, {"w": gaussian(6, 4)}, rule.init(params), 0.1, 0)


@pytest.mark.parametrize("options", [{"interval": 3}, {"interval": 2, "accumulation": 2, "weight_decay": 0.1}, {"beta1": 0.0}])
def test_lanes(options):
    rule = Flora(rank=2, **options)
    assert_block_steps_as_lanes_alone(rule, steps=8)
    assert_block_steps_as_lanes_alone(rule, steps=8, reset_at=3)
    assert_a_lost_lane_leaves_the_rest(rule, steps=8)


def test_it_runs():
    assert_runs(Flora(rank=2, interval=20, scale_parameter=False), 0.02)


@pytest.mark.parametrize("options", [{"rank": 0}, {"interval": -1}, {"beta1": 2}, {"accumulation": -1}, {"eps1": 0}, {"d": 0}])
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}="):
        Flora(**options)
