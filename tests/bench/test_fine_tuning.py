"""Lanes of a model: against peft and torch alone, cut off and resumed, refused, and what they say of memory."""

import json
import shutil
from dataclasses import replace
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from catalogue import small
from tiny_task import TinyTask, TinyText
from torch import nn

import optimizers
import parameterizations
from adapters._sites import sites
from bench import course, fine_tuning, model_runs
from bench.catalogue import check_cell, entries
from bench.cell import Cell, LearningRates
from bench.course import evaluation_grid, of_updates
from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.memory import PeakMemory
from bench.model_runs import run_lanes
from bench.runs import run
from bench.stacked import Stack
from linalg import InputError
from optimizers import Adam, AdamW, GaLore, GeoLoRA, Torch
from parameterizations import SVD, AdaLoRA, DeepLoRA, Flora, Full, LoRA, OPLoRA, ReLoRA

pytest.importorskip("peft")
DOUBLE = Settings(8, dtype=torch.float64)
PAIRS = {
    "lora": (LoRA(rank=3), AdamW()),
    "lora, alpha": (LoRA(rank=3, alpha=6.0), Adam()),
    "op_lora": (OPLoRA(rank=2, hidden=4, embedding=5), Adam()),
    "deep_lora": (DeepLoRA(rank=4), Adam()),
    "flora": (Flora(rank=3, interval=3), Adam()),
    "relora": (ReLoRA(rank=3, interval=3), AdamW()),
    "adalora": (AdaLoRA(rank=3), Adam()),
    "geolora": (SVD(rank=3), GeoLoRA()),
    "full": (Full(), AdamW()),
    "full, galore": (Full(), GaLore(rank=3)),
    "full, flora": (Full(), optimizers.Flora(rank=3, accumulation=2)),
    "torch": (LoRA(rank=3), Torch("torch.optim.NAdam")),
}


class Cut(Exception):  # noqa: N818  # what a kill is, not an error
    pass


def cut_after(steps):
    """Progress that ends the run after so many steps."""
    left = [steps]

    def progress(taken, *, found=False):
        left[0] -= taken
        if left[0] <= 0:
            raise Cut

    return progress


def cut_after_calls(calls):
    """The same for a cell, whose progress is told shares of its work."""
    taken = cut_after(calls)
    return lambda share, found: taken(1)


def lane(method=None, rule=None, problem=None, settings=DOUBLE, seed=3, lr=0.01):
    return Lane((problem or TinyText()).task(seed), method or LoRA(rank=3), rule or AdamW(), seed, lr, settings)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_lora_is_plain_peft_under_torchs_adamw(schedule):
    from peft import LoraConfig, get_peft_model

    settings = Settings(8, schedule=schedule, warmup=2, dtype=torch.float64)
    ours = lane(LoRA(rank=3, alpha=6.0), AdamW(weight_decay=0.1), settings=settings)
    task = ours.task
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"], modules_to_save=["classifier"])
    theirs = get_peft_model(task.model().double(), config)
    state = {name: tensor for name, tensor in ours.model.state_dict().items() if "low_rank" not in name}
    theirs.load_state_dict(state)
    trained = [tensor for tensor in theirs.parameters() if tensor.requires_grad]
    assert sum(tensor.numel() for tensor in trained) == ours.cost()["parameters"]
    adamw = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    losses = []
    for step in range(8):
        for group in adamw.param_groups:
            group["lr"] = 0.01 * optimizers.schedule_factor(schedule, step, 8, 2)
        batch = task.batch(step)
        loss = theirs(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    assert [ours.advance()[0] for _ in range(8)] == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_a_lane_that_is_cut_off_goes_on_as_if_nothing_had_happened(name, tmp_path, monkeypatch):
    method, rule = PAIRS[name]
    whole = lane(method, rule)
    assert whole.run() == ["ok"]
    monkeypatch.setattr(course, "KEEP_EVERY", 0.0)
    with pytest.raises(Cut):
        lane(method, rule).run(cut_after(5), tmp_path)
    again = lane(method, rule)
    assert again.run(keep=tmp_path) == ["ok"]
    exact = {"rtol": 0.0, "atol": 0.0} if name != "torch" else {"rtol": 1e-8, "atol": 0.0}  # NAdam's product comes back in double
    torch.testing.assert_close(torch.tensor(again.history.batch_losses), torch.tensor(whole.history.batch_losses), **exact)
    pd.testing.assert_frame_equal(pd.DataFrame(again.history.rows), pd.DataFrame(whole.history.rows), **exact)
    assert whole.history.batch_losses[-1] != whole.history.batch_losses[0]


def test_a_checkpoint_that_was_being_written_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "KEEP_EVERY", 0.0)
    with pytest.raises(Cut):
        lane().run(cut_after(4), tmp_path)
    (found,) = tmp_path.glob("step-*")
    broken = tmp_path / "step-7"
    broken.mkdir()
    (broken / "training_state.safetensors").write_bytes(b"half")
    resumed = lane()
    assert resumed.resume(tmp_path)
    assert resumed.step == int(found.name.removeprefix("step-"))


