"""CoLoR: each domain's pair is LoRA trained on that domain alone, and stays as it was when the next begins."""

import pytest
import torch
from by_hand import gaussian, seeded

from bench import probes
from bench.engine import Block, Settings, snapshot
from bench.runs import run
from linalg import FactoredMatrix, InputError
from optimizers import SGD, Adam
from parameterizations import CoLoR, Full, LoRA, Parameterization
from parameterizations.color import Routed
from problems import Continual, RotatedDigits

F64 = torch.float64
TASKS = Continual(shape=(9, 7), tasks=3, rank=2)


def block(problem, method, optimizer, steps, seeds=(0, 1), rates=(0.1, 0.03)):
    drawn = [problem.draw(seed, dtype=F64) for seed in seeds]
    return Block(drawn, method, optimizer, list(seeds), list(rates), Settings(steps, dtype=F64))


def trained(built, steps):
    """(left, right) before each step, then at the end, for all lanes."""
    seen = []
    for step in range(steps):
        seen.append({name: built.params[name].clone() for name in ("left", "right")})
        built.find_gradients(step)
        built.step()
    return [*seen, {name: built.params[name].clone() for name in ("left", "right")}]


@pytest.mark.parametrize(("optimizer", "twin"), [(SGD(), torch.optim.SGD), (Adam(), torch.optim.Adam)])
def test_each_domains_pair_is_trained_on_that_domain_alone(optimizer, twin):
    steps, starts = 30, (0, 10, 20)
    built = block(TASKS, CoLoR(rank=2, alpha=3.0), optimizer, steps)
    history = trained(built, steps)
    weight = built.weight()
    assert isinstance(weight, Routed)
    assert weight.dense().shape == (2, 2, 3, 9, 7)
    for seed, drawn in enumerate(built.instances):
        for rate, lr in enumerate((0.1, 0.03)):
            for task, first in enumerate(starts):
                pair = [history[first][name][seed, rate].clone().requires_grad_() for name in ("left", "right")]
                assert not pair[0].any()
                rule = twin(pair, lr=lr)
                for _ in range(10):
                    rule.zero_grad()
                    adapted = drawn.pretrained + 1.5 * pair[0] @ pair[1]
                    (0.5 * (adapted @ drawn.inputs[task] - drawn.outputs[task]).square().sum()).backward()
                    rule.step()
                expected = drawn.pretrained + 1.5 * pair[0].detach() @ pair[1].detach()
                torch.testing.assert_close(weight.dense()[seed, rate, task], expected, rtol=1e-9, atol=1e-12)


def test_a_new_domain_starts_from_a_fresh_draw_that_the_rates_share():
    history = trained(block(TASKS, CoLoR(rank=2), Adam(), 30), 30)
    draws = [history[first]["right"] for first in (0, 10, 20)]
    for drawn in draws:
        assert torch.equal(drawn[:, 0], drawn[:, 1])
        assert not torch.equal(drawn[0], drawn[1])
        assert drawn.abs().max() <= 7**-0.5
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


def test_it_trains_one_pair_whatever_it_keeps():
    built = block(TASKS, CoLoR(rank=2), Adam(), 30)
    trained(built, 30)
    assert {name: tuple(tensor.shape[2:]) for name, tensor in built.trainable.items()} == {"left": (9, 2), "right": (2, 7)}
    assert built.params["kept_left"].shape[2:] == (2, 9, 2)
    assert built.params["kept_right"].shape[2:] == (2, 2, 7)


def test_in_the_first_domain_it_is_lora():
    options = {"lr": [0.1], "seeds": 2, "steps": 30, "dtype": "float64"}
    color, lora = (run(TASKS, method, Adam(), **options).curves for method in (CoLoR(rank=2), LoRA(rank=2)))
    first = color.step < 10
    assert first.sum() > 10
    assert (color.loss[first] == lora.loss[first]).all()


