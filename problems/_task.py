"""The contract of a problem that lives in a model: pretrained weights, batches, a loss, and what is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from linalg import InputError
from linalg.checks import check, check_choice, check_integer
from linalg.random import generator
from optimizers import Optimizer, unfit
from parameterizations import Full, Parameterization
from problems._packages import require
from problems._problem import Problem

Batch = Mapping[str, Tensor]
WEIGHTS = ("pretrained", "random")


class Task:
    """One drawn fine-tuning task. A subclass gives `model`, `batch`, `losses`, `measure` and `test`.

    Every lane gets a copy of the model of its own, so that a task remembers nothing of those before.
    """

    selection: ClassVar[str] = "validation_loss"  # the measure that picks the learning rate; never a test error
    selection_root: ClassVar[bool] = False
    stops_early: ClassVar[bool] = True  # whether a run counts as of its best evaluation, or as of its end
    headline: ClassVar[str] = "test_error"  # the measure that tables report
    spectrum: ClassVar[Tensor | None] = None  # no update is the true one
    targets: Sequence[str] = ()  # the layers that are adapted: endings of their names
    head: Sequence[str] = ()  # modules that train beside them, whole
    evaluations: int = 5  # see `FineTuning`
    device: torch.device | str = "cpu"  # where data may be prepared
    problem: Any
    seed: int
    padding: Mapping[str, int] = {}  # what stands behind the end of a row, by the tensor's name; 0 where nothing is said
    accumulation: int = 1  # micro-batches whose gradients are averaged before a step; batches are counted over all of them

    def rows(self, step: int) -> Tensor:
        """(batch_size,) which of the examples to train on a step sees."""
        return in_order(self.problem.examples, self.problem.batch_size, step, lambda name: generator(self.seed, name))

    def model(self) -> nn.Module:
        """A copy of the model as fine-tuning begins, on the CPU in float32, without dropout."""
        raise NotImplementedError

    def batch(self, step: int) -> Batch:
        """The examples of a step, the same whenever it is asked for: every tensor's first dimension is theirs."""
        raise NotImplementedError

    def losses(self, model: nn.Module, batch: Batch, lanes: int = 1) -> Tensor:
        """(lanes,) the training loss, differentiable; examples are those of one lane after the other."""
        raise NotImplementedError

    def measure(self, model: nn.Module) -> dict[str, float]:
        """`loss` over training data, and `selection`; of a model in evaluation mode, without gradients."""
        raise NotImplementedError

    def test(self, model: nn.Module) -> dict[str, float]:
        """The headline, and whatever else is reported of data that nothing is chosen by. It is asked for where the selection is
        the lowest so far and at the end, and never of lanes that a learning rate is chosen by."""
        raise NotImplementedError

    def pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """What there is to look at: (N, c, h, w) from -1 to 1 by what it is, made by the adapted model or to compare with; for most
        tasks nothing."""
        return {}

    def best(self, rank: int) -> float | None:
        return None


