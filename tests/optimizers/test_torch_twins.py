"""Every update rule beside its twin of torch.optim on a small nonconvex loss: a matrix as the product of two factors."""

from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from by_hand import gaussian
from catalogue import members

import optimizers
from linalg import InputError
from optimizers import SGD, Adagrad, Adam, AdamW, Momentum, Optimizer, RMSprop, Torch
from parameterizations import Flora, LoRA, Step

RULES = members(optimizers, Optimizer)
STEPS = 200
TARGET = gaussian(6, 5, seed=40)

TWINS = [  # ours, torch's, its options, and a rate small enough that rounding is not amplified
    (SGD(), torch.optim.SGD, {}, 0.02),
    (SGD(weight_decay=0.1), torch.optim.SGD, {"weight_decay": 0.1}, 0.02),
    (SGD(momentum=0.8), torch.optim.SGD, {"momentum": 0.8}, 0.01),
    (SGD(momentum=0.8, nesterov=True), torch.optim.SGD, {"momentum": 0.8, "nesterov": True}, 0.01),
    (
        SGD(momentum=0.8, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        0.01,
    ),
    (Momentum(), torch.optim.SGD, {"momentum": 0.9}, 0.01),
    (Momentum(weight_decay=0.1), torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}, 0.01),
    (Adam(), torch.optim.Adam, {}, 0.005),
    (Adam(betas=(0.8, 0.99)), torch.optim.Adam, {"betas": (0.8, 0.99)}, 0.003),
    (Adam(betas=(0.0, 0.99), eps=1e-2), torch.optim.Adam, {"betas": (0.0, 0.99), "eps": 1e-2}, 0.005),
    (Adam(weight_decay=0.1), torch.optim.Adam, {"weight_decay": 0.1}, 0.005),
    (AdamW(), torch.optim.AdamW, {}, 0.005),
    (AdamW(betas=(0.8, 0.95), weight_decay=0.5), torch.optim.AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.5}, 0.005),
    (RMSprop(), torch.optim.RMSprop, {}, 0.002),
    (RMSprop(alpha=0.9, eps=1e-2), torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-2}, 0.002),
    (RMSprop(momentum=0.7), torch.optim.RMSprop, {"momentum": 0.7}, 0.0005),
    (RMSprop(momentum=0.7, weight_decay=0.1), torch.optim.RMSprop, {"momentum": 0.7, "weight_decay": 0.1}, 0.0005),
    (Adagrad(), torch.optim.Adagrad, {}, 0.05),
    (Adagrad(eps=1e-2, weight_decay=0.1), torch.optim.Adagrad, {"eps": 1e-2, "weight_decay": 0.1}, 0.05),
]
every_twin = pytest.mark.parametrize(("rule", "twin", "options", "lr"), TWINS, ids=[str(row[0]) for row in TWINS])


