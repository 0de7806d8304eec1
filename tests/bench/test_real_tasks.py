"""The tasks at the size of their real models; minutes long (make test-full), skipped where their packages are not installed."""

import numpy as np
import pytest
import torch

from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.runs import run
from bench.stacked import Stack
from linalg import InputError
from optimizers import Adam, AdamW
from parameterizations import LoRA, OPLoRA
from problems import CausalLM, FewShotText, ImageStyle

pytestmark = pytest.mark.slow
SETTINGS = Settings(4)


def drawn(problem, seed=0):
    try:
        return problem.draw(seed)
    except InputError as error:
        if "needs the package" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("problem", [FewShotText(batch_size=4), CausalLM(batch_size=2, length=32)], ids=["minilm", "smollm2"])
def test_loras_curve_is_plain_pefts_under_torchs_adamw(problem):
    from peft import LoraConfig, get_peft_model

    task = drawn(problem)
    ours = Lane(task, LoRA(rank=4, alpha=8.0), AdamW(), 0, 1e-3, SETTINGS)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=[site.name.removeprefix("base_model.model.") for site in ours.sites])
    config.modules_to_save = [name for name in task.head if hasattr(task.model(), name)] or None
    theirs = get_peft_model(task.model(), config)
    theirs.load_state_dict({name: tensor for name, tensor in ours.model.state_dict().items() if "low_rank" not in name})
    adamw = torch.optim.AdamW(
        [tensor for tensor in theirs.parameters() if tensor.requires_grad], lr=1e-3, weight_decay=AdamW().weight_decay
    )
    losses = []
    for step in range(4):
        batch = dict(task.batch(step))
        if "labels" not in batch:
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = theirs(**batch).loss
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    assert [ours.advance()[0] for _ in range(4)] == pytest.approx(losses, rel=1e-4)


def test_stacked_lanes_of_a_language_model_equal_single_ones():
    task = drawn(CausalLM(batch_size=2, length=32))
    lanes = [(task, 0, rate) for rate in (1e-3, 3e-3)]
    stack = Stack(lanes, OPLoRA(rank=4), Adam(), SETTINGS)
    together = torch.tensor([stack.advance() for _ in range(3)]).mT
    alone = [Lane(task, OPLoRA(rank=4), Adam(), 0, rate, SETTINGS) for *_, rate in lanes]
    torch.testing.assert_close(
        together, torch.tensor([[lane.advance()[0] for _ in range(3)] for lane in alone]), rtol=1e-3, atol=1e-3
    )


def test_a_pretrained_language_model_is_better_than_a_random_one_and_better_still_adapted():
    sizes = {"examples": 32, "validation": 8, "test": 16, "evaluations": 1, "length": 48}
    perplexity = {}
    for weights in ("pretrained", "random"):
        drawn(CausalLM(weights=weights, **sizes))
        found = run(CausalLM(weights=weights, **sizes), LoRA(rank=8), Adam(), lr=[1e-3], seeds=[0, 1], steps=15).curves
        perplexity[weights] = {step: found.loc[found["step"] == step, "test_perplexity"].to_numpy() for step in (0, 15)}
    assert (perplexity["pretrained"][0] < perplexity["random"][15]).all()
    assert (perplexity["pretrained"][15] < 0.95 * perplexity["pretrained"][0]).all()


def test_icons_of_a_pretrained_model_are_nearer_than_a_random_ones_and_nearer_still_adapted():
    distance = {}
    for weights, steps in (("pretrained", 150), ("random", 1)):
        problem = ImageStyle(weights=weights, samples=96, evaluations=1)
        drawn(problem)
        found = run(problem, LoRA(rank=4), Adam(), lr=[3e-3], seeds=[0], steps=steps, schedule="cosine").curves
        distance[weights] = found["mmd"].to_numpy()
    assert distance["pretrained"][0] < 0.5 * distance["random"][0]
    assert distance["pretrained"][-1] < distance["pretrained"][0]
    assert np.isfinite(distance["random"]).all()
