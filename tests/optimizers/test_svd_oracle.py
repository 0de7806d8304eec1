"""The oracle is at the floor that theory gives, at once and for good."""

from dataclasses import dataclass

import pytest
import torch
from by_hand import gaussian

import bench
from bench.catalogue import check_cell
from linalg import InputError
from optimizers import SVDOracle
from parameterizations import Flora, LoRA
from problems import Hilbert, LinearRegression, MatrixCompletion, MatrixFactorization, Stack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "problem",
    [
        MatrixFactorization((14, 9)),
        MatrixFactorization((9, 14), reduction="mean", normalize="none"),
        MatrixFactorization((40, 30)),
        Hilbert(),
        Stack((9, 12), ranks=(1, 4, 2)),
    ],
)
def test_from_the_first_step_on_the_loss_is_the_best_of_the_rank(problem, dtype):
    run = bench.run(problem, LoRA(2, alpha=6.0), SVDOracle(), lr=[0.1, 1.0], seeds=2, steps=5, dtype=dtype)
    for (seed, lr), curve in run.curves.groupby(["seed", "lr"]):
        best = problem.draw(seed, dtype=torch.float64).best(2)
        losses = curve.loss.to_numpy()
        assert losses[0] > 2 * best
        assert losses[1:] == pytest.approx(best, rel=1e-5 if dtype == torch.float32 else 1e-12), lr
    assert run.cost["state_bytes"] == 0
    assert (run.lanes.floor / run.lanes.final_loss).to_numpy() == pytest.approx(1, rel=1e-5)


def test_the_factors_are_balanced_and_their_product_is_the_truncated_svd():
    instance = MatrixFactorization((9, 7)).draw(3, dtype=torch.float64)
    stacked = type(instance).stack([instance])
    method = LoRA(3, alpha=12.0)
    params = {name: tensor[None, None] for name, tensor in method.init((9, 7), dtype=torch.float64).items()}
    grads = stacked.part_gradients((4 * params["left"], params["right"]), None, (True, True), None)
    rule = SVDOracle()
    state = rule.init(params, scale=4.0)
    rule.update(params, {"left": 4 * grads[0], "right": grads[1]}, state, 0.1, bench.engine.Step(instance=stacked))
    left, values, right = torch.linalg.svd(instance.target)
    expected = (left[:, :3] * values[:3]) @ right[:3]
    torch.testing.assert_close(method.weight(params).dense()[0, 0], expected)
    torch.testing.assert_close(params["left"].mT @ params["left"], params["right"] @ params["right"].mT)


@dataclass(frozen=True)
class Shifted(LoRA):
    def initial(self, shape, generator, base, gradient):
        return {**super().initial(shape, generator, base, gradient), "base": gaussian(*shape)}


def test_what_it_cannot_place_is_refused():
    assert "base is another or changes" in SVDOracle().supports(Flora())
    assert "left and right" in SVDOracle().supports(Flora(interval=0))
    assert SVDOracle().supports(LoRA()) is None
    for problem in (LinearRegression((6, 6)), MatrixCompletion((6, 6))):
        with pytest.raises(InputError, match="a matrix to approximate"):
            check_cell(problem, SVDOracle(), LoRA())
    with pytest.raises(InputError, match="a base of its own"):
        bench.run(MatrixFactorization((9, 7)), Shifted(2), SVDOracle(), lr=1.0, steps=2)
    params = LoRA(2).init((5, 4))
    with pytest.raises(InputError, match="Step with an instance"):
        SVDOracle().update(params, params, SVDOracle().init(params), 1.0, 0)