class Lion(torch.optim.Optimizer):
    """A class of one's own: w ← w - lr sign(b1 m + (1 - b1) g), m ← b2 m + (1 - b2) g."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99)):
        if not 0 <= betas[0] < 1:
            raise ValueError(f"Invalid beta parameter: {betas[0]}")
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.sub_(group["lr"] * (b1 * m + (1 - b1) * p.grad).sign())
                m.mul_(b2).add_(p.grad, alpha=1 - b2)


def factors(*leading, seed=0):
    return {"left": gaussian(*leading, 6, 2, seed=seed), "right": gaussian(*leading, 2, 5, seed=seed + 1)}


def loss_of(params):
    return 0.5 * (params["left"] @ params["right"] - TARGET).square().sum((-2, -1))


def gradients(params):
    residual = params["left"] @ params["right"] - TARGET
    return {"left": residual @ params["right"].mT, "right": params["left"].mT @ residual}


def run(rule, params, lr, steps=STEPS, rates=None, as_step=int):
    """Our loop, in place on a copy."""
    params = {name: tensor.clone() for name, tensor in params.items()}
    state = rule.init(params, rates)
    for step in range(steps):
        rule.update(params, gradients(params), state, lr, as_step(step))
    return params


def run_twin(cls, params, lr, options, steps=STEPS, rates=None):
    """The same by hand with a torch optimizer, one parameter group a tensor."""
    leaves = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in params.items()}
    groups = [{"params": [leaf], "lr": lr * (rates or {}).get(name, 1.0)} for name, leaf in leaves.items()]
    twin = cls(groups, lr=lr, **options)
    for _ in range(steps):
        twin.zero_grad()
        loss_of(leaves).backward()
        twin.step()
    return {name: leaf.detach() for name, leaf in leaves.items()}


def assert_equal(found, expected, tolerance):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("module", RULES)
def test_a_module_holds_one_frozen_dataclass_with_a_span_of_rates(module):
    assert len(RULES[module]) == 1
    (cls,) = RULES[module]
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert "lr" not in {field.name for field in fields(cls)}
    assert 0 < cls.span[0] < cls.span[1]
    assert hash(cls()) == hash(replace(cls()))


@every_twin
def test_a_rule_walks_with_its_twin(rule, twin, options, lr):
    start = factors()
    found, expected = run(rule, start, lr), run_twin(twin, start, lr, options)
    assert_equal(found, expected, 1e-10)
    assert loss_of(found) < 0.9 * loss_of(start)


@every_twin
def test_lanes_with_rates_of_their_own_equal_separate_runs(rule, twin, options, lr):
    rates = lr * torch.tensor([[0.1, 0.5, 1.0], [0.7, 0.2, 0.9]], dtype=torch.float64)
    start = factors(2, 3)
    together = run(rule, start, rates)
    for seed in range(2):
        for k in range(3):
            lane = {name: tensor[seed, k] for name, tensor in start.items()}
            alone = run(rule, lane, float(rates[seed, k]))
            assert_equal({name: tensor[seed, k] for name, tensor in together.items()}, alone, 1e-12)


@every_twin
def test_multipliers_of_the_rate_are_parameter_groups(rule, twin, options, lr):
    start, rates = factors(), {"right": 0.3}
    assert_equal(run(rule, start, lr, rates=rates), run_twin(twin, start, lr, options, rates=rates), 1e-10)


@every_twin
def test_a_rate_may_be_a_number_or_a_tensor_and_a_step_a_number_or_a_step(rule, twin, options, lr):
    lane, block = factors(), factors(1, 1)
    expected = run(rule, lane, lr, 5)
    assert_equal(run(rule, lane, torch.tensor(lr, dtype=torch.float64), 5), expected, 1e-12)
    assert_equal(run(rule, lane, lr, 5, as_step=lambda step: Step(step, 5)), expected, 1e-12)
    expected = {name: tensor[None, None] for name, tensor in expected.items()}
    assert_equal(run(rule, block, torch.full((1, 1), lr, dtype=torch.float64), 5), expected, 1e-12)
    assert_equal(run(rule, block, lr, 5), expected, 1e-12)


@every_twin
def test_what_has_no_gradient_stays(rule, twin, options, lr):
    params = factors()
    before = params["right"].clone()
    rule.update(params, {"left": gradients(params)["left"]}, rule.init(params), lr, 0)
    assert torch.equal(params["right"], before)


@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_a_moment_that_starts_anew_is_corrected_as_a_new_one(beta2):
    rule, lr = Adam(betas=(0.9, beta2)), 0.1
    params = {"left": torch.zeros(3).double()}
    state = rule.init(params)
    for step in range(50):
        rule.update(params, {"left": torch.ones(3).double()}, state, lr, step)
    state.reset("left")
    assert not any(moment.any() for moment in state["left"].values())
    params["left"].zero_()
    for step in (50, 51, 52):  # every corrected step under a constant gradient is the rate
        rule.update(params, {"left": torch.full((3,), 7.0).double()}, state, lr, step)
        torch.testing.assert_close(params["left"], torch.full((3,), -(step - 49) * lr).double(), rtol=1e-7, atol=0)
    assert state.counts["left"] == 3


THIRD_PARTY = [
    ("torch.optim.NAdam", torch.optim.NAdam, {"momentum_decay": 0.01}, 0.02),
    ("torch.optim.Adamax", torch.optim.Adamax, {}, 0.02),
    ("torch.optim.RMSprop", torch.optim.RMSprop, {"centered": True}, 0.01),
    (f"{__name__}.Lion", Lion, {"betas": (0.8, 0.9)}, 0.005),
    (Lion, Lion, {}, 0.005),
]


@pytest.mark.parametrize("rates", [None, {"left": 0.4}])
@pytest.mark.parametrize(("target", "cls", "options", "lr"), THIRD_PARTY)
def test_any_torch_optimizer_on_lanes_equals_running_it_lane_by_lane(target, cls, options, lr, rates):
    rule, start = Torch(target, options), factors(2, 3)
    lrs = lr * torch.tensor([[0.1, 0.5, 1.0], [0.7, 0.2, 0.9]], dtype=torch.float64)
    together = run(rule, start, lrs, 50, rates, lambda step: Step(step, 50))
    for seed in range(2):
        for k in range(3):
            lane = {name: tensor[seed, k] for name, tensor in start.items()}
            alone = run_twin(cls, lane, float(lrs[seed, k]), options, 50, rates)
            assert_equal({name: tensor[seed, k] for name, tensor in together.items()}, alone, 1e-12)


@every_twin
def test_the_wrapper_runs_the_twins_as_the_rules_run(rule, twin, options, lr):
    wrapped = Torch(f"torch.optim.{twin.__name__}", options)
    assert_equal(run(wrapped, factors(), lr), run(rule, factors(), lr), 1e-10)


def test_a_schedule_reaches_the_wrapped_optimizer():
    params = {"left": torch.zeros(2, 1, 3).double()}
    rule, state = Torch("torch.optim.SGD"), None
    state = rule.init(params, {"left": 0.5})
    for step, lr in enumerate((1.0, 0.1)):
        rule.update(
            params, {"left": torch.ones(2, 1, 3).double()}, state, torch.tensor([[lr], [2 * lr]], dtype=torch.float64), step
        )
    torch.testing.assert_close(params["left"][:, 0, 0], torch.tensor([-0.55, -1.1], dtype=torch.float64))


def test_the_order_in_which_gradients_are_named_does_not_matter():
    params, names = {name: torch.zeros(2, 1, 1).double() for name in ("left", "right")}, ["left", "right"]
    rule = Torch("torch.optim.SGD")
    state = rule.init(params, {"right": 0.1})
    for step in range(2):
        rule.update(params, {name: torch.ones(2, 1, 1).double() for name in names}, state, torch.ones(2), step)
        names.reverse()
    assert params["left"].flatten().tolist() == [-2, -2]
    assert params["right"].flatten().tolist() == pytest.approx([-0.2, -0.2])


def closure_on(params):
    """The closure that a run gives: a lane's loss and gradients with two leading dimensions of one."""

    def evaluate(index):
        lane = {name: tensor[index].detach()[None, None] for name, tensor in params.items()}
        return loss_of(lane)[0, 0], gradients(lane)

    return evaluate


