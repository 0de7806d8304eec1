"""The theorem of deep-lora.md, section 1, against gradient descent written here: no step of it is taken from the package."""

import math

import pytest
import torch
from by_hand import descend, gaussian, gradients, half_squared, lowrank, seeded, stacked

from linalg import InputError
from parameterizations import Deep, DeepLoRA, LoRA

SQUARE, TALL, WIDE = (60, 60), (60, 30), (30, 60)
SCALES = (1e-3, 0.1, 1.0)


def target_of(shape, r, size=1.0):
    return size * lowrank(*shape, torch.linspace(1, 0.5, r), seed=3)


def networks(shape, target, half, depth, scale, seed=1, **options):
    """Deep's tensors and those of its compression, from one seed."""
    deep, compressed = Deep(depth, scale), DeepLoRA(2 * half, depth, scale, **options)
    full = deep.init(shape, generator=seeded(seed), dtype=torch.float64)
    small = compressed.init(shape, generator=seeded(seed), dtype=torch.float64, gradient=lambda weight: weight - target)
    return deep, full, compressed, small


def largest_gaps(shape, r, half, depth, decay, steps=150, lr=0.1):
    """max_t ‖f - f_C‖ for each of SCALES with the outer factors frozen, the gaps at the start, and how far f went."""
    target = target_of(shape, r)
    drawn = [networks(shape, target, half, depth, scale, outer_rate=0) for scale in SCALES]
    deep, compressed = drawn[0][0], drawn[0][2]
    full, small = stacked([lane[1] for lane in drawn]), stacked([lane[3] for lane in drawn])
    loss, gaps, moved = half_squared(target), [], []
    start = deep.weight(full).dense()
    for step in range(steps + 1):
        if step:
            descend(deep, full, loss, lr, decay)
            descend(compressed, small, loss, lr, decay)
        now = deep.weight(full).dense()
        gaps.append((now - compressed.weight(small).dense()).norm(dim=(-2, -1)))
        moved.append((now - start).norm(dim=(-2, -1)))
    return torch.stack(gaps).amax(0), gaps[0], torch.stack(moved).amax(0)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize(
    ("shape", "r", "half"),
    [
        (SQUARE, 3, 3),
        (SQUARE, 3, 5),
        (TALL, 3, 3),
        (TALL, 3, 5),
        (WIDE, 3, 3),
        (WIDE, 3, 5),
        ((20, 16), 7, 7),  # 3 r̂ exceeds the longer side
        ((16, 20), 7, 7),
        ((20, 16), 3, 8),  # nothing is left over: the compressed network is the full one
        ((16, 20), 3, 8),
        ((12, 12), 6, 6),
        ((31, 30), 2, 3),
        ((60, 8), 1, 2),
        ((8, 60), 1, 2),
        ((31, 30), 0, 4),  # a target of rank zero
    ],
)
def test_the_compressed_network_never_strays_further_than_it_starts(shape, r, half, depth, decay):
    largest, first, moved = largest_gaps(shape, r, half, depth, decay)
    for lane, scale in enumerate(SCALES):
        bound = scale**depth * math.sqrt(min(shape) - 2 * half)
        assert largest[lane] <= bound * (1 + 1e-6) + 1e-10
        assert first[lane] == pytest.approx(bound, rel=1e-6, abs=1e-14)
    assert moved[-1] > (0.5 if r else 1e-3)  # from ε = 1 they have gone somewhere


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("shape", [SQUARE, TALL, WIDE])
def test_both_networks_reach_the_target_together(shape, depth):
    target = target_of(shape, 3)
    deep, full, compressed, small = networks(shape, target, 3, depth, 0.1, outer_rate=0)
    for _ in range(400):
        descend(deep, full, half_squared(target), 0.3)
        descend(compressed, small, half_squared(target), 0.3)
    start, found = 0.1**depth, deep.weight(full).dense()
    assert (found - target).norm() <= start * math.sqrt(min(shape) - 3)  # all but the values that only decay
    assert (found - compressed.weight(small).dense()).norm() <= start * math.sqrt(min(shape) - 6)


