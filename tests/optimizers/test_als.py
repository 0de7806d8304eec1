"""Alternating least squares beside closed forms: each half step, its fixed point, and the floors that theory gives."""

from dataclasses import dataclass

import pytest
import torch
from by_hand import gaussian

import bench
from bench.engine import Block, Settings
from linalg import FactoredMatrix, InputError
from optimizers import ALS
from parameterizations import SVD, Flora, LoRA
from problems import IllConditioned, LinearRegression, MatrixCompletion, MatrixFactorization, Stack

SPARSE = MatrixCompletion((70, 60), rank=1, observed=0.045)  # on gathered entries
PROBLEMS = {
    "factorization": MatrixFactorization((14, 9)),
    "completion": MatrixCompletion((16, 12), rank=2, observed=0.6, noise=0.1),
    "sparse completion": SPARSE,
    "regression": LinearRegression((8, 11), rank=2, noise=0.1),
    "stack": Stack((9, 12), ranks=(2, 4, 3)),  # none below the rank, where a column of the basis is rounding
}


def block(problem, method, rates=(1.0,), seeds=(0, 1), dtype=torch.float64, rule=ALS()):  # noqa: B008  # a value
    drawn = [problem.draw(seed, dtype=dtype) for seed in seeds]
    return Block(drawn, method, rule, list(seeds), list(rates), Settings(100, dtype=dtype))


def advance(built, first, steps):
    for step in range(first, first + steps):
        built.find_gradients(step)
        built.step()
    return built


def loss_and_gradients(built, left, right):
    """By autograd through the loss."""
    leaves = left.detach().requires_grad_(), right.detach().requires_grad_()
    weight = FactoredMatrix(leaves, built.params.get("base"), built.parameterization.scaling)
    loss = built.instance.loss(weight)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaves)


def best_beside(built, name, left, right):
    """The lowest loss of one lane over one factor, by Newton's step from the dense Hessian: exact for a quadratic."""
    method, params = built.parameterization, {"left": left, "right": right}

    def loss(flat):
        parts = {**params, name: flat.view_as(params[name])}
        chain = (parts["left"][None, None], parts["right"][None, None])
        return built.instance.loss(FactoredMatrix(chain, built.params.get("base"), method.scaling)).sum()

    at = params[name].flatten()
    hessian, slope = torch.autograd.functional.hessian(loss, at), torch.autograd.functional.jacobian(loss, at)
    return loss(at - torch.linalg.lstsq(hessian, slope[:, None], driver="gelsd").solution[:, 0])


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_step_reaches_the_lowest_loss_over_one_factor(name):
    built = block(PROBLEMS[name], LoRA(2, alpha=5.0), seeds=(0,))
    for step, factor in enumerate(("left", "right", "left", "right")):
        before = [built.params[each][0, 0].clone() for each in ("left", "right")]
        expected = best_beside(built, factor, *before)
        advance(built, step, 1)
        found = built.instance.loss(built.weight()).sum()
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_reaches_the_floor_of_eckart_and_young(shape, dtype):
    problem = MatrixFactorization(shape, kind="low_rank", rank=6, spectrum=(1.0, 0.9, 0.8, 0.3, 0.2, 0.1))
    run = bench.run(problem, LoRA(3, alpha=6.0), ALS(), lr=[1.0, 1.2], seeds=3, steps=30, dtype=dtype, probes="all")
    assert run.lanes.final_loss.to_numpy() == pytest.approx(0.5 * (0.3**2 + 0.2**2 + 0.1**2), rel=1e-5)
    assert run.cost["state_bytes"] == 0


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10])
def test_two_steps_solve_a_target_of_the_rank_whatever_its_condition(condition):
    run = bench.run(IllConditioned((20, 16), rank=4, condition=condition), LoRA(4), ALS(), lr=1.0, seeds=2, steps=2)
    assert (run.lanes.headline < 1e-13).all()


def test_every_layer_of_a_stack_reaches_its_own_floor():
    problem = Stack((20, 16), ranks=(1, 5, 3))
    built = advance(block(problem, LoRA(2)), 0, 60)
    error = (built.weight().dense() - built.instance.target).square().sum((-2, -1))
    floors = torch.tensor([0.0, 0.6**2 + 0.4**2 + 0.2**2, (1 / 3) ** 2]).double()
    torch.testing.assert_close(error, floors.expand(2, 1, 3), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "problem", [MatrixCompletion((40, 30), rank=2, observed=0.5), MatrixCompletion((600, 600), rank=1, observed=0.045)]
)
def test_a_matrix_is_completed_exactly_where_enough_is_seen(problem):
    run = bench.run(problem, LoRA(problem.rank), ALS(), lr=1.0, seeds=3, steps=80, dtype="float64")
    assert (run.lanes.final_relative_error < 1e-8).all()


