"""Every rule beside the methods that restart tensors and moments on the way: the step at which they do is crossed."""

import pytest
import torch
from catalogue import members

import optimizers
from bench.engine import Block, Settings
from optimizers import SOAP, Adam, Optimizer, Torch
from parameterizations import CoLoR, FedLoRA, Flora, ReLoRA, XGBLoRA
from problems import Continual, Federated, MatrixFactorization, Stack

RULES = {name: cls() for name, found in members(optimizers, Optimizer).items() for cls in found}
RULES["soap"] = SOAP(one_sided=True)  # a tall factor's gradient has a kernel, whose basis rounding chooses
PAIRS = [
    (Flora(rank=4, interval=3), MatrixFactorization((9, 8))),
    (ReLoRA(rank=4, interval=3, warmup=1), MatrixFactorization((8, 9))),
    (XGBLoRA(rank=1, interval=3, layers_per_round=1), Stack((9, 8), ranks=(1, 2))),
    (FedLoRA(rank=2, local_steps=3), Federated((8, 9), clients=3, rank=2)),
    (CoLoR(rank=2), Continual((9, 8), tasks=3, rank=2)),
]


def trained(method, problem, rule, rates):
    drawn = [problem.draw(0, dtype=torch.float64)]
    block = Block(drawn, method, rule, [0], rates, Settings(8, dtype=torch.float64))
    for step in range(8):
        block.find_gradients(step)
        block.step()
    return block


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("method", "problem"), PAIRS, ids=[type(method).__name__ for method, _ in PAIRS])
def test_a_lane_goes_through_restarts_as_it_would_alone(method, problem, rule):
    optimizer = RULES[rule]
    if optimizer.supports(method) is not None or not set(optimizer.needs) <= set(problem.provides):
        pytest.skip("refused")
    together, alone = (trained(method, problem, optimizer, rates) for rates in ([0.02, 0.01], [0.01]))
    assert together.weight().dense().isfinite().all()
    scale = together.weight().dense().abs().max()
    torch.testing.assert_close(together.weight().dense()[:, 1], alone.weight().dense()[:, 0], rtol=1e-5, atol=float(1e-5 * scale))
    moments = [moment for several in together.state.values() for moment in several.values()]
    assert all(moment.isfinite().all() for moment in moments)


def test_bases_and_statistics_start_anew_with_a_projection():
    block = trained(Flora(rank=4, interval=8), MatrixFactorization((9, 8)), RULES["galore"], [0.01])
    basis = block.state["left"]["basis"]
    torch.testing.assert_close(basis.mT @ basis, torch.eye(4, dtype=torch.float64).expand(1, 1, 4, 4))
    block = trained(Flora(rank=4, interval=7), MatrixFactorization((9, 8)), RULES["galore"], [0.01])
    basis = block.state["left"]["basis"]  # drawn anew at the step after the restart
    torch.testing.assert_close(basis.mT @ basis, torch.eye(4, dtype=torch.float64).expand(1, 1, 4, 4))


def test_torchs_optimizers_restart_with_a_domain():
    ours, theirs = (
        trained(CoLoR(rank=2), Continual((9, 8), tasks=2, rank=2), rule, [0.01]) for rule in (Adam(), Torch("torch.optim.Adam"))
    )
    torch.testing.assert_close(ours.weight().dense(), theirs.weight().dense(), rtol=1e-8, atol=1e-10)