def null_space_basis(full, target, depth, r):
    """(n, n - 2r) V_2 of the theorem: null(Ψ) ∩ null(Ψᵀ W_1) with Ψ = (W_L … W_2)ᵀ target; for a wide target of its transpose."""
    factors = [full[f"factor_{layer}"] for layer in range(1, depth + 1)]
    if target.shape[0] < target.shape[1]:
        factors, target = [factor.mT for factor in reversed(factors)], target.mT
    upper = torch.eye(target.shape[0]).double()
    for factor in reversed(factors[1:]):
        upper = upper @ factor
    psi = upper.mT @ target
    psi = psi / psi.norm()
    both = torch.cat([psi, psi.mT @ factors[0] / factors[0].norm(2)])
    return torch.linalg.svd(both).Vh[2 * r :].mT


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("shape", [SQUARE, TALL, WIDE])
def test_the_subspace_of_the_first_gradient_is_that_of_the_null_space_route(shape, depth, scale):
    r, target = 3, target_of(shape, 3)
    _, full, _, small = networks(shape, target, r, depth, scale)
    rest = null_space_basis(full, target, depth, r)
    side = min(shape)
    inner = small["left"] if shape[0] < shape[1] else small["right"].mT
    assert inner.shape == (side, 2 * r)
    torch.testing.assert_close(inner @ inner.mT, torch.eye(side).double() - rest @ rest.mT, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "half"), [(TALL, 3), (TALL, 5), (WIDE, 3), (WIDE, 5), (SQUARE, 3), (SQUARE, 5), ((20, 16), 7), ((16, 20), 7)]
)
def test_outer_factors_are_orthonormal_and_hold_the_target(shape, half):
    target = target_of(shape, 3)
    small = networks(shape, target, half, 3, 0.1)[3]
    left, right = small["left"], small["right"]
    torch.testing.assert_close(left.mT @ left, torch.eye(left.shape[1]).double())
    torch.testing.assert_close(right @ right.mT, torch.eye(right.shape[0]).double())
    torch.testing.assert_close(left @ left.mT @ target @ right.mT @ right, target)


@pytest.mark.parametrize("shape", [SQUARE, TALL, WIDE])
def test_a_base_is_part_of_the_first_gradient_and_shifts_the_target(shape):
    target, base = target_of(shape, 3), gaussian(*shape, seed=4)
    method = DeepLoRA(6, 3, 0.1)
    shifted = method.init(shape, generator=seeded(), dtype=torch.float64, base=base, gradient=lambda weight: weight - base - target)
    plain = method.init(shape, generator=seeded(), dtype=torch.float64, gradient=lambda weight: weight - target)
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, shifted[name])


@pytest.mark.parametrize(("decay", "momentum"), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.9)])
@pytest.mark.parametrize("shape", [SQUARE, TALL, WIDE])
@pytest.mark.parametrize("depth", [2, 3])
def test_every_factor_of_the_deep_network_keeps_its_two_blocks(shape, depth, decay, momentum):
    r, scale, lr = 3, 0.3, 0.1 if momentum == 0 else 0.02
    target = target_of(shape, r)
    deep, params, _, _ = networks(shape, target, r, depth, scale)
    rest = null_space_basis(params, target, depth, r)
    factors = range(1, depth + 1) if shape[0] >= shape[1] else range(depth, 0, -1)
    turned = {layer: params[f"factor_{layer}"] if shape[0] >= shape[1] else params[f"factor_{layer}"].mT for layer in factors}
    images = [rest]  # V_{l,2}; U_{l,2} is the next
    for layer in factors:
        images.append(turned[layer] @ images[-1] / scale)
    rho, speed, velocity = [scale] * depth, [0.0] * depth, {} if momentum else None
    for _ in range(150):
        descend(deep, params, half_squared(target), lr, decay, momentum, velocity=velocity)
        slopes = [math.prod(value**2 for k, value in enumerate(rho) if k != one) * rho[one] for one in range(depth)]
        speed = [momentum * v + slope for v, slope in zip(speed, slopes, strict=True)]
        rho = [value - lr * (decay * value + v) for value, v in zip(rho, speed, strict=True)]
        for k, layer in enumerate(factors):
            factor = params[f"factor_{layer}"] if shape[0] >= shape[1] else params[f"factor_{layer}"].mT
            assert (factor @ images[k] - rho[k] * images[k + 1]).norm(2) <= 1e-11
    values = torch.linalg.svd(deep.weight(params).dense() if shape[0] >= shape[1] else deep.weight(params).dense().mT)
    assert values.S[r - 1] > 5 * values.S[r]  # it has learned
    assert (rest.mT @ values.Vh[:r].mT).norm(2) <= 1e-11  # sine of the angle to V_{1,1}


