"""What a CUDA graph would do to a block, done on the CPU: the calls of one step are noted down, with all their numbers, and
repeated blindly at every later step. A number that should have changed from step to step would show."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import bench
import bench.engine
from optimizers import SGD, Adagrad, Adam, AdamW, Momentum, RMSprop, Torch
from parameterizations import Deep, DeepLoRA, Flora, Full, LoRA, OPLoRA
from problems import LinearRegression, MatrixCompletion, MatrixFactorization


class NoteDown(TorchDispatchMode):
    """Notes every call into torch; what changes memory is noted only, as in a capture, and not done."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert "_local_scalar_dense" not in str(function), "a capture must not wait for a number"
        if function._schema.is_mutable:
            self.calls.append((function, args, kwargs, None))
            return kwargs.get("out", kwargs.get("grad_input", args[0])) if function._schema.returns else None
        result = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, result))
        return result


class Graphs:
    def __init__(self):
        self.captured = self.replayed = 0

    def capture(self, run):
        with NoteDown() as noted:
            run()
        self.captured += 1

        def replay():
            self.replayed += 1
            for function, args, kwargs, result in noted.calls:
                again = function(*args, **kwargs)
                if result is not None and again.data_ptr() != result.data_ptr():
                    result.copy_(again)  # a temporary lives where it lived

        return replay


@pytest.fixture
def graphs(monkeypatch):
    made = Graphs()
    monkeypatch.setattr(bench.engine, "capture_on", lambda device: made.capture)
    return made


METHODS = [Full(), LoRA(4), LoRA(4, alpha=3.0), DeepLoRA(4), Deep(), OPLoRA(3, hidden=6, embedding=5), OPLoRA(3, head="rezero")]
RULES = [SGD(), Momentum(), Adam(), AdamW(), RMSprop(), Adagrad()]
PROBLEM = MatrixFactorization(shape=(24, 30))


def run(problem, method, rule, **options):
    settings = {"lr": [0.01, 0.03], "seeds": 2, "steps": 40, "dtype": "float64", "schedule": "cosine", "warmup": 5}
    return bench.run(problem, method, rule, **(settings | options))


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_repeating_one_steps_calls_is_the_run_itself(method, rule, graphs, monkeypatch):
    captured = run(PROBLEM, method, rule)
    assert graphs.captured == 2  # the gradients and the update of the only block
    assert graphs.replayed > 60
    monkeypatch.undo()
    assert captured.curves.equals(run(PROBLEM, method, rule).curves)


@pytest.mark.parametrize(
    "problem",
    [MatrixCompletion(shape=(24, 30), rank=2, observed=0.4), LinearRegression(shape=(12, 14), rank=2)],
    ids=["completion", "regression"],
)
def test_other_problems_are_captured_as_well(problem, graphs, monkeypatch):
    captured = run(problem, LoRA(4), Adam())
    assert graphs.captured == 2
    monkeypatch.undo()
    assert captured.curves.equals(run(problem, LoRA(4), Adam()).curves)


@pytest.mark.parametrize(
    ("problem", "method", "rule", "captured"),
    [
        (PROBLEM, Flora(3, interval=5), Adam(), 0),  # its hook puts other tensors in place
        (PROBLEM, LoRA(3), Torch("torch.optim.NAdam"), 1),  # what the optimizer does is its own affair
        (LinearRegression(shape=(12, 14), rank=2, batch_size=8), LoRA(3), Adam(), 1),  # batches come from outside
    ],
    ids=["hook", "torch", "batches"],
)
def test_what_cannot_be_captured_runs_as_it_is(problem, method, rule, captured, graphs, monkeypatch):
    found = run(problem, method, rule)
    assert graphs.captured == captured
    monkeypatch.undo()
    assert found.curves.equals(run(problem, method, rule).curves)


def test_lanes_that_diverge_are_stopped_in_a_captured_block_too(graphs, monkeypatch):
    found = run(PROBLEM, Deep(), SGD(), lr=[0.05, 1e6], schedule="constant", warmup=0)
    assert graphs.captured == 2
    assert set(found.lanes.status) == {"ok", "diverged"}
    monkeypatch.undo()
    assert found.curves.equals(run(PROBLEM, Deep(), SGD(), lr=[0.05, 1e6], schedule="constant", warmup=0).curves)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_run_on_a_gpu_is_the_run_on_the_cpu_to_rounding(method):
    ours, reference = (run(PROBLEM, method, Adam(), device=device) for device in ("cuda", "cpu"))
    assert (ours.curves.loss - reference.curves.loss).abs().max() < 1e-8 * reference.curves.loss.max()
