"""AdaLoRA's rules against references of a few lines: importance, the budget's schedule, who is masked, the penalty."""

import math

import pytest
import torch
from by_hand import gaussian, seeded

from bench.engine import Block, Settings
from linalg import InputError
from optimizers import SGD, Adam
from parameterizations import AdaLoRA, Step
from problems import MatrixFactorization, Stack

F64 = torch.float64


def lanes(method, layers, shape=(7, 5), seeds=2, rates=3):
    """A block's tensors (seeds, rates, layers, ...) and gradients, all at random; no layer dimension for `layers` None."""
    lead, r = (seeds, rates) if layers is None else (seeds, rates, layers), method.reach(shape)
    shapes = {"left": (shape[0], r), "diagonal": (r,), "right": (r, shape[1])}
    params, grads = ({n: gaussian(*lead, *s, seed=k + i) for i, (n, s) in enumerate(shapes.items())} for k in (0, 10))
    return params, grads, torch.full((seeds, rates), 0.1, dtype=F64)


def reference_scores(history, betas):
    """A triplet's score from one lane's [(params, grads), ...], entry by entry as the paper has it."""
    found = {}
    for name in ("left", "diagonal", "right"):
        mean = uncertainty = torch.zeros_like(history[0][0][name])
        for params, grads in history:
            importance = (params[name] * grads[name]).abs()
            mean = betas[0] * mean + (1 - betas[0]) * importance
            uncertainty = betas[1] * uncertainty + (1 - betas[1]) * (importance - mean).abs()
        found[name] = mean * uncertainty
    return found["diagonal"] + found["left"].mean(-2) + found["right"].mean(-1)


def walk(method, layers, steps, total):
    """Hooks along random parameters and gradients; yields the step, what went in, and the λ that came out."""
    at = Step(steps=total)
    history = []
    for at.step in range(steps):
        params, grads, at.lr = lanes(method, layers)
        for i, tensor in enumerate([*params.values(), *grads.values()]):
            tensor.copy_(gaussian(*tensor.shape, seed=1000 * at.step + i))
        history.append(({n: t.clone() for n, t in params.items()}, grads))
        method.after_step(params, grads, {}, at)
        yield at, history, params["diagonal"]