def test_a_stack_keeps_a_pair_a_layer_and_domain():
    pytest.importorskip("sklearn")
    built = block(RotatedDigits(setting="continual", domains=3), CoLoR(rank=2), Adam(), 6)
    drawn = built.instances[0]
    history = trained(built, 6)
    left, right = built.weight().factors
    assert left.shape == (2, 2, 2, 3, 64, 2)  # seeds, rates, layers, domains
    for name, kept in (("left", left), ("right", right)):
        torch.testing.assert_close(kept[..., 2, :, :], history[-1][name])
    for domain, first in enumerate((0, 2, 4)):  # by hand: two steps of Adam on each domain
        pair = [history[first][name][0, 1].clone().requires_grad_() for name in ("left", "right")]
        rule = torch.optim.Adam(pair, lr=0.03)
        for _ in range(2):
            rule.zero_grad()
            first_layer, second_layer = drawn.pretrained + pair[0] @ pair[1]
            scores = second_layer[:10] @ (first_layer @ drawn.train[domain]).relu()
            torch.nn.functional.cross_entropy(scores.mT, drawn.train_classes[domain].argmax(0)).backward()
            rule.step()
        torch.testing.assert_close(left[0, 1, :, domain], pair[0].detach(), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(right[0, 1, :, domain], pair[1].detach(), rtol=1e-8, atol=1e-10)


def test_lora_forgets_and_color_does_not():
    options = {"lr": 0.03, "seeds": 3, "steps": 400, "dtype": "float64"}
    lora, color = (run(Continual(), method, Adam(), **options) for method in (LoRA(rank=4), CoLoR(rank=4)))
    last = {name: done.curves[done.curves.step == 400] for name, done in (("lora", lora), ("color", color))}
    for found in last.values():
        assert (found.task_4 < 0.05).all()  # both learn the last task
    assert (last["lora"].forgetting > 1).all()  # worse than before any training
    assert (last["color"].forgetting < 0.05).all()
    assert (last["color"].routing_accuracy > 0.98).all()


def test_with_inputs_that_do_not_tell_their_domain_color_routes_no_better_than_chance():
    options = {"lr": 0.03, "seeds": 2, "steps": 400, "dtype": "float64"}
    done = run(Continual(separation=0, samples=500), CoLoR(rank=4), Adam(), **options).curves
    last = done[done.step == 400]
    assert (abs(last.routing_accuracy - 0.25) < 0.06).all()
    assert (last.forgetting > 0.5).all()


@pytest.mark.parametrize("probes", ["none", "basic", "all"])
@pytest.mark.parametrize("problem", [TASKS, RotatedDigits(setting="continual", domains=3)], ids=["one weight", "layers"])
def test_every_probe_is_measured_with_several_adapters(problem, probes):
    if problem is not TASKS:
        pytest.importorskip("sklearn")
    done = run(problem, CoLoR(rank=2), Adam(), lr=[0.1, 0.01], seeds=2, steps=12, probes=probes)
    assert done.lanes.status.eq("ok").all()
    last = done.curves[done.curves.step == 12]
    assert last.routing_accuracy.between(0, 1).all()
    if probes != "none":
        assert last["rank"].gt(0).all()
        assert last.step_length.notna().all()
        assert len(done.spectra[done.spectra.step == 12]) > 0


def test_a_step_far_below_the_rounding_of_the_base_has_its_length():
    method, (m, n, r) = CoLoR(rank=2), (40, 30, 2)
    params = {"left": gaussian(2, 1, m, r), "right": gaussian(2, 1, r, n, seed=1), "base": 1e3 * gaussian(2, 1, m, n, seed=2)}
    params |= {"kept_left": gaussian(2, 1, 3, m, r, seed=3), "kept_right": gaussian(2, 1, 3, r, n, seed=4)}
    moved = {name: tensor + 1e-9 * gaussian(*tensor.shape, seed=5) for name, tensor in params.items() if name in ("left", "right")}
    expected = (moved["left"] @ moved["right"] - params["left"] @ params["right"]).norm(dim=(-2, -1))
    before, after = snapshot(method.weight(params)), method.weight(params | moved)
    found = probes.basic(after, before, {"left": params["left"]}, F64)["step_length"]
    torch.testing.assert_close(found[..., 3], expected, rtol=1e-6, atol=0)
    assert not found[..., :3].any()  # finished domains


def test_one_pair_is_exported_and_several_are_not():
    method = CoLoR(rank=2)
    params = Parameterization.init(method, (6, 5), generator=seeded(), dtype=F64)
    right, left = method.export(params)
    assert torch.equal(left @ right, FactoredMatrix((params["left"], params["right"])).update())
    params["kept_left"], params["kept_right"] = gaussian(1, 6, 2), gaussian(1, 2, 5)
    with pytest.raises(InputError, match="one LoRA pair a domain"):
        method.export(params)


def test_a_problem_without_tasks_in_time_is_refused():
    with pytest.raises(InputError, match="tasks that come one after the other"):
        run(RotatedDigits(), CoLoR(), Adam(), lr=0.1, steps=1)
    assert run(TASKS, Full(), SGD(), lr=0.1, steps=3).lanes.status.eq("ok").all()