def test_it_stops_where_neither_factor_has_a_gradient():
    built = advance(block(MatrixCompletion((16, 12), rank=2, observed=0.9, noise=0.1), LoRA(2)), 0, 100)
    loss, slopes = loss_and_gradients(built, built.params["left"], built.params["right"])
    assert all(slope.abs().max() < 1e-12 for slope in slopes)
    assert (loss > 1e-4).all()  # the noise is not fitted away
    again = advance(built, 100, 2).instance.loss(built.weight())
    torch.testing.assert_close(again, loss, rtol=1e-10, atol=0)


def test_regression_from_a_pretrained_weight_reaches_its_floor():
    problem = LinearRegression((12, 9), rank=2, noise=0.05)
    run = bench.run(problem, LoRA(2), ALS(), lr=1.0, seeds=2, steps=200, dtype="float64", probes="all")
    assert run.lanes.final_loss.to_numpy() == pytest.approx(run.lanes.floor.to_numpy(), rel=1e-6)


@dataclass(frozen=True)
class Shifted(LoRA):
    """Starts at the pretrained weight with factors that are not zero, so that its base is another."""

    def initial(self, shape, generator, base, gradient):
        params = super().initial(shape, generator, base, gradient)
        params["left"] = gaussian(*params["left"].shape)
        return {**params, "base": base - params["left"] @ params["right"]}


def test_a_base_of_the_methods_own_is_no_obstacle():
    built = block(LinearRegression((8, 11), rank=2), Shifted(2), seeds=(0,))
    for step, factor in enumerate(("left", "right", "left")):
        expected = best_beside(built, factor, built.params["left"][0, 0].clone(), built.params["right"][0, 0].clone())
        advance(built, step, 1)
        torch.testing.assert_close(built.instance.loss(built.weight()).sum(), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_rate_is_a_relaxation_of_a_parabola(name):
    rates = [0.25, 1.0, 1.75, 2.0, 3.0]
    built = block(PROBLEMS[name], LoRA(2), rates)
    start = built.instance.loss(built.weight())
    advance(built, 0, 1)
    after = built.instance.loss(built.weight())
    lowest = after[:, 1:2]
    shares = (torch.tensor(rates) - 1).double().square()  # of what the exact minimum takes off
    torch.testing.assert_close(after - lowest, (start[:, :1] - lowest) * shares, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_lane_in_a_block_equals_the_same_lane_alone(name):
    problem, settings = PROBLEMS[name], {"steps": 12, "dtype": "float64"}
    together = bench.run(problem, LoRA(2), ALS(), lr=[1.0, 1e200, 1.5], seeds=2, **settings).lanes
    for lane in (0, 2, 3, 5):
        row = together.loc[lane]
        alone = bench.run(problem, LoRA(2), ALS(), lr=row.lr, seeds=[int(row.seed)], **settings).lanes.final_loss[0]
        assert row.final_loss == pytest.approx(alone, rel=1e-6, abs=1e-14)
    assert (together.status[[1, 4]] == "diverged").all()


def test_fewer_iterations_than_the_system_needs_still_descend():
    problem = PROBLEMS["regression"]
    few, many = (bench.run(problem, LoRA(2), ALS(iterations=k), lr=1.0, steps=5, dtype="float64").lanes.loc[0] for k in (1, 100))
    assert many.final_loss < few.final_loss < few.initial_loss


@dataclass(frozen=True)
class Penalized(LoRA):
    def penalty(self, params):
        return params["left"].square().sum((-2, -1))


def test_what_it_cannot_solve_is_refused():
    assert "left and right" in ALS().supports(Flora())
    assert "left and right" in ALS().supports(SVD())
    assert "something else" in ALS().supports(Penalized())
    assert ALS().supports(LoRA()) is None
    with pytest.raises(InputError, match=r"problem\.batch_size=4: must be 0"):
        bench.run(LinearRegression((6, 8), batch_size=4), LoRA(2), ALS(), lr=1.0, steps=2)
    params = LoRA(2).init((5, 4))
    with pytest.raises(InputError, match="Step with an instance"):
        ALS().update(params, params, ALS().init(params), 1.0, 0)
    with pytest.raises(InputError, match=r"^iterations="):
        ALS(iterations=0)