@pytest.mark.parametrize("layers", [None, 4])
def test_scores_are_the_papers_moving_averages(layers):
    method = AdaLoRA(3, betas=(0.85, 0.6), warmup=0, final=5)
    for at, history, _ in walk(method, layers, 6, 12):
        expected = reference_scores(history, method.betas)
        torch.testing.assert_close(method.scores(at), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("layers", [None, 4])
def test_the_least_important_triplets_of_a_lane_are_masked_down_to_the_cubic_budget(layers, interval):
    total, first, last = 30, 6, 21
    method = AdaLoRA(2, start=5, warmup=0.2, final=0.3, interval=interval)
    kept_at_last = None
    for at, history, diagonal in walk(method, layers, total, total):
        now, count = at.step + 1, layers or 1
        kept = diagonal != 0
        untouched = now <= first or (now < last and now % interval)
        if untouched:
            assert kept.all()
            assert torch.equal(diagonal, history[-1][0]["diagonal"])
            continue
        share = max(0.0, 1 - (now - first) / (last - first)) ** 3
        budget = math.floor(count * (2 + 3 * share) + 1e-9)
        scores = reference_scores(history[: last - 1], method.betas)  # the averages stand still once the pattern is kept
        for seed in range(2):
            for rate in range(3):
                ranked = sorted(scores[seed, rate].flatten().tolist(), reverse=True)
                assert torch.equal(kept[seed, rate], scores[seed, rate] >= ranked[budget - 1])
        if now >= last:
            kept_at_last = kept if kept_at_last is None else kept_at_last
            assert torch.equal(kept, kept_at_last)
            assert (kept.flatten(2).sum(-1) == 2 * count).all()


def test_ties_do_not_spoil_the_budget():
    method = AdaLoRA(2, start=5, warmup=0, final=0.5)
    at = Step(step=9, steps=10)
    params, grads, at.lr = lanes(method, 4)
    for grad in grads.values():
        grad.zero_()
    method.after_step(params, grads, {}, at)
    assert ((params["diagonal"] != 0).flatten(2).sum(-1) == 8).all()


def test_a_masked_triplet_trains_on_and_can_come_back():
    method = AdaLoRA(1, start=2, warmup=0, final=5, betas=(0.5, 0.5))  # ⌊1 + (2 - 1) share³⌋ = 1 from the first step on
    at, seen = Step(steps=30), []
    for at.step in range(20):
        params, grads, at.lr = lanes(method, None, seeds=1, rates=1)
        strong = int(at.step >= 10)
        params["diagonal"].copy_(torch.tensor([1.0, 1.0]))
        for name, grad in grads.items():
            grad.zero_()
            params[name].fill_(1)
        grads["diagonal"][..., strong] = 1 + at.step % 2
        method.after_step(params, grads, {}, at)
        assert all(bool((params[name] == 1).all()) for name in ("left", "right"))  # P and Q keep what they have
        seen.append((params["diagonal"] != 0)[0, 0].tolist())
    assert seen[5] == [True, False]
    assert seen[-1] == [False, True]


def run(problem, method, optimizer, rates, steps=200, dtype=F64):
    block = Block(
        [problem.draw(seed, dtype=dtype) for seed in (0, 1)], method, optimizer, [0, 1], rates, Settings(steps, dtype=dtype)
    )
    return block, block.run()


def test_a_run_scores_moved_entries_by_the_gradients_of_loss_and_penalty():
    problem, method = MatrixFactorization(shape=(7, 5)), AdaLoRA(2, orthogonality=0.3)
    block = Block([problem.draw(0, dtype=F64)], method, SGD(), [0], [0.1], Settings(10, dtype=F64))
    block.params["diagonal"].copy_(gaussian(3))
    leaves = {name: block.params[name][0, 0].clone().requires_grad_() for name in ("left", "diagonal", "right")}
    p, inner, q = leaves.values()
    eye = torch.eye(3, dtype=F64)
    loss = 0.5 * (p @ torch.diag(inner) @ q - problem.draw(0, dtype=F64).target).square().sum()
    loss = loss + 0.3 * ((p.mT @ p - eye).square().sum() + (q @ q.mT - eye).square().sum())
    found = torch.autograd.grad(loss, list(leaves.values()))
    block.find_gradients(0)
    block.step()
    for (name, leaf), grad in zip(leaves.items(), found, strict=True):
        importance = ((leaf.detach() - 0.1 * grad) * grad).abs()
        torch.testing.assert_close(block.at.memory[f"{name}_sensitivity"][0, 0], 0.15 * importance)
        torch.testing.assert_close(block.at.memory[f"{name}_uncertainty"][0, 0], 0.15 * 0.85 * importance)


@pytest.mark.parametrize("shape", [(12, 9), (9, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_run_ends_with_the_budget_met(shape, dtype):
    block, result = run(MatrixFactorization(shape=shape), AdaLoRA(3), Adam(), [1e-3, 1e-2], dtype=dtype)
    assert ((block.params["diagonal"] != 0).sum(-1) == 3).all()
    assert (result.curves["rank"][-1] == 3).all()
    assert (result.curves["rank"][3] == 5).all()  # ⌈3/2 rank⌉ until pruning starts


def test_a_stacks_layers_get_the_ranks_of_their_targets():
    # one budget of 16 over layers of ranks 1, 2, 4 and 9; four each would leave 0.34
    block, result = run(Stack(), AdaLoRA(4, start=9), Adam(), [0.03], steps=500)
    assert (block.params["diagonal"] != 0).sum(-1)[:, 0].tolist() == [[1, 2, 4, 9]] * 2
    assert (result.curves["loss"][-1] < 1e-4).all()


def test_each_lane_has_its_own_budget():
    block, result = run(Stack(), AdaLoRA(4), SGD(), [0.1, 1e6], steps=100)
    assert [row[1] for row in result.status] == ["diverged", "diverged"]
    assert ((block.params["diagonal"][:, 0] != 0).flatten(1).sum(-1) == 16).all()


@pytest.mark.parametrize("norm", ["squared", "unsquared"])
def test_the_penalty_vanishes_at_orthonormal_factors_and_has_finite_gradients_there(norm):
    left, right = torch.linalg.qr(gaussian(7, 3)).Q, torch.linalg.qr(gaussian(5, 3)).Q.mT
    leaves = {"left": left.requires_grad_(), "right": right.requires_grad_()}
    penalty = AdaLoRA(2, norm=norm).penalty(leaves)
    assert penalty.item() < 1e-14
    assert all(grad.abs().max() < 1 for grad in torch.autograd.grad(penalty, list(leaves.values())))


def test_the_two_penalties_are_the_papers_sum_of_squares_and_pefts_mean_of_norms():
    params, _, _ = lanes(AdaLoRA(2), 4)
    p, q = params["left"], params["right"]
    eye = torch.eye(3, dtype=F64)
    for seed, rate in ((0, 0), (1, 2)):
        defects = [p[seed, rate, k].mT @ p[seed, rate, k] - eye for k in range(4)]
        defects += [q[seed, rate, k] @ q[seed, rate, k].mT - eye for k in range(4)]
        squared = sum(float((defect**2).sum()) for defect in defects)
        mean = sum(float((defect**2).sum()) ** 0.5 for defect in defects) / 8
        for norm, expected in (("squared", squared), ("unsquared", mean)):
            found = AdaLoRA(2, norm=norm, orthogonality=0.3).penalty(params)[seed, rate].sum()
            assert float(found) == pytest.approx(0.3 * expected)


def test_the_penalty_makes_factors_orthonormal_and_without_it_they_are_not():
    defects = []
    for orthogonality in (0.1, 0.0):
        block, _ = run(MatrixFactorization(shape=(12, 9)), AdaLoRA(3, orthogonality=orthogonality), Adam(), [0.01], steps=600)
        left = block.params["left"][0, 0]
        defects.append(float((left.mT @ left - torch.eye(5, dtype=F64)).norm()))
    assert defects[0] < 0.05
    assert defects[1] > 0.5


@pytest.mark.parametrize(
    ("rank", "start", "shape", "reach"), [(4, None, (9, 8), 6), (3, None, (9, 8), 5), (8, None, (9, 8), 8), (4, 4, (9, 8), 4)]
)
def test_it_starts_with_three_halves_of_the_budget_where_there_is_room(rank, start, shape, reach):
    method = AdaLoRA(rank, start=start)
    assert method.reach(shape) == reach
    params = method.init(shape, generator=seeded(), dtype=F64)
    assert params["left"].shape == (shape[0], reach)
    assert not params["diagonal"].any()


def test_columns_and_rows_start_with_length_one_on_average():
    params = AdaLoRA(40).init((300, 200), generator=seeded(), dtype=F64)
    assert float(params["left"].square().sum(-2).mean()) == pytest.approx(1, rel=0.05)
    assert float(params["right"].square().sum(-1).mean()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"rank": 4, "start": 3}, "start"),
        ({"orthogonality": -1}, "orthogonality"),
        ({"norm": "nuclear"}, "norm"),
        ({"betas": (0.5,)}, "betas"),
        ({"betas": (0.5, 1.5)}, "betas"),
        ({"warmup": -1}, "warmup"),
        ({"final": "half"}, "final"),
        ({"interval": 0}, "interval"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        AdaLoRA(**options)