@pytest.mark.parametrize("file", ["history.json", "tensors.safetensors", "training_state.safetensors", "training_state.json"])
def test_a_checkpoint_that_was_cut_short_is_thrown_away_and_the_one_before_is_taken(file, tmp_path, monkeypatch):
    whole = lane()
    assert whole.run() == ["ok"]
    monkeypatch.setattr(course, "KEEP_EVERY", 0.0)
    with pytest.raises(Cut):
        lane().run(cut_after(4), tmp_path)
    (found,) = tmp_path.glob("step-*")
    later = tmp_path / "step-7"
    shutil.copytree(found, later)
    (later / file).write_bytes((later / file).read_bytes()[:-9])
    resumed = lane()
    assert resumed.resume(tmp_path)
    assert resumed.step == int(found.name.removeprefix("step-"))
    assert not later.exists()
    shutil.rmtree(found)
    assert not lane().resume(tmp_path)
    assert resumed.run() == ["ok"]
    assert resumed.history.batch_losses == whole.history.batch_losses


def test_a_machine_that_has_no_memory_now_does_not_cost_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "KEEP_EVERY", 0.0)
    with pytest.raises(Cut):
        lane().run(cut_after(4), tmp_path)
    there = list(tmp_path.glob("step-*"))
    crowded = lane()

    def read(folder, tensors):
        raise torch.OutOfMemoryError("the card is full")

    monkeypatch.setattr(crowded, "read", read)
    with pytest.raises(torch.OutOfMemoryError):
        crowded.run(keep=tmp_path)
    assert list(tmp_path.glob("step-*")) == there
    assert lane().resume(tmp_path)


def test_a_state_that_no_file_holds_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    whole = lane()
    assert whole.run() == ["ok"]
    monkeypatch.setattr(course, "KEEP_EVERY", 0.0)
    monkeypatch.setattr("bench.fine_tuning.write_state", Mock(side_effect=InputError("optimizer: keeps a deque as steps")))
    other = lane()
    with pytest.warns(UserWarning, match="keeps a deque as steps: what is killed begins anew") as told:
        assert other.run(keep=tmp_path) == ["ok"]
    assert len(told) == 1
    assert other.history.batch_losses == whole.history.batch_losses


def test_lanes_of_other_settings_in_the_same_folder_are_left_alone(tmp_path):
    def lanes(problem, settings, rate=0.01):
        return run_lanes(problem, LoRA(rank=3), Adam(), seeds=[0], rates=[rate], settings=settings, keep=tmp_path)[0]

    first = lanes(TinyText(), DOUBLE)
    assert len(list(tmp_path.iterdir())) == 1
    lanes(TinyText(batch_size=3), DOUBLE)
    lanes(TinyText(), Settings(9, dtype=torch.float64))
    lanes(TinyText(), DOUBLE, 0.01000001)
    assert len(list(tmp_path.iterdir())) == 4
    again = lanes(TinyText(), DOUBLE)
    assert again[0][2].step_seconds == first[0][2].step_seconds  # read, not run
    assert len(list(tmp_path.iterdir())) == 4


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.norm, self.classifier = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.classifier(self.norm(self.query(x)))


