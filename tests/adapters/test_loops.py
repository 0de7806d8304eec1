"""Adapters in the training loops that users have: Trainer, accelerate, schedulers, mixed precision, checkpointing, compilation."""

import copy
import json

import pytest
import torch
from by_hand import gaussian
from torch import nn

pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("transformers")
from peft import LoraConfig, PeftModel
from tiny import CASES, MODELS, llama, output, tokens, trainable, wrapped

import adapters
from adapters._install import attached
from adapters._pair import Pair
from optimizers import SGD, Adam, GeoLoRA, LoRARITE, ScaledGD, torch_optimizer

ROWS = tokens(12)  # of a data set
LR = 1e-2


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps what the first Accelerator of a process was told."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def case_of(method):
    name, options = CASES[method]
    return name, options | ({"interval": 2} if method == "flora" else {})


def language(method, model=None, **options):
    """A llama with its pairs in a parameterization, and no randomness in its loss."""
    model = wrapped("llama", **options) if model is None else model
    name, settings = case_of(method)
    return adapters.attach(model, name, loss=MODELS["llama"][2], steps=20, **settings)


def perceptron(method, dtype=torch.float64, **options):
    """Two layers with pairs of rank 2 and scale 2."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).to(dtype)
    model = adapters.wrap(layers, ["0", "2"], rank=2, alpha=4)
    name, settings = case_of(method)
    first = lambda model: squares(model, *next(iter(examples(16))))  # noqa: E731
    return adapters.attach(model, name, loss=first, steps=20, **(settings | options))


def squares(model, inputs, wanted):
    return (model(inputs) - wanted).square().mean()


def examples(size, rows=16, epochs=1):
    """Batches of a data set in its order."""
    inputs, wanted = gaussian(rows, 6, seed=3), gaussian(rows, 5, seed=4)
    for _ in range(epochs):
        yield from zip(inputs.split(size), wanted.split(size), strict=True)


def weights(model):
    """All that the pairs have learned, one matrix a layer, in float64; and whatever is in the bases."""
    found = []
    for pair in attached(model):
        left, right = pair.plain()
        base = pair.site.base_matrix() if pair.original is None else pair.original
        found.append(base.double() + left @ right)
    return found


def assert_same(found, wanted, rtol, atol=0.0):
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def assert_moved(found, start):
    assert all((one - other).abs().max() > 1e-4 for one, other in zip(found, start, strict=True))


def plain_loop(model, optimizer, loss, batches):
    """The losses before each step."""
    model.train()
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        value = loss(model, *batch)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def of_tokens(model, rows):
    return model(input_ids=rows, labels=rows).loss


def of_torch(cls, **options):
    return lambda model: cls(trainable(model), lr=LR, **options)


def of_rule(rule, lr=LR):
    return lambda model: torch_optimizer(rule, model, lr=lr)


# transformers.Trainer


def trainer_of(model, folder, optimizer=None, **options):
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": LR, "lr_scheduler_type": "constant"}
    settings |= {"max_grad_norm": 0.0, "report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    arguments = TrainingArguments(output_dir=str(folder), **(settings | options))
    data = [{"input_ids": row, "labels": row} for row in ROWS]
    return InOrder(model, arguments, train_dataset=data, optimizers=(optimizer, None))


TRAINED = {
    "op_lora, AdamW": ("op_lora", None),
    "flora, AdamW": ("flora", None),
    "adalora, AdamW": ("adalora", None),
    "flora, rule": ("flora", of_rule(Adam())),
    "op_lora, rule": ("op_lora", of_rule(ScaledGD(), lr=1.0)),
    "svd, rule": ("svd", of_rule(GeoLoRA(), lr=1.0)),
    "lora, rule": ("lora", of_rule(LoRARITE())),
}
TOLERANCE = 1e-3  # of float32 after six steps of Adam, whose first divides rounding by rounding where a gradient is nearly zero


@pytest.mark.parametrize("case", TRAINED)
def test_trainer_moves_an_adapter_as_a_plain_loop_does(case, tmp_path):
    method, make = TRAINED[case]
    start, model, other = (language(method) for _ in range(3))
    trainer_of(model, tmp_path, make and make(model)).train()
    adamw = of_torch(torch.optim.AdamW, weight_decay=0.0)
    losses = plain_loop(other, (make or adamw)(other), of_tokens, [(rows,) for rows in ROWS.split(4)] * 2)
    assert sum(losses[3:]) < sum(losses[:3])
    with torch.no_grad():
        assert of_tokens(model.eval(), ROWS) < of_tokens(start.eval(), ROWS)
    assert all(pair.at.step == 6 for pair in attached(model))
    assert_moved(weights(model), weights(start))
    assert_same(weights(model), weights(other), rtol=0, atol=TOLERANCE * LR)


SAVED = ["lora", "op_lora", "deep_lora", "flora", "relora", "adalora", "svd", "sora"]


@pytest.mark.parametrize("target", ["linear", "embedding"])
@pytest.mark.parametrize("method", SAVED)
def test_what_trainer_saves_while_it_trains_is_a_plain_lora(method, target, tmp_path):
    from safetensors.torch import load_file

    options = {"target_modules": ["q_proj", "down_proj"]} if target == "linear" else {}
    model, other = language(method, **options), language(method, **options)
    make = of_rule(GeoLoRA(), lr=1.0) if method == "svd" else of_torch(torch.optim.AdamW, weight_decay=0.0)
    trainer_of(model, tmp_path, make(model), save_strategy="steps", save_steps=3).train()
    plain_loop(other, make(other), of_tokens, [(rows,) for rows in ROWS.split(4)])
    loss = MODELS["llama"][2]
    for step, wanted in ((3, other), (6, model)):
        folder = tmp_path / f"checkpoint-{step}"
        if target == "linear":
            pairs = {f"{pair.site.name}.lora_{side}.weight" for pair in attached(model) for side in "AB"}
            assert load_file(folder / "adapter_model.safetensors").keys() == pairs
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA"
        assert not torch.allclose(output(wanted, loss), output(llama(), loss), atol=1e-3)
        found = output(PeftModel.from_pretrained(llama(), folder), loss)
        torch.testing.assert_close(found, output(wanted, loss), rtol=0, atol=1e-4)


def test_a_checkpoint_of_trainer_leaves_the_run_as_it_was(tmp_path):
    model, other = language("flora"), language("flora")
    trainer_of(model, tmp_path / "saves", save_strategy="steps", save_steps=1).train()
    trainer_of(other, tmp_path / "does not").train()
    assert_same(weights(model), weights(other), rtol=0)


@pytest.mark.parametrize("optimizer", ["torch", "rule"])
def test_the_gradient_norm_that_trainer_allows_bounds_the_step(optimizer, tmp_path):
    model, most = language("op_lora"), 1e-3
    before = [tensor.detach().clone() for tensor in trainable(model)]
    made = of_rule(SGD(), lr=0.5)(model) if optimizer == "rule" else torch.optim.SGD(trainable(model), lr=0.5)
    trainer_of(model, tmp_path, made, max_grad_norm=most, max_steps=1, learning_rate=0.5).train()
    moved = torch.cat([(tensor.detach() - old).flatten() for tensor, old in zip(trainable(model), before, strict=True)])
    torch.testing.assert_close(moved.norm(), torch.tensor(0.5 * most), rtol=1e-2, atol=0.0)


# accelerate


OPTIMIZERS = {"torch": of_torch(torch.optim.Adam), "rule": of_rule(Adam())}
ACCUMULATED = ["lora", "op_lora", "flora", "adalora", "deep_lora"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", ACCUMULATED)
def test_two_accumulated_batches_are_one_of_twice_the_size(method, optimizer, monkeypatch):
    from accelerate import Accelerator

    from adapters import _steps

    penalties = []
    penalize = _steps.penalize
    monkeypatch.setattr(_steps, "penalize", lambda pairs: penalties.extend(pairs) or penalize(pairs))
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
    model, other = perceptron(method), perceptron(method)
    data = torch.utils.data.DataLoader(list(zip(*map(list, next(examples(16))), strict=True)), batch_size=4)
    model, made, data = accelerator.prepare(model, OPTIMIZERS[optimizer](model), data)
    model.train()
    for _ in range(3):
        for inputs, wanted in data:
            with accelerator.accumulate(model):
                accelerator.backward(squares(model, inputs, wanted))
                made.step()
                made.zero_grad()
    assert [pair.at.step for pair in attached(model)] == [6, 6]
    assert len(penalties) == (12 if method == "adalora" else 0)
    start = weights(other)
    plain_loop(other, OPTIMIZERS[optimizer](other), squares, examples(8, epochs=3))
    assert_moved(weights(other), start)
    assert_same(weights(model), weights(other), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", ["op_lora", "flora", "adalora", "deep_lora"])
def test_accelerate_resumes_where_it_saved(method, optimizer, tmp_path):
    from accelerate import Accelerator

    batches = list(examples(8, epochs=4))
    whole = perceptron(method)
    plain_loop(whole, OPTIMIZERS[optimizer](whole), squares, batches)
    accelerator = Accelerator(cpu=True)
    first = perceptron(method)
    first, made = accelerator.prepare(first, OPTIMIZERS[optimizer](first))
    plain_loop(first, made, squares, batches[:3])
    accelerator.save_state(str(tmp_path))
    accelerator = Accelerator(cpu=True)
    second = perceptron(method)
    second, made = accelerator.prepare(second, OPTIMIZERS[optimizer](second))
    accelerator.load_state(str(tmp_path))
    assert_same(weights(second), weights(first), rtol=1e-12, atol=1e-12)
    plain_loop(second, made, squares, batches[3:])
    assert_same(weights(second), weights(whole), rtol=1e-9, atol=1e-10)


# torch's own: schedulers, groups, clipping, closures


@pytest.mark.parametrize("method", ["op_lora", "flora"])
def test_a_rule_under_a_scheduler_moves_as_torchs_optimizer_does(method):
    found = []
    for make in OPTIMIZERS.values():
        model = perceptron(method)
        optimizer = make(model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        for batch in examples(4, epochs=2):
            plain_loop(model, optimizer, squares, [batch])
            scheduler.step()
        found.append(weights(model))
        assert attached(model)[0].at.lr == pytest.approx(LR / 8)
    assert_moved(found[0], weights(perceptron(method)))
    assert_same(found[1], found[0], rtol=1e-8, atol=1e-10)


def test_one_cycle_sets_the_length_of_a_rules_steps():
    model = perceptron("lora")
    optimizer = torch_optimizer(SGD(), model, lr=1.0)
    options = {"max_lr": 0.5, "total_steps": 10, "cycle_momentum": False}  # the third step is the longest
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, **options)
    alone = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    wanted = torch.optim.lr_scheduler.OneCycleLR(alone, **options)
    rates = []
    for batch in examples(8, epochs=5):
        before = [tensor.detach().clone() for tensor in trainable(model)]
        plain_loop(model, optimizer, squares, [batch])
        for tensor, old in zip(trainable(model), before, strict=True):
            torch.testing.assert_close(old - tensor.detach(), wanted.get_last_lr()[0] * tensor.grad, rtol=1e-9, atol=1e-15)
        rates.append(wanted.get_last_lr()[0])
        if len(rates) < 10:
            alone.step()
            scheduler.step()
            wanted.step()
    assert max(rates) == pytest.approx(0.5)
    assert min(rates) < 1e-4


@pytest.mark.parametrize("method", ["lora", "op_lora"])
def test_groups_of_parameters_have_rates_of_their_own(method):
    found = []
    for ours in (True, False):
        model = perceptron(method)
        parts = [[(f"{i}.{name}", tensor) for name, tensor in model[i].named_parameters() if tensor.requires_grad] for i in (0, 2)]
        groups = [{"params": parts[0], "lr": 0.1}, {"params": parts[1]}]
        optimizer = torch_optimizer(SGD(), groups, lr=0.01) if ours else torch.optim.SGD(groups, lr=0.01)
        plain_loop(model, optimizer, squares, examples(4, epochs=2))
        assert [pair.at.lr for pair in attached(model)] == [0.1, 0.01]
        found.append(weights(model))
    assert_moved(found[0], weights(perceptron(method)))
    assert_same(found[0], found[1], rtol=1e-12)


def test_clipped_gradients_bound_a_rules_step():
    model, most = perceptron("op_lora"), 1e-3
    optimizer = torch_optimizer(SGD(), model, lr=0.5)
    before = [tensor.detach().clone() for tensor in trainable(model)]
    squares(model, *next(examples(16))).backward()
    assert torch.nn.utils.clip_grad_norm_(model.parameters(), most) > most
    optimizer.step()
    moved = torch.cat([(tensor.detach() - old).flatten() for tensor, old in zip(trainable(model), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.5 * most, rel=1e-2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", ["op_lora", "adalora", "deep_lora", "flora", "polar"])
def test_a_closure_gives_the_steps_that_a_loop_without_it_gives(method, optimizer):
    model, other = perceptron(method), perceptron(method)
    made = OPTIMIZERS[optimizer](model)

    for batch in examples(4, epochs=2):

        def closure(batch=batch):
            made.zero_grad()
            value = squares(model, *batch)
            value.backward()
            return value

        assert made.step(closure).item() > 0
    plain_loop(other, OPTIMIZERS[optimizer](other), squares, examples(4, epochs=2))
    assert_moved(weights(other), weights(perceptron(method)))
    assert_same(weights(model), weights(other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", ["copied into the data", "data replaced"])
def test_tensors_that_are_written_past_autograd_are_seen(way):
    model, other = perceptron("op_lora").eval(), perceptron("op_lora").eval()
    inputs = gaussian(3, 6)
    with torch.no_grad():
        model(inputs)
        for mine, its in zip(trainable(model), trainable(other), strict=True):
            moved = mine + 0.1
            its.copy_(moved)
            if way == "data replaced":
                mine.data = moved
            else:
                mine.data.copy_(moved)
        torch.testing.assert_close(model(inputs), other(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["flora", "adalora", "op_lora"])
def test_a_state_that_is_put_in_the_place_of_tensors_trains_on(method):
    model, other = perceptron(method), perceptron(method)
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    model.load_state_dict(state, assign=True)
    for each in (model, other):
        plain_loop(each, OPTIMIZERS["torch"](each), squares, examples(4))
    assert [pair.at.step for pair in attached(model)] == [4, 4]
    assert_moved(weights(other), weights(perceptron(method)))
    assert_same(weights(model), weights(other), rtol=1e-12, atol=1e-12)


def test_diffusers_moving_average_of_the_weights_is_what_evaluation_sees():
    pytest.importorskip("diffusers")
    from diffusers.training_utils import EMAModel

    model = perceptron("op_lora")
    start = copy.deepcopy(model).eval()
    inputs = gaussian(3, 6)
    average = EMAModel(trainable(model), decay=0.0, min_decay=0.0)
    average.shadow_params = [tensor.detach().clone() for tensor in trainable(start)]
    plain_loop(model, OPTIMIZERS["torch"](model), squares, examples(4))
    model.eval()
    with torch.no_grad():
        wanted = start(inputs)
        trained = model(inputs)
        assert not torch.allclose(trained, wanted, atol=1e-3)
        average.store(trainable(model))
        average.copy_to(trainable(model))
        torch.testing.assert_close(model(inputs), wanted, rtol=1e-12, atol=1e-12)
        average.restore(trainable(model))
        torch.testing.assert_close(model(inputs), trained, rtol=1e-12, atol=1e-12)


def test_an_optimizer_that_finds_its_own_rate_trains_an_adapter():
    from transformers.optimization import Adafactor

    model = perceptron("op_lora")
    losses = plain_loop(model, Adafactor(trainable(model)), squares, examples(16, epochs=20))  # its lr is None
    assert losses[-1] < losses[0]


# precision


HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def precisions_of_the_pairs(model):
    """What A and B are in while their layer computes."""
    found = set()

    def look(layer, args, output):
        for site in (pair.site for pair in attached(model)):
            if site.layer is layer:
                found.update(tensor.dtype for tensor in site.stored)

    for pair in attached(model):
        pair.site.layer.register_forward_pre_hook(lambda layer, args: look(layer, args, None))
    return found


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("method", ["lora", "op_lora", "flora", "svd", "adalora"])
def test_autocast_leaves_predicted_factors_in_float32(method, precision):
    model, other = language(method), language(method)
    found = precisions_of_the_pairs(model)
    make = of_rule(GeoLoRA(), lr=1.0) if method == "svd" else of_torch(torch.optim.AdamW, weight_decay=0.0)

    def cast(model, rows):
        with torch.autocast("cpu", dtype=HALVES[precision]):
            return of_tokens(model, rows)

    batches = [(rows,) for rows in ROWS.split(4)] * 2
    losses = torch.tensor(plain_loop(model, make(model), cast, batches))
    wanted = torch.tensor(plain_loop(other, make(other), of_tokens, batches))
    assert found == {torch.float32}
    grads = [tensor.grad for tensor in trainable(model) if tensor.grad is not None]  # GeoLoRA's bases have none on most steps
    assert {grad.dtype for grad in grads} == {torch.float32}
    assert (losses != wanted).any()  # else nothing was cast
    torch.testing.assert_close(losses, wanted, rtol=1e-2, atol=0.0)
    with torch.autocast("cpu", dtype=HALVES[precision]):
        cast_factors = [pair.compute() for pair in attached(model)]
    for pair, factors in zip(attached(model), cast_factors, strict=True):
        assert all(torch.equal(one, same) for one, same in zip(pair.compute(), factors, strict=True))


@pytest.mark.parametrize("method", ["lora", "op_lora", "relora", "deep_lora"])
def test_a_model_in_bfloat16_trains_an_adapter_in_float32(method):
    from peft import get_peft_model

    base = llama().to(torch.bfloat16)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=MODELS["llama"][1])
    model = language(method, get_peft_model(base, config))
    assert {tensor.dtype for tensor in trainable(model)} == {torch.float32}
    assert {pair.site.base.dtype for pair in attached(model)} == {torch.bfloat16}
    found = precisions_of_the_pairs(model)
    fast = lambda model: torch.optim.AdamW(trainable(model), lr=5e-2)  # noqa: E731
    losses = plain_loop(model, fast(model), of_tokens, [(ROWS,)] * 10)
    assert found == {torch.float32}
    wanted = plain_loop(other := language(method), fast(other), of_tokens, [(ROWS,)] * 10)
    assert wanted[0] - wanted[-1] > 0.1
    assert losses[0] - losses[-1] == pytest.approx(wanted[0] - wanted[-1], rel=0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", ["op_lora", "flora", "adalora"])
def test_a_step_with_infinite_gradients_is_no_step(method, optimizer):
    model, other = perceptron(method), perceptron(method)
    made = OPTIMIZERS[optimizer](model)
    scaler = torch.amp.GradScaler(device="cpu", init_scale=2.0**8)
    batches = list(examples(4, epochs=2))
    for i, batch in enumerate([batches[0], *batches]):
        made.zero_grad()
        scaler.scale(squares(model, *batch)).backward()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if i == 0:
            trainable(model)[-1].grad.view(-1)[0] = torch.inf
        scaler.step(made)
        scaler.update()
        if i == 0:
            assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
            assert [pair.at.step for pair in attached(model)] == [0, 0]
            assert not made.state_dict()["state"]
            assert scaler.get_scale() == 2.0**7
    plain_loop(other, OPTIMIZERS[optimizer](other), squares, batches)
    assert_moved(weights(other), weights(perceptron(method)))
    assert_same(weights(model), weights(other), rtol=1e-9, atol=1e-12)


# recomputation and compilation


RECOMPUTED = pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])


def recomputing(model, reentrant):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    return model


@RECOMPUTED
@pytest.mark.parametrize("method", ["lora", "op_lora", "deep_lora", "svd", "flat_lora"])
def test_gradients_with_recomputed_activations_are_those_without(method, reentrant):
    model, other = language(method), language(method)
    for each in (model, other):
        if method == "svd":
            torch_optimizer(GeoLoRA(), each, lr=1.0)  # so that its gradients are those of the tangent space
        else:
            plain_loop(each, of_torch(torch.optim.AdamW)(each), of_tokens, [(ROWS,)] * 2)  # away from B = 0
    recomputing(model, reentrant)
    for each in (model, other):
        each.train().zero_grad()
        for pair in attached(each):
            pair.at.step = 11  # of GeoLoRA an augmentation; late in the run, where Flat-LoRA's perturbation is large
        of_tokens(each, ROWS).backward()
    for one, same in zip(trainable(model), trainable(other), strict=True):
        assert same.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, same.grad, rtol=1e-4, atol=1e-6)


@RECOMPUTED
@pytest.mark.parametrize("method", ["op_lora", "flat_lora"])
def test_factors_are_made_once_in_a_forward_pass_of_their_layer(method, reentrant, monkeypatch):
    model, other = recomputing(language(method), reentrant), language(method)
    calls, compute = [], Pair.compute
    monkeypatch.setattr(Pair, "compute", lambda pair: calls.append(pair) or compute(pair))
    counts = []
    for each in (other, model):
        calls.clear()
        of_tokens(each.train(), ROWS).backward()
        counts.append({pair.site.name: calls.count(pair) for pair in attached(each)})
    assert counts[0] == dict.fromkeys(counts[0], 1)
    assert counts[1] == {name: 2 if ".layers." in name else 1 for name in counts[0]}  # the embedding is in no block


COMPILED = ["lora", "op_lora", "deep_lora", "adalora", "flora"]


@pytest.mark.parametrize("method", COMPILED)
def test_a_compiled_model_trains_as_an_eager_one(method):
    check_compiled(method, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "op_lora"])
def test_a_model_compiled_to_machine_code_trains_as_an_eager_one(method):
    check_compiled(method, "inductor")


def check_compiled(method, backend):
    torch.compiler.reset()
    model, other = perceptron(method), perceptron(method)
    start = weights(other)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    made, plain = OPTIMIZERS["torch"](model), OPTIMIZERS["torch"](other)
    graphs = []
    for batch in examples(4, epochs=2):
        losses = []
        for each, whose, optimizer in ((compiled, model, made), (other, other, plain)):
            optimizer.zero_grad()
            value = squares(each, *batch)
            value.backward()
            losses.append(value.item())
            gradients = [tensor.grad.clone() for tensor in trainable(whose)]
            if each is compiled:
                found = gradients
            optimizer.step()
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
        assert_same(found, gradients, rtol=1e-7, atol=1e-10)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[-1] == graphs[0]  # nothing is compiled again as the run goes on
    assert_moved(weights(other), start)
    with torch.no_grad():
        inputs = gaussian(4, 6)
        torch.testing.assert_close(compiled(inputs), other(inputs), rtol=1e-9, atol=1e-10)


def test_a_compiled_language_model_trains_as_an_eager_one():
    torch.compiler.reset()
    model, other = language("op_lora"), language("op_lora")
    compiled = torch.compile(model, backend="aot_eager")
    found = [plain_loop(each, of_torch(torch.optim.SGD)(each), of_tokens, [(ROWS,)] * 3) for each in (compiled, other)]
    assert found[1][-1] < found[1][0]
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5, atol=0.0)
    assert_same(weights(model), weights(other), rtol=0, atol=1e-5)


# what peft offers beside plain pairs


@pytest.mark.parametrize("method", ["lora", "op_lora", "svd"])
def test_only_the_active_adapters_tensors_train(method):
    model = wrapped("llama")
    model.add_adapter("other", LoraConfig(r=2, lora_alpha=2, target_modules=MODELS["llama"][1], init_lora_weights=False))
    language(method, model)
    adapters.attach(model, "op_lora", adapter="other", hidden=3)
    alone = language(method)
    of_adapter = {name: [pair for pair in attached(model, name)] for name in ("default", "other")}
    for active, passive in (("default", "other"), ("other", "default")):
        model.set_adapter(active)
        belong = {id(tensor) for pair in of_adapter[active] for tensor in pair.parameters()}
        assert {id(tensor) for tensor in trainable(model)} == belong
        before = {name: [[t.clone() for t in pair.tensors().values()] for pair in pairs] for name, pairs in of_adapter.items()}
        optimizer = torch.optim.SGD([tensor for tensor in model.parameters()], lr=LR)
        losses = plain_loop(model, optimizer, of_tokens, [(ROWS,)] * 3)
        if active == "default":
            wanted = plain_loop(alone, of_torch(torch.optim.SGD)(alone), of_tokens, [(ROWS,)] * 3)
            torch.testing.assert_close(torch.tensor(losses), torch.tensor(wanted), rtol=1e-6, atol=0.0)
        stayed = {
            name: all(
                torch.equal(one, old)
                for pair, kept in zip(pairs, before[name], strict=True)
                for one, old in zip(pair.tensors().values(), kept, strict=True)
            )
            for name, pairs in of_adapter.items()
        }
        assert stayed == {active: False, passive: True}


def test_a_disabled_adapter_gives_the_base_model_and_trains_on_afterwards():
    loss = MODELS["llama"][2]
    model, other = language("op_lora"), language("op_lora")
    for each in (model, other):
        plain_loop(each, of_torch(torch.optim.SGD)(each), of_tokens, [(ROWS,)] * 3)
    with model.disable_adapter():
        torch.testing.assert_close(output(model, loss), output(llama(), loss), rtol=0, atol=1e-6)
    assert not torch.allclose(output(model, loss), output(llama(), loss), atol=1e-4)
    for each in (model, other):
        plain_loop(each, of_torch(torch.optim.SGD)(each), of_tokens, [(ROWS,)] * 3)
    assert_same(weights(model), weights(other), rtol=0)


VARIANTS = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}, "dropout": {"lora_dropout": 0.2}}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", ["lora", "op_lora", "deep_lora", "svd"])
def test_a_variant_of_lora_trains_and_is_loaded_again(method, variant, tmp_path):
    loss = MODELS["llama"][2]
    targets = {"target_modules": ["q_proj", "down_proj"]} if variant == "dropout" else {}
    model, wanted = language(method, **VARIANTS[variant], **targets), None
    if variant == "rslora":
        assert {pair.site.scaling for pair in attached(model)} == {8 / 4**0.5}
    torch.manual_seed(0)
    losses = plain_loop(model, of_torch(torch.optim.AdamW)(model), of_tokens, [(ROWS,)] * 10)
    assert losses[-1] < losses[0]
    assert all(tensor.grad.abs().max() > 0 for tensor in trainable(model))
    wanted = output(model, loss)
    assert not torch.allclose(wanted, output(llama(), loss), atol=1e-3)
    adapters.export(model, tmp_path / "exported")
    model.save_pretrained(tmp_path / "saved")
    for folder in ("exported", "saved"):
        found = output(PeftModel.from_pretrained(llama(), tmp_path / folder), loss)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    torch.testing.assert_close(output(adapters.bake(model), loss), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["lora", "op_lora"])
def test_attached_lora_drops_the_inputs_that_pefts_own_drops(method):
    plain = wrapped("llama", lora_dropout=0.2)
    model = language(method, lora_dropout=0.2)
    for mine, its in zip(
        attached(model), [module for module in plain.modules() if hasattr(module, "lora_magnitude_vector")], strict=True
    ):
        b, a = mine.plain()
        site = type(mine.site)(mine.site.name, its, "default", mine.site.kind)
        for tensor, value in zip(site.stored, mine.site.reshaped(b / mine.site.scaling, a, mine.input_shape), strict=True):
            tensor.data.copy_(value if value.shape == tensor.shape else torch.zeros_like(tensor))
    losses = []
    for each in (model, plain):
        torch.manual_seed(5)
        losses.append(of_tokens(each.train(), ROWS).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("method", ["op_lora", "flora", "svd", "deep_lora"])
def test_a_copy_of_a_model_trains_on_its_own(method):
    model = perceptron(method)
    make = of_rule(GeoLoRA(), lr=0.1) if method == "svd" else OPTIMIZERS["torch"]
    batches = list(examples(4, epochs=2))
    plain_loop(model, make(model), squares, batches[:3])
    model.eval()
    with torch.no_grad():
        model(gaussian(2, 6))
    held, steps = [one.clone() for one in weights(model)], [pair.at.step for pair in attached(model)]
    twin = copy.deepcopy(model)
    streams = [pair.at.generators[0].get_state() for pair in attached(model)]
    plain_loop(twin, make(twin), squares, batches[3:])
    assert_moved(weights(twin), held)
    assert_same(weights(model), held, rtol=0)
    assert [pair.at.step for pair in attached(model)] == steps
    assert all(torch.equal(pair.at.generators[0].get_state(), old) for pair, old in zip(attached(model), streams, strict=True))
    plain_loop(model, make(model), squares, batches[3:])
    assert_same(weights(model), weights(twin), rtol=0)
    adapters.bake(twin)
    assert not any(layer._forward_pre_hooks for layer in twin.modules())
    assert len(attached(model)) == 2


# optimizers of others


@pytest.mark.parametrize("name", ["Lion", "AdaBelief"])
@pytest.mark.parametrize("method", ["flora", "adalora"])
def test_an_optimizer_of_others_trains_an_adapter(method, name):
    package = pytest.importorskip("pytorch_optimizer")
    model = perceptron(method)
    lr = 3e-3 if name == "Lion" else 3e-2
    optimizer = getattr(package, name)(trainable(model), lr=lr, weight_decay=0.0)
    losses = plain_loop(model, optimizer, squares, [next(examples(16))] * 18)
    assert min(losses[9:]) < losses[0]
    assert [pair.at.step for pair in attached(model)] == [18, 18]
    for pair in attached(model):
        if method == "flora":
            assert pair.original is not None
            assert torch.equal(pair.left, torch.zeros_like(pair.left))  # eighteen steps end an interval of two
        else:
            assert (pair.diagonal != 0).sum() <= pair.method.rank
            assert (pair.diagonal != 0).any()


def test_lion_under_flora_moves_the_weight_as_the_formulas_say():
    """B by hand: Lion's own rule on dL/dB, with its momentum carried by A_old A_newᵀ at each merge."""
    package = pytest.importorskip("pytorch_optimizer")
    model = perceptron("flora")
    pair = attached(model)[1]
    optimizer = package.Lion(trainable(pair), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0)
    left, right, base = pair.left.detach().clone(), pair.right.clone(), pair.site.base_matrix().clone()
    momentum, scale = torch.zeros_like(left), pair.site.scaling
    for step, (inputs, wanted) in enumerate(examples(4)):
        hidden = model[1](model[0](inputs)).detach()
        weight = (base + scale * left @ right).requires_grad_()
        value = (hidden @ weight.mT + model[2].base_layer.bias - wanted).square().mean()
        (gradient,) = torch.autograd.grad(value, weight)
        slope = scale * gradient @ right.mT
        left = left - 1e-2 * (0.9 * momentum + 0.1 * slope).sign()
        momentum = 0.99 * momentum + 0.01 * slope
        plain_loop(model, optimizer, squares, [(inputs, wanted)])
        if step % 2:
            base, left = base + scale * left @ right, torch.zeros_like(left)
            momentum = momentum @ right @ pair.right.mT
            assert not torch.equal(pair.right, right)
            right = pair.right.clone()
        torch.testing.assert_close(pair.left.detach(), left, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(pair.site.base_matrix(), base, rtol=1e-9, atol=1e-12)