@pytest.mark.parametrize("options", [{"max_iter": 5}, {"max_iter": 8, "history_size": 3, "line_search_fn": "strong_wolfe"}])
def test_lbfgs_which_takes_no_groups_runs_lane_by_lane_with_the_lanes_own_closure(options):
    start = factors(2, 2)
    lrs = torch.tensor([[0.1, 0.5], [1.0, 0.2]]).double()
    rule = Torch("torch.optim.LBFGS", options)
    params = {name: tensor.clone() for name, tensor in start.items()}
    state = rule.init(params)
    for step in range(6):
        rule.update(params, gradients(params), state, lrs, Step(step, 6, closure=closure_on(params)))
    for seed in range(2):
        for k in range(2):
            leaves = {name: torch.nn.Parameter(tensor[seed, k].clone()) for name, tensor in start.items()}
            twin = torch.optim.LBFGS(leaves.values(), lr=float(lrs[seed, k]), **options)

            def closure(leaves=leaves, twin=twin):
                twin.zero_grad()
                loss = loss_of(leaves)
                loss.backward()
                return loss

            for _ in range(6):
                twin.step(closure)
            expected = {name: leaf.detach() for name, leaf in leaves.items()}
            assert_equal({name: tensor[seed, k] for name, tensor in params.items()}, expected, 1e-8)
            assert loss_of(expected) < 0.9 * loss_of({name: tensor[seed, k] for name, tensor in start.items()})


