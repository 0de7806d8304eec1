"""Every rule beside the methods that restart tensors and moments on the way: the step at which they do is crossed."""

from dataclasses import replace

import pytest
import torch
from catalogue import members

import optimizers
from bench.engine import Block, Settings, initial_tensors
from linalg import InputError
from optimizers import SOAP, Adam, Optimizer, Torch
from optimizers._state import EVERY
from parameterizations import SVD, AdaLoRA, CoLoR, FedLoRA, Flora, LoRA, ReLoRA, XGBLoRA
from problems import Continual, Federated, MatrixFactorization, Stack

RULES = {name: cls() for name, found in members(optimizers, Optimizer).items() for cls in found}
RULES["soap"] = SOAP(one_sided=True)  # a tall factor's gradient has a kernel, whose basis rounding chooses
GEO = optimizers.GeoLoRA(budget=1)
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


def test_a_reset_of_one_tensor_leaves_the_other_its_count():
    params = {"left": torch.ones(2, 2), "right": torch.ones(2, 2)}
    rule = Adam()
    state = rule.init(params)
    for step in range(3):
        rule.update(params, {name: torch.ones(2, 2) for name in params}, state, 0.1, step)
    state.reset("left")
    rule.update(params, {name: torch.ones(2, 2) for name in params}, state, 0.1, 3)
    assert {name: int(state.counts[name]) for name in params} == {"left": 1, "right": 4}


def test_what_a_rule_counts_by_itself_stays_beside_the_common_count():
    state = Adam().init({"left": torch.ones(2, 2), "right": torch.ones(2, 2)})
    state.counts[EVERY] = torch.zeros(())  # as the engine does, for rules that step a buffer as one
    for _ in range(3):
        state.count("left", torch.ones(2, 2))
    state.reset("right")
    assert int(state.counts["left"]) == 3


def test_the_first_gradient_knows_no_later_task():
    problem, method = Continual((9, 8), tasks=3, rank=2), LoRA(rank=2, init="lora_ga")
    known, other = problem.draw(0, dtype=torch.float64), problem.draw(0, dtype=torch.float64)
    other.outputs[1:] += 1
    first, second = (initial_tensors(replace(each), 0, method, Settings(9, dtype=torch.float64)) for each in (known, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other.outputs[0] += 1
    third = initial_tensors(replace(other), 0, method, Settings(9, dtype=torch.float64))
    assert not torch.equal(first["left"], third["left"])


def test_a_run_that_ends_just_too_late_has_ended():
    class Late(Block):
        def probe(self, before, coarse):
            self.timeout = 0.0 if self.at.step == 8 else None
            return super().probe(before, coarse)

    drawn = [MatrixFactorization((9, 8)).draw(0, dtype=torch.float64)]
    assert Late(drawn, LoRA(rank=2), Adam(), [0], [0.01], Settings(8, dtype=torch.float64)).run().status == [["ok"]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.Muon(momentum=1), r"^momentum=1: must be below 1"),
        (lambda: AdaLoRA(warmup=0.6, final=0.6), r"^final=0.6: must be at most 0.4"),
        (lambda: trained(CoLoR(rank=2), Continual((9, 8), tasks=9, rank=2), Adam(), [0.1]), r"^steps=8: must be at least 9"),
        (
            lambda: trained(SVD(rank=4), Stack((9, 8), ranks=(1, 2)), optimizers.GeoLoRA(budget=1), [0.1]),
            r"^budget=1: .* at least 2",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message):
        make()