@dataclass(frozen=True)
class FineTuning(Problem):
    """Base class of the problems in models. A subclass is a frozen dataclass in a file of its own that gives `instance`.

    Args:
        weights: `pretrained`, or `random` for a model that knows nothing: what pretraining is worth.
        model, data: what is adapted, and to what: names of the subclass's own, folders, or a hub's ids.
        batch_size: examples a step.
        evaluations: how often along a run it is measured, at equal distances, beside the start.
        targets: endings of the names of the layers that are adapted; null for the model's usual ones.
    """

    provides: ClassVar[tuple[str, ...]] = ("base", "layers", "model")
    packages: ClassVar[tuple[str, ...]] = ("transformers", "peft", "safetensors")
    scorers: ClassVar[tuple[str, ...]] = ()  # packages that a test needs beside
    sources: ClassVar[Mapping[str, str]] = {}  # what `model` and `data` may be, for messages

    weights: str = "pretrained"
    batch_size: int = 16
    evaluations: int = 5
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,))
        for key in ("model", "data"):
            given = getattr(self, key, key)
            ok = isinstance(given, str) and given != "" and (given[0] not in "./~" or Path(given).is_dir())
            check(ok, key, given, self.sources.get(key, "a name"))
        super().__post_init__()
        check_choice("weights", self.weights, WEIGHTS)
        check_integer("batch_size", self.batch_size)
        check_integer("evaluations", self.evaluations)
        if self.targets is not None:
            ok = len(self.targets) > 0 and all(isinstance(each, str) and each for each in self.targets)
            check(ok, "targets", self.targets, "endings of names of layers")

    def require(self, tested: bool = False) -> None:
        """Raise `InputError` where a package is missing.

        Args:
            tested: whether those count that a test needs; it would be late to miss them after a rate was chosen.
        """
        require((*self.packages, *(self.scorers if tested else ())), type(self).__module__.rpartition(".")[2])

    def task(self, seed: int) -> Task:
        """The task of that seed."""
        raise NotImplementedError(f"{type(self).__name__} must define task()")

    def draw(self, seed: int = 0, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Any:
        """Draw a task; in what precision it is trained is for the lane that trains it.

        Args:
            device: where a task may prepare its data; they are kept on the CPU.

        Raises:
            InputError: where a package or a file is missing.
        """
        check_integer("seed", seed, least=0)
        self.require()
        task = self.task(int(seed))
        task.device = device
        return task

    def span(self, optimizer: Optimizer) -> tuple[float, float]:
        """The optimizer's first two decades: weights of a model have smaller entries than targets of spectral norm 1 ask for."""
        return optimizer.span[0], min(optimizer.span[1], 100 * optimizer.span[0])

    def refuses(self, parameterization: Parameterization, optimizer: Optimizer) -> str | None:
        from adapters import refusal

        if reason := unfit(optimizer):
            return reason
        return None if isinstance(parameterization, Full) else refusal(parameterization)


def in_order(count: int, size: int, step: int, source: Any) -> Tensor:
    """(size,) which of `count` examples a step sees: epochs of all in an order of chance, without gaps between them.

    Args:
        source: from a stream's name to its generator.
    """
    start = step * size
    found: list[Tensor] = []
    while (missing := size - sum(map(len, found))) > 0:
        epoch, place = divmod(start + size - missing, count)
        order = torch.randperm(count, generator=source(f"epoch {epoch}"))
        found.append(order[place : place + missing])
    return torch.cat(found)


def check_counts(name: str, problem: Any, data: str, train: int, test: int) -> None:
    """Raise `InputError` where data with so many rows to train on and to test do not give what a problem asks for."""
    for key, there in (("validation", train - 1), ("examples", train - problem.validation), ("test", test)):
        if getattr(problem, key) > there:
            raise unknown(name, key, getattr(problem, key), f"at most {there}, what {data} has")


def by_lane(values: Tensor, lanes: int, weights: Tensor | None = None) -> Tensor:
    """(lanes,) the mean of values, the first dimension being the examples of one lane after the other."""
    values = values.reshape(lanes, -1)
    if weights is None:
        return values.mean(-1)
    weights = weights.reshape(lanes, -1).to(values.dtype)
    return (values * weights).sum(-1) / weights.sum(-1).clamp(min=1)


def without_dropout(model: nn.Module) -> nn.Module:
    """The model, nothing of it random any more: its dropout layers, and the rates that it hands to functions.

    Models of transformers keep those as numbers, by names such as hidden_dropout, layerdrop, attn_pdrop and drop_prob.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for owner in (module, getattr(module, "config", None)):
            for name, value in vars(owner).items() if owner is not None else ():
                if "drop" in name and isinstance(value, float):
                    setattr(owner, name, 0.0)
    return model


def unknown(problem: str, key: str, value: Any, allowed: str, error: BaseException | None = None) -> InputError:
    """One line for a name that neither the suite nor a hub knows."""
    said = "" if error is None else f" ({' '.join(str(error).split())[:200]})"
    return InputError(f"problem={problem}: {key}={value!r}: must be {allowed}{said}")
