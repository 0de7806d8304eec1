"""Runs a block of lanes together: every tensor has two leading dimensions, (seed, rate)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from bench import probes
from bench.lanes import Buffers, Lanes
from linalg import ChainRule, FactoredMatrix, Program, generator
from linalg.program import cuda_graph
from optimizers import Optimizer, schedule_factor
from optimizers._optimizer import form
from parameterizations import Parameterization, Params, Step
from parameterizations._recorded import Recorded
from problems import Instance


@dataclass(frozen=True)
class Settings:
    """How a run is carried out.

    Args:
        steps: updates a lane.
        schedule, warmup: see `optimizers.schedule_factor`.
        dtype, device: of every tensor.
        probes: `none` (the instance's own measures alone), `basic` or `all`.
        tuning: whether a learning rate is chosen by these lanes.
    """

    steps: int
    schedule: str = "constant"
    warmup: int = 0
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    probes: str = "basic"
    tuning: bool = False


class Advance(Protocol):
    """Told how far a run is: the lane-steps done since the last call, and whether an earlier run had left them."""

    def __call__(self, lane_steps: float, /, *, found: bool = False) -> None: ...


@dataclass
class BlockResult:
    """What a block of S seeds and K rates leaves.

    Args:
        steps: the probed steps, P of them.
        curves: (P, S, K) by probe, float64; NaN where not measured, infinite loss once a lane has diverged.
        status: S lists of K words: ok, diverged or timeout.
        spectra: (S, K, k) singular values of all that was learned, by step: at the end, with `all` along the way, without
            probes none.
        step_seconds, probe_seconds: wall time.
        parameters, state_bytes: trainable numbers and optimizer state of one lane; in a model also the bytes of the gradients, of
            the model, and of a step at its height beside the model.
        pictures: of one lane, as PNG, by what they are; see `problems.Task.pictures`.
    """

    steps: list[int]
    curves: dict[str, Tensor] = field(default_factory=dict)
    status: list[list[str]] = field(default_factory=list)
    spectra: dict[int, Tensor] = field(default_factory=dict)
    step_seconds: float = 0.0
    probe_seconds: float = 0.0
    parameters: int = 0
    state_bytes: int = 0
    gradient_bytes: int | None = None
    model_bytes: int | None = None
    peak_bytes: int | None = None
    pictures: dict[str, list[bytes]] = field(default_factory=dict)


class Block:
    """Lanes of some seeds and rates, ready to run.

    Args:
        instances: one a seed, not stacked.
        seeds: S of them.
        rates: K learning rates, the same for every seed.
        timeout: seconds after which lanes stop and are marked `timeout`; None for never.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        parameterization: Parameterization,
        optimizer: Optimizer,
        seeds: Sequence[int],
        rates: Sequence[float],
        settings: Settings,
        timeout: float | None = None,
    ) -> None:
        self.timeout = timeout
        self.instances, self.parameterization, self.optimizer, self.settings = instances, parameterization, optimizer, settings
        self.instance = type(instances[0]).stack(instances)
        self.seeds = seeds
        self.lr = torch.tensor(rates, dtype=settings.dtype, device=settings.device).expand(len(seeds), -1).contiguous()
        started = [initial_tensors(*pair, parameterization, settings) for pair in zip(instances, seeds, strict=True)]
        frozen = {name for name in started[0] if name in parameterization.frozen}
        self.params: Params = {name: torch.stack([params[name] for params in started])[:, None] for name in frozen}
        lanes = Lanes({name: tensor for name, tensor in started[0].items() if name not in frozen}, (len(seeds), len(rates)))
        self.buffers = Buffers(lanes, self.lr, optimizer, parameterization.rates, parameterization.scaling)
        self._factor = 1.0  # of the schedule, in the buffers' rates
        self.trainable, self.grads, self.state = self.buffers.params, self.buffers.grads, self.buffers.state
        for name, tensor in self.trainable.items():
            tensor.copy_(torch.stack([params[name] for params in started])[:, None])
        self.params |= self.trainable
        self.at = self.step_of("steps")
        self.at.lr, self.at.instance, self.at.gradient = self.buffers.lr, self.instance, self.weight_gradient
        self.batches = self.step_of("batches")  # a stream of its own: what a method draws must not move the data
        self.batch: Any = None
        self.prepare()

    def prepare(self) -> None:
        """Record how the gradients come from the parameters; again whenever a hook has put other tensors in place."""
        self.program = Program()
        with torch.no_grad():
            if self.optimizer.tangent:
                recorded = self.parameterization.record_tangent(self.program, self.params, self.grads)
            else:
                recorded = self.parameterization.record(self.program, self.params, self.grads, self.at)
            chain = ChainRule(recorded.weight, self.program, recorded.cotangents)
            base = recorded.weight.base
            self.instance.record(self.program, chain.parts, base, chain.part_cotangents, lambda: self.batch)
            chain.pull_back()
            if self.optimizer.preconditions:
                self.program.decide(self.precondition, recorded)
            recorded.pull_back()
            if self.parameterization.penalizes:
                self.program.decide(self.penalize)
            if self.parameterization.directs:
                self.program.decide(self.parameterization.direct, self.params, self.grads, self.at)
        self._parts = len(chain.parts)
        self.update = Program()
        self.buffers.record(self.update, self.at, recorded.outer)
        self._outer = recorded.outer
        self._restarted = len(self.state.restarted)
        capture = None if self.hooked else capture_on(self.lr.device)
        if capture is not None:
            self.program.capture(capture)
            self.update.capture(capture)
        self._recorded = self.fixed_tensors()

    @property
    def bytes(self) -> int:
        """The working set of a step."""
        merged = self.params.items() if self.parameterization.merges else ()  # else what is fixed is shared by the rates
        own = [tensor for name, tensor in merged if name not in self.trainable and tensor.shape[1] == self.lr.shape[1]]
        beside = self.lr.numel() * self.instance.workspace(self._parts)
        return self.buffers.bytes + self.program.bytes + self.lr.element_size() * (beside + sum(tensor.numel() for tensor in own))

    def step_of(self, stream: str) -> Step:
        drawn = [generator(seed, stream) for seed in self.seeds]
        return Step(steps=self.settings.steps, generators=drawn, closure=self.lane_loss_and_gradients)

    def run(self) -> BlockResult:
        """Take every step, probing on the way."""
        settings, result = self.settings, BlockResult(probes.geometric_grid(self.settings.steps))
        coarse, probed = probes.coarse_grid(settings.steps), set(result.steps)
        alive = torch.ones(self.lr.shape, dtype=torch.bool, device=self.lr.device)
        before: FactoredMatrix | None = None
        rows: list[dict[str, Tensor]] = []
        late = none_left = False
        started = self.now()
        for step in range(settings.steps + 1):
            last = step == settings.steps
            if not last or settings.probes != "none":
                self.find_gradients(step)
            if step in probed:
                paused = self.now()
                row = self.probe(before, step in coarse)
                lost = alive & ~row["loss"].isfinite()
                alive &= ~lost
                none_left = not alive.any()
                self.freeze(lost)
                rows.append({name: value.where(alive, torch.inf if name == "loss" else torch.nan) for name, value in row.items()})
                if settings.probes == "all" and step in coarse:
                    result.spectra[step] = self.spectrum()
                result.probe_seconds += self.now() - paused
                late = not last and self.timeout is not None and time.perf_counter() - started > self.timeout
                before = None
            if last or late or none_left:
                break
            if step + 1 in probed and settings.probes != "none":
                before = snapshot(self.weight())
            self.step()
        result.step_seconds = self.now() - started - result.probe_seconds
        result.curves = stack_rows(rows, len(result.steps), alive)
        result.status = [[("timeout" if late else "ok") if lane else "diverged" for lane in row] for row in alive.tolist()]
        if settings.probes != "none":
            result.spectra[self.at.step] = self.spectrum()
        lanes = self.lr.numel()
        result.parameters = sum(tensor.numel() for tensor in self.trainable.values()) // lanes
        result.state_bytes = self.optimizer.state_bytes(self.state) // lanes
        return result

    @torch.no_grad()
    def find_gradients(self, step: int) -> None:
        """Leave in `grads` what the rule is to follow at the present parameters, on that step's batch: the loss's gradients, and
        what preconditioning, penalties and directions make of them; for tangent rules see `SVD.record_tangent`."""
        self.at.step = self.batches.step = step
        self.batch = self.instance.batch(self.batches)
        self.program()

    @torch.no_grad()
    def step(self) -> None:
        """Move along the gradients that were found."""
        factor = schedule_factor(self.settings.schedule, self.at.step, self.settings.steps, self.settings.warmup)
        if factor != self._factor:
            self._factor = factor
            self.buffers.set_rates(self.lr * factor)
        self.update()
        if self.hooked:
            self.parameterization.after_step(self.params, self.grads, self.state, self.at)
            self.take_up_changes()

    def precondition(self, recorded: Recorded) -> None:
        """Let the rule change the gradients of the chain's two factors."""
        weight, places = recorded.weight, recorded.cotangents
        changed = self.optimizer.precondition(*weight.factors, *places, weight.scale)  # type: ignore[call-arg,arg-type]  # a pair
        for place, gradient in zip(places, changed, strict=True):
            if place is not None:  # else the factor is frozen
                place.copy_(gradient)

    def weight_gradient(self) -> Tensor:
        """(S, K, ..., m, n) dL/dW at the weight as it is trained at this step, on the step's batch."""
        weight = self.parameterization.weight(self.params, self.at)
        (gradient,) = self.instance.gradient(FactoredMatrix((weight.update(),), weight.base), self.batch)
        assert gradient is not None
        return gradient

    def penalize(self) -> None:
        """Add the penalty's gradients to those of the loss."""
        with torch.enable_grad():
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in self.trainable.items()}
            penalty = self.parameterization.penalty({**self.params, **leaves})
            assert penalty is not None
            found = torch.autograd.grad(penalty.sum(), list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                self.grads[name].add_(gradient)

    def loss_gradients(self) -> Params:
        """Gradients by name of the loss that is trained, penalty included, on the step's batch: those that were found, or where
        they have been made something else for the rule to follow, by autograd."""
        if not (self.optimizer.tangent or self.optimizer.preconditions or self.parameterization.directs):
            return self.grads
        with torch.enable_grad():
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in self.trainable.items()}
            params = {**self.params, **leaves}
            total = self.instance.loss(self.parameterization.weight(params, self.at), self.batch).sum()
            penalty = self.parameterization.penalty(params)
            total = total if penalty is None else total + penalty.sum()
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def restart_rates(self) -> None:
        """Take up `lr` and counts that have been put in place of others."""
        self._factor = 1.0
        self.buffers.set_rates(self.lr)
        self.buffers.share_count()

    @property
    def hooked(self) -> bool:
        """Whether the parameterization does anything after a step."""
        return type(self.parameterization).after_step is not Parameterization.after_step

    def take_up_changes(self) -> None:
        """Go on from tensors that a hook has put in place of others, or has changed where nothing trains."""
        for name, tensor in self.trainable.items():
            if self.params[name] is not tensor:
                tensor.copy_(self.params[name])
                self.params[name] = tensor
        if not self.is_recorded():
            self.prepare()

    def fixed_tensors(self) -> dict[str, tuple[Tensor, int]]:
        """The tensors that nothing trains, with how often each has been written to: what was recorded rests on their content."""
        return {name: (tensor, tensor._version) for name, tensor in self.params.items() if name not in self.trainable}

    def is_recorded(self) -> bool:
        """Whether what was recorded still holds."""
        now, then = self.fixed_tensors(), self._recorded
        same = now.keys() == then.keys() and all(now[name][0] is then[name][0] and now[name][1] == then[name][1] for name in now)
        return same and len(self.state.restarted) == self._restarted

    def now(self) -> float:
        """Seconds on a clock, with nothing still under way on the device."""
        if self.lr.is_cuda:
            torch.cuda.synchronize(self.lr.device)
        return time.perf_counter()

    def weight(self) -> FactoredMatrix:
        """The weight as it would be used."""
        return self.parameterization.weight(self.params)

    def total_update(self) -> FactoredMatrix:
        """All that was learned: the weight less the pretrained base, in factors where nothing has been merged."""
        weight, base = self.weight(), self.instance.base
        if not (self.parameterization.merges or self.parameterization.splits):
            return FactoredMatrix(weight.factors, None, weight.scale)
        return FactoredMatrix((weight.dense() if base is None else weight.dense() - base,))

    def freeze(self, lanes: Tensor) -> None:
        """Stop the lanes of a mask (S, K) at zero, where nothing overflows any more."""
        if lanes.any():
            self.lr[lanes] = 0
            self.buffers.set_rates(self.lr * self._factor)
            moments = [moment for moments in self.state.values() for moment in moments.values()]
            for tensor in [*self.params.values(), *moments, *self.grads.values()]:
                if tensor.shape[:2] == lanes.shape:
                    tensor[lanes] = 0

    def spectrum(self) -> Tensor:
        """(S, K, k) singular values of all that was learned; those of a stack's layers, or of several domains, together, sorted."""
        with torch.no_grad():
            values = self.total_update().svdvals()
            if values.ndim > 3:
                values = values.flatten(2).sort(descending=True).values
            return values.expand(*self.lr.shape, -1).cpu()

    def probe(self, before: FactoredMatrix | None, coarse: bool) -> dict[str, Tensor]:
        """One value a lane (S, K) of every probe asked for."""
        with torch.no_grad():
            form(self._outer, self.grads)
            weight = self.weight()
            row = dict(self.instance.measure(weight))
            if self.settings.probes != "none":
                row |= probes.basic(weight, before, self.loss_gradients(), self.settings.dtype)
            if self.settings.probes == "all" and coarse:
                total = self.total_update()
                row |= probes.expensive(self.instance, self.parameterization, self.params, weight, total, self.settings.dtype)
            row = {name: probes.over_layers(name, value.flatten(2)) if value.ndim > 2 else value for name, value in row.items()}
        return {name: value.detach().double().expand(self.lr.shape).to(self.lr.device) for name, value in row.items()}

    def lane_loss_and_gradients(self, lane: tuple[int, int]) -> tuple[Tensor, Params]:
        """The loss () and gradients (1, 1, ...) of one lane, for optimizers that search along a line."""
        seed, rate = lane
        own = {}
        for name, tensor in self.params.items():
            own[name] = tensor[seed : seed + 1, rate : rate + 1] if name in self.trainable else tensor[seed : seed + 1]
        own = {name: tensor.detach().requires_grad_(name in self.trainable) for name, tensor in own.items()}
        instance = self._single[seed]
        at = replace(self.at, generators=self.at.generators[seed : seed + 1])
        with torch.enable_grad():
            weight = self.parameterization.weight(own, at)
            loss = instance.loss(weight, self.batch if self.batch is None else self.batch[seed : seed + 1])
            learned = {name: own[name] for name in self.trainable}
            grads = torch.autograd.grad(loss.sum(), list(learned.values()))
        return loss.detach().sum(), dict(zip(learned, grads, strict=True))

    @cached_property
    def _single(self) -> list[Instance]:
        return [type(instance).stack([instance]) for instance in self.instances]