def test_adam_breaks_the_blocks():
    r, scale, shape = 3, 1e-3, (30, 30)
    target = target_of(shape, r)
    deep, params, _, _ = networks(shape, target, r, 3, scale)
    rest = null_space_basis(params, target, 3, r)
    image = params["factor_1"] @ rest / scale
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    adam = torch.optim.Adam(leaves.values(), lr=1e-2)
    for _ in range(300):
        adam.zero_grad()
        half_squared(target)(deep.weight(leaves)).backward()
        adam.step()
    now = leaves["factor_1"].detach() @ rest
    best = (image * now).sum() / image.square().sum()  # the multiple of the image that is nearest
    assert (now - best * image).norm(2) > scale
    learned = torch.linalg.svd(deep.weight(leaves).dense().detach()).Vh[:r]
    assert (rest.mT @ learned.mT).norm(2) < 1e-3  # and yet what is learned lies in V_{1,1}: 1e-5


@pytest.mark.parametrize(("depth", "c"), [(2, 63.0), (3, 63.0), (3, 0.1), (4, 5.0)])
def test_a_scaled_target_is_the_same_run_at_scaled_rates(depth, c):
    shape = (24, 20)
    mask = (torch.rand(shape, generator=seeded(5), dtype=torch.float64) < 0.6).double()

    def curve(size, scale, lr, outer):
        target = target_of(shape, 2, size)
        method = DeepLoRA(4, depth, scale, outer)
        params = method.init(shape, generator=seeded(), dtype=torch.float64, gradient=lambda weight: mask * (weight - target))
        assert dict(method.rates) == {"left": outer, "right": outer}
        errors = []
        for _ in range(150):
            descend(method, params, lambda weight: 0.5 * (mask * (weight.dense() - target)).square().sum(), lr)
            errors.append((method.weight(params).dense() - target).norm() / target.norm())
        return torch.stack(errors)

    unit = curve(1.0, 0.2, 0.2, 0.5)
    scaled = curve(c, 0.2 * c ** (1 / depth), 0.2 * c ** -(2 - 2 / depth), 0.5 * c ** (-2 / depth))
    assert unit[-1] < 0.9 * unit[0]
    torch.testing.assert_close(scaled, unit, rtol=0, atol=1e-6)


def test_completion_needs_the_outer_factors_to_move():
    n, r, observed = 100, 3, 0.3
    target = lowrank(n, n, torch.ones(r), seed=3)
    mask = torch.zeros(n * n).double()
    mask[torch.randperm(n * n, generator=seeded(1))[: int(observed * n * n)]] = 1
    mask = mask.reshape(n, n)
    method = DeepLoRA(2 * r, 3, 1e-2)
    first = method.init((n, n), generator=seeded(2), dtype=torch.float64, gradient=lambda weight: mask * (weight - target))
    outer = torch.tensor([0.0, 1.0]).double()[:, None, None]
    deep = Deep(3, 1e-2)
    full = deep.init((n, n), generator=seeded(2), dtype=torch.float64)
    block = stacked([first] * len(outer))
    loss = lambda weight: 0.5 * (mask * (weight.dense() - target)).square().sum((-2, -1))  # noqa: E731
    for _ in range(1000):
        descend(method, block, loss, 0.8, rates={"left": outer, "right": outer})
        descend(deep, full, loss, 0.8)
    weights = torch.cat([method.weight(block).dense(), deep.weight(full).dense()[None]])
    frozen, moving, whole = ((1 - mask) * (weights - target)).norm(dim=(-2, -1)) / ((1 - mask) * target).norm()
    assert frozen > 0.1
    assert moving <= 1e-5
    assert whole <= 1e-4


def test_a_third_factor_of_full_width_finds_the_low_rank_that_two_do_not():
    # both fit what is observed; the unobserved is missed by 3e-5 and by 0.10
    n, r, errors = 60, 3, {}
    target = lowrank(n, n, torch.ones(r), seed=3)
    mask = (torch.rand(n, n, generator=seeded(1), dtype=torch.float64) < 0.3).double()
    loss = lambda weight: 0.5 * (mask * (weight.dense() - target)).square().sum()  # noqa: E731
    for depth, lr in ((2, 0.4), (3, 0.8)):
        deep = Deep(depth, 1e-2)
        params = deep.init((n, n), generator=seeded(2), dtype=torch.float64)
        for _ in range(1000):
            descend(deep, params, loss, lr)
        assert loss(deep.weight(params)) < 1e-4
        errors[depth] = ((1 - mask) * (deep.weight(params).dense() - target)).norm() / ((1 - mask) * target).norm()
    assert errors[2] > 0.03
    assert errors[3] < 1e-3


