"""The path of the weight does not depend on how it is factored; one lane beside a reference in other coordinates."""

import numpy as np
import pytest
import torch
from factor_pairs import TARGET, check_lanes, factors, farthest, refactored, walk

from bench.runs import run
from linalg import InputError
from optimizers import Adam, LoRARITE
from parameterizations import Full, LoRA
from problems import MatrixFactorization


def test_the_factors_do_not_matter_where_to_adam_they_do():
    start = factors()
    apart = {
        rule: farthest(*(walk(rule, params, 0.05, 30)[1] for params in (start, refactored(start)))) for rule in (LoRARITE(), Adam())
    }
    assert apart[LoRARITE()] < 1e-11
    assert apart[Adam()] > 0.1


def test_the_scale_does_not_matter():
    start = factors()
    scaled = {"left": start["left"] / 3, "right": start["right"]}
    assert farthest(walk(LoRARITE(), start, 0.05)[1], walk(LoRARITE(), scaled, 0.05, scale=3.0)[1]) < 1e-12


def test_the_first_step_is_a_spectral_one_on_each_side():
    """V = ḡᵀ ḡ / rows, so that ḡ V^(-1/2) has singular values √rows."""
    start, lr = factors(), 0.01
    after, _ = walk(LoRARITE(eps=1e-12), start, lr, steps=1)
    for move, rows in (
        ((after["left"] - start["left"]) @ start["right"], 6),
        (start["left"] @ (after["right"] - start["right"]), 5),
    ):
        expected = torch.tensor([lr * rows**0.5] * 2).double()
        torch.testing.assert_close(torch.linalg.svdvals(move)[:2], expected, rtol=1e-6, atol=0)


def root(matrix, eps):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(1 / (np.sqrt(np.maximum(values, 0)) + eps)) @ vectors.T


def reference(start, lr, steps, clip, eps=1e-6, betas=(0.9, 0.999)):
    """One lane in symmetric (polar) bases U = X (XᵀX)^(-1/2), with moments by explicit sums and their corrections."""
    pair, target = [start["left"].numpy().copy(), start["right"].numpy().T.copy()], TARGET.numpy()
    mean, square, before = [0, 0], [0, 0], [None, None]
    for t in range(1, steps + 1):
        gradient = pair[0] @ pair[1].T - target
        u, s, vt = zip(*(np.linalg.svd(x, full_matrices=False) for x in reversed(pair)), strict=True)
        bases = [a @ b for a, b in zip(u, vt, strict=True)]
        inverses = [b.T @ np.diag(1 / a) @ b for a, b in zip(s, vt, strict=True)]
        own = [gradient @ bases[0], gradient.T @ bases[1]]
        norm = np.sqrt(sum((g**2).sum() for g in own))
        own = [g * min(1, clip / norm) if clip else g for g in own]
        for i in range(2):
            turn = np.eye(2) if before[i] is None else bases[i].T @ before[i]
            square[i] = betas[1] * turn @ (square[i] * np.eye(2) if t == 1 else square[i]) @ turn.T
            square[i] = square[i] + (1 - betas[1]) * own[i].T @ own[i] / len(own[i])
            whitened = own[i] @ root(square[i] / (1 - betas[1] ** t), eps)
            mean[i] = betas[0] * (np.zeros_like(own[i]) if t == 1 else mean[i]) @ turn.T + (1 - betas[0]) * whitened
            pair[i] = pair[i] - lr * mean[i] / (1 - betas[0] ** t) @ inverses[i].T
            before[i] = bases[i]
    return torch.from_numpy(pair[0] @ pair[1].T)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_lane_beside_a_reference(clip):
    start = factors()
    _, weights = walk(LoRARITE(clip=clip), start, 0.02, 40)
    torch.testing.assert_close(weights[-1], reference(start, 0.02, 40, clip), rtol=1e-8, atol=1e-9)


def test_lanes():
    check_lanes(LoRARITE(weight_decay=0.1), 0.05)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(12, 20), (24, 16)])
def test_a_run_reaches_the_best_loss_and_counts_its_memory(shape, dtype):
    found = run(MatrixFactorization(shape=shape), LoRA(rank=3, alpha=6.0), LoRARITE(), lr=0.01, seeds=2, steps=300, dtype=dtype)
    assert (found.lanes.final_loss < found.lanes.floor * 1.01).all()
    size = 8 if dtype == "float64" else 4
    assert found.cost["state_bytes"] == (2 * 3 * sum(shape) + 2 * 3 * 3) * size


def test_what_it_takes():
    assert LoRARITE().supports(LoRA()) is None
    assert "two factors" in LoRARITE().supports(Full())
    for options, key in (({"eps": 0}, "eps"), ({"betas": (1.0, 0.9)}, "betas"), ({"clip": -1}, "clip")):
        with pytest.raises(InputError, match=f"^{key}="):
            LoRARITE(**options)
