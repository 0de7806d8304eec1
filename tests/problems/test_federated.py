"""Clients: what their weights have in common, and losses against sums written out."""

import pytest
import torch
from by_hand import gaussian

from linalg import FactoredMatrix, InputError
from problems import Federated

F64 = torch.float64


def draw(seed=0, **options):
    return Federated(**({"shape": (9, 6), "clients": 3, "rank": 2} | options)).draw(seed, dtype=F64)


@pytest.mark.parametrize(("share", "rows", "columns"), [("rows", 2, 6), ("columns", 6, 2), ("both", 2, 2), ("nothing", 6, 6)])
def test_clients_share_the_spaces_that_they_are_said_to(share, rows, columns):
    target = draw(share=share).target
    assert target.shape == (3, 9, 6)
    for weight in target:
        torch.testing.assert_close(torch.linalg.svdvals(weight), torch.tensor([1.0, 1, 0, 0, 0, 0], dtype=F64))
    assert torch.linalg.matrix_rank(target.flatten(0, 1)) == rows
    assert torch.linalg.matrix_rank(torch.cat(list(target), -1)) == columns


def test_every_client_has_a_covariance_of_its_own_and_inputs_of_norm_one():
    inputs = draw(samples=4000, condition=100).inputs
    torch.testing.assert_close(torch.linalg.matrix_norm(inputs, 2), torch.ones(3, dtype=F64))
    values, axes = torch.linalg.eigh(inputs @ inputs.mT)
    torch.testing.assert_close(values[:, -1] / values[:, 0], torch.full((3,), 100.0, dtype=F64), rtol=0.2, atol=0)
    assert (axes[0, :, -1] @ axes[1, :, -1]).abs() < 0.99


def test_by_default_a_client_has_too_few_samples_to_tell_its_weight_by():
    assert draw().inputs.shape[-1] == 3


@pytest.mark.parametrize("reduction", ["sum", "mean", "relative"])
def test_losses_are_those_of_each_clients_own_weight(reduction):
    drawn = draw(reduction=reduction, samples=5)
    weight = gaussian(3, 9, 6)
    squares = [(weight[i] @ drawn.inputs[i] - drawn.target[i] @ drawn.inputs[i]).square().sum() for i in range(3)]
    total = {
        "sum": 0.5 * sum(squares),
        "mean": sum(squares) / (3 * 9 * 5),
        "relative": sum(squares) / drawn.outputs.square().sum(),
    }[reduction]
    measured = drawn.measure(FactoredMatrix((weight,)))
    torch.testing.assert_close(measured["loss"], total)
    torch.testing.assert_close(measured["client_loss"], total / 3)
    torch.testing.assert_close(measured["worst_client_loss"], total * max(squares) / sum(squares))
    torch.testing.assert_close(drawn.loss(FactoredMatrix((weight,))), total)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"clients": 0}, "clients"), ({"rank": 7}, "rank"), ({"condition": 0.5}, "condition")],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        draw(**options)