class NormalisedTask(TinyTask):
    def model(self):
        torch.manual_seed(0)
        return Normalised()

    def losses(self, model, batch, lanes=1):
        x = batch["input_ids"][:, :4].to(next(model.parameters())) / 40
        return nn.functional.cross_entropy(model(x), batch["labels"]).reshape(1)


def test_what_batch_normalisation_counts_is_in_a_checkpoint(tmp_path, monkeypatch):
    def normalised():
        return Lane(NormalisedTask(TinyText(targets=("query",)), 0), LoRA(rank=2), Adam(), 0, 0.05, replace(DOUBLE, tuning=True))

    whole = normalised()
    assert whole.run() == ["ok"]
    monkeypatch.setattr(course, "KEEP_EVERY", 0.0)
    with pytest.raises(Cut):
        normalised().run(cut_after(5), tmp_path)
    again = normalised()
    assert again.run(keep=tmp_path) == ["ok"]
    pd.testing.assert_frame_equal(pd.DataFrame(again.history.rows), pd.DataFrame(whole.history.rows), rtol=0, atol=0)


def test_the_linear_layers_of_gpt2_are_adapted():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=8))
    task = TinyText(targets=("c_attn",), head=False).task(0)
    wrapped = fine_tuning.adapted(model, task, LoRA(rank=2), 0, 4)
    found = sites(wrapped)
    assert [site.shape for site in found] == [(48, 16)] * 2
    assert all(site.base_is_transposed for site in found)


def cell(**changes):
    values = {"lr": LearningRates(values=(1e-3, 1e-2), extend=0), "tune": (0, 1), "report": (100, 101), "steps": 6}
    return Cell(TinyText(), LoRA(rank=2), Adam(), **(values | changes))


