"""Two processes with halves of a batch each train an adapter as one process with the whole batch does."""

import datetime
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from by_hand import gaussian
from torch import distributed, nn

import adapters
from adapters._install import attached
from linalg import InputError
from optimizers import Adam, GeoLoRA, ScaledGD, torch_optimizer

pytest.importorskip("safetensors")
if not (distributed.is_available() and distributed.is_gloo_available()):
    pytest.skip("torch has no gloo here", allow_module_level=True)

PROCESSES, STEPS, LR = 2, 5, 0.05
CASES = {
    "lora": ("lora", {}, None),
    "op_lora": ("op_lora", {"hidden": 8, "embedding": 4}, None),
    "deep_lora": ("deep_lora", {}, None),
    "flora": ("flora", {"interval": 2}, None),
    "adalora": ("adalora", {}, None),
    "flat_lora": ("flat_lora", {}, None),
    "svd, geolora": ("svd", {}, GeoLoRA()),
    "flora, rule": ("flora", {"interval": 2}, Adam()),
    "op_lora, preconditioned": ("op_lora", {"hidden": 8, "embedding": 4}, ScaledGD()),
}
SHARDED = {"lora": ("lora", {}, None), "op_lora": CASES["op_lora"], "svd": ("svd", {"scale": 0.1}, None)}
REFUSED = {name: CASES[name] for name in ("deep_lora", "flora", "adalora", "flat_lora")}


def first_model():
    """An embedding and two linear layers with pairs of rank 2 and scale 2."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    return adapters.wrap(layers, ["0", "1", "3"], rank=2, alpha=4)


def loss_of(model, part=slice(None)):
    tokens = torch.randint(10, (8,), generator=torch.Generator().manual_seed(1))
    return (model(tokens[part]) - gaussian(8, 5)[part]).square().mean()


def attach(method, options, part=slice(None)):
    return adapters.attach(first_model(), method, loss=lambda model: loss_of(model, part), steps=20, **options)


def optimizer_of(model, rule):
    if rule is not None:
        return torch_optimizer(rule, model, lr=LR)
    return torch.optim.Adam([tensor for tensor in model.parameters() if tensor.requires_grad], lr=LR)


def train(model, optimizer, part=slice(None)):
    """The losses before each step."""
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss_of(model, part)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def ending(model):
    """By name: what the pairs and the bases are, the last gradients, and how many steps the pairs have counted."""
    found = {}
    for pair in attached(model):
        name = pair.site.name
        found |= {f"{name}/{key}": whole(tensor) for key, tensor in pair.tensors().items()}
        found |= {
            f"{name}/{key}/gradient": whole(torch.zeros_like(tensor) if tensor.grad is None else tensor.grad)
            for key, tensor in pair.named_parameters()
        }
        found[f"{name}/base"] = whole(pair.site.base.detach()).clone()
        found[f"{name}/step"] = torch.tensor(pair.at.step)
    return {name: tensor.clone() for name, tensor in found.items()}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def replicated(case, part):
    """Of a model under DistributedDataParallel."""
    method, options, rule = CASES[case]
    model = attach(method, options, part)
    model = nn.parallel.DistributedDataParallel(model)
    train(model, optimizer_of(model, rule), part)
    return ending(model.module)


def sharded(case, part):
    """Of a model under FSDP2."""
    try:
        return ending(train_sharded(case, part))
    except InputError as refusal:
        return {"refused": str(refusal)}


def exported(case, part):
    """What a model under FSDP2 exports, as numbers."""
    return plain(train_sharded(case, part))


def plain(model):
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        return load_file(adapters.export(model, folder))


def train_sharded(case, part):
    """A model whose blocks, and the rest, are sharded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    method, options, rule = (SHARDED | REFUSED)[case]
    model = attach(method, options, part)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for block in (*(model[i] for i in (0, 1, 3)), model):
        fully_shard(block, mesh=mesh)
    train(model, optimizer_of(model, rule), part)
    return model


def work(rank, folder, kinds):
    """What one of the processes does: all cases, whose ends it writes down."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=PROCESSES,
        timeout=datetime.timedelta(seconds=30),
    )
    part = slice(4 * rank, 4 * rank + 4)
    for run, cases in kinds:
        for case in cases:
            try:
                found = run(case, part)
            except Exception as error:  # in both processes alike, and the other cases go on
                found = {"failed": f"{type(error).__name__}: {error}"}
            torch.save(found, Path(folder) / f"{run.__name__} {case} {rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ends():
    """What both processes ended with, by the kind of run and the case."""
    folder = tempfile.mkdtemp()
    kinds = [(replicated, list(CASES)), (sharded, [*SHARDED, *REFUSED]), (exported, list(SHARDED))]
    torch.multiprocessing.spawn(work, (folder, kinds), nprocs=PROCESSES)

    def of(kind, case):
        found = [torch.load(Path(folder) / f"{kind} {case} {rank}") for rank in range(PROCESSES)]
        for each in found:
            assert "failed" not in each, each["failed"]
        return found

    yield of
    shutil.rmtree(folder)


def alone(case, cases):
    method, options, rule = cases[case]
    model = attach(method, options)
    start = ending(model)
    losses = train(model, optimizer_of(model, rule))
    assert losses[-1] != losses[0]
    found = ending(model)
    trained = {name for name in start if not name.endswith("/step") and not torch.equal(start[name], found[name])}
    assert len({name.split("/")[0] for name in trained}) == 3  # every layer has moved
    return found


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-7, atol=1e-9, msg=lambda told, name=name: f"{name}: {told}")


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_stay_equal_to_the_last_bit(case, ends):
    first, second = ends("replicated", case)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_end_where_one_process_with_the_whole_batch_does(case, ends):
    found, _ = ends("replicated", case)
    assert_same(found, alone(case, CASES))
    assert all(tensor == STEPS for name, tensor in found.items() if name.endswith("/step"))


def test_replicas_merge_into_their_bases(ends):
    found, _ = ends("replicated", "flora")
    for name, layer in first_model().named_modules():
        if hasattr(layer, "base_layer"):
            assert not torch.equal(found[f"{name}/base"], layer.base_layer.weight)


@pytest.mark.parametrize("case", SHARDED)
def test_two_shards_end_where_one_process_with_the_whole_batch_does(case, ends):
    found, other = ({name: tensor for name, tensor in each.items() if "step" not in name} for each in ends("sharded", case))
    assert_same(found, other)
    assert_same(found, {name: tensor for name, tensor in alone(case, SHARDED).items() if "step" not in name})


@pytest.mark.parametrize("case", SHARDED)
def test_two_shards_export_what_one_process_does(case, ends):
    method, options, rule = SHARDED[case]
    model = attach(method, options)
    train(model, optimizer_of(model, rule))
    wanted = plain(model)
    assert len(wanted) == 6
    for found in ends("exported", case):
        assert_same(found, wanted)


@pytest.mark.parametrize("case", REFUSED)
def test_a_method_that_works_around_the_step_is_refused_where_its_tensors_are_sharded(case, ends):
    for found in ends("sharded", case):
        assert "refused" in found
        assert "FSDP" in found["refused"]
        assert "\n" not in found["refused"]