def test_without_an_outer_rate_the_outer_factors_are_frozen():
    shape = (9, 6)
    for rate, trainable in ((0, {"core_1", "core_2", "core_3"}), (0.3, {"core_1", "core_2", "core_3", "left", "right"})):
        method = DeepLoRA(4, 3, 0.1, rate)
        params = method.init(shape, generator=seeded(), dtype=torch.float64, gradient=lambda weight: weight - 1)
        assert set(gradients(method, params, half_squared(torch.ones(shape)))) == trainable
        assert dict(method.rates) == ({"left": 0.3, "right": 0.3} if rate else {})


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("shape", [SQUARE, TALL, WIDE])
def test_deep_starts_as_orthogonal_factors_of_the_asked_size(shape, depth):
    deep = Deep(depth, 0.2)
    params = deep.init(shape, generator=seeded(), dtype=torch.float64)
    for layer in range(1, depth + 1):
        values = torch.linalg.svdvals(params[f"factor_{layer}"])
        torch.testing.assert_close(values, torch.full((min(shape),), 0.2).double())
    torch.testing.assert_close(torch.linalg.svdvals(deep.weight(params).dense()), torch.full((min(shape),), 0.2**depth).double())
    assert sum(tensor.numel() for tensor in params.values()) == sum(shape) * min(shape) + (depth - 2) * min(shape) ** 2


def test_deep_lora_has_one_percent_more_parameters_than_lora_at_its_width():
    # 768 x 768 at width 8, from the dossier: 12 480 against 12 288
    gradient = lambda weight: -torch.eye(768).double()  # noqa: E731
    deep_lora = DeepLoRA(8, 3).init((768, 768), generator=seeded(), gradient=gradient)
    lora = LoRA(8).init((768, 768))
    assert sum(tensor.numel() for tensor in deep_lora.values()) == 12_480
    assert sum(tensor.numel() for tensor in lora.values()) == 12_288


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: DeepLoRA(rank=3), "^rank=3: must be even"),
        (lambda: DeepLoRA(depth=1), "^depth=1"),
        (lambda: DeepLoRA(scale=0), "^scale=0"),
        (lambda: DeepLoRA(outer_rate=-1), "^outer_rate=-1"),
        (lambda: DeepLoRA(rank=2).init((4, 4)), "^gradient=None"),
        (lambda: Deep(depth=1), "^depth=1"),
        (lambda: Deep(depth=2.5), "^depth=2.5"),
        (lambda: Deep(scale=-1), "^scale=-1"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(build, named):
    with pytest.raises(InputError, match=named):
        build()


@pytest.mark.parametrize("shape", [(600, 530), (530, 600), (520, 520)])
def test_a_large_gradients_leading_vectors_are_those_of_its_whole_decomposition(shape):
    """By the span of `right` (or of `left` of a wide weight), from a decomposition written out here."""
    (m, n), rank = shape, 6
    gradient = gaussian(m, n, seed=1)
    method = DeepLoRA(rank=rank)
    params = method.init(shape, generator=seeded(), dtype=torch.float64, gradient=lambda weight: gradient)
    start = Deep(method.depth, method.scale).init(shape, generator=seeded(), dtype=torch.float64)
    q = Deep(method.depth, method.scale).weight(start).update() / method.scale**method.depth
    u, _, vt = torch.linalg.svd(gradient, full_matrices=False)
    u, v = u[:, : rank // 2], vt[: rank // 2].mT
    narrow = torch.cat([v, q.mT @ u], 1) if m >= n else torch.cat([u, q @ v], 1)
    basis = torch.linalg.qr(narrow).Q
    found = params["right"].mT if m >= n else params["left"]
    torch.testing.assert_close(found @ found.mT, basis @ basis.mT, rtol=0, atol=1e-10)
    again = method.init(shape, generator=seeded(), dtype=torch.float64, gradient=lambda weight: gradient)
    assert all(torch.equal(tensor, again[name]) for name, tensor in params.items())


def test_a_large_gradient_of_zero_still_starts():
    params = DeepLoRA(rank=4).init((520, 520), generator=seeded(), gradient=torch.zeros_like)
    assert all(tensor.isfinite().all() for tensor in params.values())