def step_once(rule, rates=None):
    params = factors(1, 2)
    rule.update(params, gradients(params), rule.init(params, rates), torch.full((1, 2), 0.1).double(), 0)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Torch("torch.optim.Nonesuch"), "torch.optim.Nonesuch"),
        (lambda: Torch("nonesuch.Adam"), "nonesuch.Adam"),
        (lambda: Torch("Adam"), "'Adam'"),
        (lambda: Torch("torch.nn.Linear"), "must be a subclass of torch.optim.Optimizer"),
        (lambda: Torch("torch.optim"), "must be a subclass|cannot be imported|can be imported"),
        (lambda: Torch("torch.optim.SGD", {"lr": 0.1}), "lr"),
        (lambda: Torch("torch.optim.SparseAdam"), "SparseAdam': .*dense gradients"),
        (lambda: Torch("torch.optim.SGD", {"nonesuch": 1}), "torch.optim.SGD', nonesuch=1: .*nonesuch"),
        (lambda: Torch("torch.optim.SGD", {"momentum": -1}), "torch.optim.SGD', momentum=-1: .*momentum"),
        (lambda: Torch(Lion, {"betas": (2, 0)}), "Lion', betas=.*: .*beta"),
        (lambda: Torch("torch.optim.LBFGS", {"nonesuch": 1}), "torch.optim.LBFGS', nonesuch=1: .*nonesuch"),
        (lambda: step_once(Torch("torch.optim.LBFGS"), {"left": 0.5}), "takes one learning rate"),
    ],
)
def test_what_torch_cannot_run_is_refused_by_name(build, named):
    with pytest.raises(InputError, match=named) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_a_wrapped_optimizer_is_a_value_and_refuses_what_merges():
    wrapped = Torch("torch.optim.NAdam", {"momentum_decay": 0.01})
    assert wrapped == Torch("torch.optim.NAdam", {"momentum_decay": 0.01})
    assert hash(wrapped) == hash(Torch("torch.optim.NAdam", {"momentum_decay": 0.01}))
    assert wrapped.supports(LoRA()) is None
    assert "merges" in wrapped.supports(Flora())
    assert wrapped.supports(Flora(interval=0)) is None
    assert SGD().supports(Flora()) is None


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: SGD(momentum=-0.1), "momentum"),
        (lambda: SGD(momentum=1.1), "momentum"),
        (lambda: SGD(nesterov=True), "nesterov"),
        (lambda: SGD(weight_decay=-1), "weight_decay"),
        (lambda: Adam(betas=(0.9,)), "betas"),
        (lambda: Adam(betas=(0.9, 1.5)), "betas"),
        (lambda: Adam(betas=(1.0, 0.999)), "betas"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas"),
        (lambda: Adam(betas=0.9), "betas"),
        (lambda: Adam(betas=("a", "b")), "betas"),
        (lambda: Adam(eps=-1), "eps"),
        (lambda: AdamW(weight_decay="0.1"), "weight_decay"),
        (lambda: RMSprop(alpha=2), "alpha"),
        (lambda: RMSprop(momentum=-1), "momentum"),
        (lambda: Adagrad(eps=-1), "eps"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(build, key):
    with pytest.raises(InputError, match=f"^{key}="):
        build()


def test_a_rule_without_a_formula_says_so():
    with pytest.raises(NotImplementedError, match=r"Optimizer must define step_tensor\(\)"):
        step_once(Optimizer())