def capture_on(device: torch.device) -> Callable[[Callable[[], None]], Callable[[], None]] | None:
    """What turns many calls into one on that device, where there is such a thing; see `Program.capture`."""
    return cuda_graph if device.type == "cuda" else None


def initial_tensors(instance: Instance, seed: int, parameterization: Parameterization, settings: Settings) -> Params:
    """One seed's tensors: every rate of the seed starts from them."""

    batch = None
    if getattr(instance, "tasks", 1) > 1:  # later tasks are not known yet
        batch = instance.batch(Step(0, settings.steps, [generator(seed, "first batch")]))

    def gradient(weight: Tensor) -> Tensor:
        (grad,) = instance.gradient(FactoredMatrix((weight.to(dtype=settings.dtype, device=settings.device),)), batch)
        assert grad is not None
        return grad

    return parameterization.init(
        instance.shape,
        generator=generator(seed, "init"),
        dtype=settings.dtype,
        device=settings.device,
        base=instance.base,
        gradient=gradient,
        layers=instance.layers,
    )


def snapshot(weight: FactoredMatrix) -> FactoredMatrix:
    """The weight as it stands, out of reach of the updates; a base that is merged into is replaced, not changed (see `Flora`)."""
    return FactoredMatrix(tuple(factor.detach().clone() for factor in weight.factors), weight.base, weight.scale)


def stack_rows(rows: list[dict[str, Tensor]], count: int, alive: Tensor) -> dict[str, Tensor]:
    """(count, lanes) by probe; rows that a block stopped before are NaN, with an infinite loss for lanes that diverged."""
    unmeasured = torch.full(alive.shape, torch.nan, dtype=torch.float64)
    stopped = unmeasured.masked_fill(~alive.cpu(), torch.inf)
    curves = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name].cpu() if name in row else unmeasured for row in rows]
        curves[name] = torch.stack(values + [stopped if name == "loss" else unmeasured] * (count - len(rows)))
    return curves