@pytest.mark.parametrize(("budget", "calls"), [(0, 13), (1 << 30, 5)], ids=["alone", "together"])
def test_a_cell_that_is_cut_off_ends_with_the_same_tables(budget, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(model_runs, "block_bytes", lambda device: budget)
    monkeypatch.setattr(course, "KEEP_EVERY", 0.0)
    whole = cell().run()
    for _ in range(2 if budget else 3):  # each time a little further
        with pytest.raises(Cut):
            cell().run(cut_after_calls(calls), tmp_path)
    told = []
    again = cell().run(lambda *shares: told.append(shares), tmp_path)
    assert told[0][0] == told[0][1] > 0, "what was found is told first"
    assert told[0][1] <= told[-1][1] < told[-1][0], "and the rest was done now"
    pd.testing.assert_frame_equal(again.curves, whole.curves)
    pd.testing.assert_frame_equal(again.lanes, whole.lanes)
    assert again.summary == whole.summary
    assert not list(tmp_path.glob("*/step-*"))


def test_lanes_that_run_together_have_the_tables_of_those_that_run_alone(monkeypatch):
    found, made = {}, []
    monkeypatch.setattr(model_runs, "Stack", lambda *args: made.append(args) or Stack(*args))
    for together, budget in ((False, 0), (True, 1 << 30)):
        monkeypatch.setattr(model_runs, "block_bytes", lambda device, budget=budget: budget)
        method = OPLoRA(rank=2, hidden=4, embedding=5)
        found[together] = run(TinyText(), method, Adam(), lr=[1e-3, 1e-2], seeds=[0, 1], steps=6, dtype=torch.float64)
        assert bool(made) == together
    pd.testing.assert_frame_equal(found[True].curves, found[False].curves, rtol=1e-6)
    pd.testing.assert_frame_equal(found[True].lanes, found[False].lanes, rtol=1e-6)
    assert found[True].cost == found[False].cost


def test_lanes_that_choose_a_rate_see_no_test(tmp_path):
    TinyTask.asked.clear()
    result = cell(tune=(0,), report=(100,)).run()
    tuned = result.curves.loc[result.curves["role"] == "tune"]
    assert tuned["test_error"].isna().all()
    assert tuned["validation_loss"].notna().all()
    reported = result.lanes.loc[result.lanes["role"] == "report"]
    assert reported["headline"].notna().all()
    assert TinyTask.asked.count("test") <= 3  # of one lane with three evaluations


def test_the_headline_is_of_the_step_with_the_lowest_validation_loss():
    result = run(TinyText(evaluations=6), LoRA(rank=2), Adam(), lr=[0.3], seeds=[1], steps=12)
    measured = result.curves.dropna(subset=["validation_loss"])
    best = measured.loc[measured["validation_loss"].idxmin()]
    assert result.lanes["headline"].item() == best["test_error"]
    assert result.lanes["score_step"].item() == best["step"]


@pytest.mark.parametrize("name", sorted(entries("parameterization")))
def test_every_parameterization_trains_or_is_refused_with_its_reason(name):
    method = small(entries("parameterization")[name])
    rule = GeoLoRA() if name == "svd" else Adam()
    problem = TinyText()
    try:
        check_cell(problem, rule, method)
    except InputError:
        assert name in {"dora", "op_dora", "fed_lora", "color"}
        with pytest.raises(InputError, match=f"parameterization={name}"):
            check_cell(problem, rule, method)
        return
    result = run(problem, method, rule, lr=[1e-2], seeds=[0], steps=4, dtype=torch.float64)
    assert result.lanes["status"].tolist() == ["ok"]
    assert result.curves["batch_loss"].notna().sum() == 2
    assert result.cost["parameters"] > 0


@pytest.mark.parametrize("name", sorted(entries("optimizer")))
def test_every_optimizer_trains_or_is_refused_with_its_reason(name):
    rule = entries("optimizer")[name]()
    problem, methods = TinyText(), (LoRA(rank=2), SVD(rank=2), parameterizations.LoRAFA(rank=2), Full())
    for method in methods:
        try:
            check_cell(problem, rule, method)
        except InputError:
            continue
        result = run(problem, method, rule, lr=[1e-3], seeds=[0], steps=2, dtype=torch.float64)
        assert result.lanes["status"].tolist() == ["ok"]
        return
    assert name in {"als", "svd_oracle", "lbfgs", "lorsum"}


def test_a_lane_that_diverges_is_infinite_and_leaves_the_others_alone():
    result = run(TinyText(), LoRA(rank=2), optimizers.SGD(), lr=[1e-3, 1e30], seeds=[0], steps=6)
    good, bad = (result.lanes.loc[result.lanes["lr"] == lr].iloc[0] for lr in (1e-3, 1e30))
    assert (good["status"], bad["status"]) == ("ok", "diverged")
    assert bad["score"] == float("inf")
    alone = run(TinyText(), LoRA(rank=2), optimizers.SGD(), lr=[1e-3], seeds=[0], steps=6)
    assert alone.lanes["final_loss"].item() == pytest.approx(good["final_loss"], rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_lane_may_diverge_at_any_evaluation(steps):
    result = run(TinyText(), LoRA(rank=2), optimizers.SGD(), lr=[1e10], seeds=[0], steps=steps)
    assert result.lanes["status"].item() in ("ok", "diverged")
    if result.lanes["status"].item() == "diverged":
        assert result.lanes["final_loss"].item() == float("inf")


def test_a_lane_that_runs_out_of_time_says_so():
    result = run(TinyText(), LoRA(rank=2), Adam(), lr=[1e-3], seeds=[0], steps=50, timeout=1e-9)
    assert result.lanes["status"].tolist() == ["timeout"]


def test_a_lane_that_ran_out_of_time_goes_on_when_there_is_more(tmp_path):
    settings = Settings(6, probes="none", dtype=torch.float64)
    common = {"seeds": [0], "rates": [1e-3], "settings": settings}
    whole, _ = run_lanes(TinyText(), LoRA(rank=2), Adam(), **common)
    for timeout, status in ((1e-9, "timeout"), (1e-9, "timeout"), (None, "ok")):
        found, _ = run_lanes(TinyText(), LoRA(rank=2), Adam(), **common, timeout=timeout, keep=tmp_path)
        assert found[0][2].status == [[status]]
    assert torch.equal(found[0][2].curves["loss"], whole[0][2].curves["loss"])
    assert not list(tmp_path.glob("*/step-*"))


def test_an_optimizer_that_cannot_take_a_heads_bias_is_one_line():
    with pytest.raises(InputError, match=r"optimizer._target_='torch.optim.Muon': cannot take what trains here \(.*2D") as caught:
        run(TinyText(), LoRA(rank=2), Torch("torch.optim.Muon"), lr=[1e-3], seeds=[0], steps=2)
    assert "\n" not in str(caught.value)


def test_targets_that_no_layer_has_are_named():
    with pytest.raises(InputError, match=r"targets=\['nothing'\].*there are .*query"):
        run(TinyText(targets=("nothing",)), LoRA(rank=2), Adam(), lr=[1e-3], steps=1)


def test_memory_is_what_formulas_say():
    problem = TinyText(head=False)
    size = 16 * 16 * 4  # entries of query and value in two layers
    pair = 4 * 2 * (16 + 16)
    for method, rule, parameters, state in (
        (LoRA(rank=2), Adam(), pair, 2 * pair),
        (Full(), Adam(), size, 2 * size),
        (Full(), GaLore(rank=2), size, None),
        (Full(), optimizers.Flora(rank=2), size, None),
    ):
        cost = run(problem, method, rule, lr=[1e-3], seeds=[0], steps=2).cost
        assert cost["parameters"] == parameters
        assert cost["gradient_bytes"] == 4 * parameters
        if state is not None:
            assert cost["state_bytes"] == 4 * state
        else:
            formula = eval(rule.memory, {"min": min, "max": max}, vars(rule) | {"m": 16, "n": 16, "r": 2})
            assert cost["state_bytes"] == pytest.approx(4 * 4 * formula, abs=4 * 4 * 2)  # a seed is 8 bytes
        assert cost["peak_bytes"] > cost["gradient_bytes"] + cost["state_bytes"]


def test_rslora_is_a_scale_of_alpha_over_the_root_of_the_rank():
    lanes = [lane(method) for method in (LoRA(rank=4, alpha=6.0, rslora=True), LoRA(rank=4, alpha=12.0), LoRA(rank=4, alpha=6.0))]
    losses = [[each.advance()[0] for _ in range(4)] for each in lanes]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][-1] != pytest.approx(losses[2][-1], rel=1e-6)


def test_what_is_kept_counts_once_at_the_height_of_a_step():
    problem = TinyText(batch_size=1)  # so that moving is the height, not the activations
    costs = [run(problem, LoRA(rank=8), rule, lr=[1e-3], seeds=[0], steps=2).cost for rule in (Adam(), Torch("torch.optim.Adam"))]
    ours, theirs = ({name: cost[name] for name in ("peak_bytes", "state_bytes", "gradient_bytes")} for cost in costs)
    assert theirs["peak_bytes"] < 1.1 * ours["peak_bytes"], (ours, theirs)


def test_peak_memory_counts_what_lives_at_the_same_time():
    weight = torch.randn(1000, 100)
    with PeakMemory([weight]) as memory:
        first = weight + 1
        second = first.view(100, 1000) * 2
        del first
        third = second + 1
        del second, third
        torch.zeros(10)
    assert memory.peak == 2 * 4 * 100_000
    assert memory.alive == 0


def test_the_grid_of_evaluations_has_both_ends():
    assert evaluation_grid(10, 3) == [0, 3, 7, 10]
    assert evaluation_grid(2, 5) == [0, 1, 2]


def test_probes_of_updates_are_those_of_their_singular_values():
    found = of_updates([torch.tensor([2.0, 2.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([3.0])])
    assert found["update_rank"] == 3
    assert found["effective_rank"] == pytest.approx(3)
    assert found["stable_rank"] == pytest.approx(3)


def test_what_a_lane_leaves_is_plain_data(tmp_path):
    ours = lane()
    ours.run()
    left = ours.leave()
    model_runs.finish(tmp_path, left)
    assert model_runs.finished(tmp_path) == json.loads(json.dumps(left))
