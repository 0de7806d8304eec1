"""Update rules of the catalogue as `torch.optim.Optimizer`s, for training loops that are not this suite's."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from linalg import InputError
from linalg.checks import check, check_number
from linalg.random import generator
from optimizers._manifold import TangentRule
from optimizers._optimizer import Optimizer
from optimizers._pair import PairRule
from optimizers._state import State
from optimizers.adamw import AdamW
from optimizers.lora_fa import LoRAFA
from optimizers.torch import Torch, needs_closure
from parameterizations import LoRA, Parameterization, Params, Step

Run = tuple[Params, Params, State, float, Step]
SLOT = "low_rank_slot"  # the attribute by which a parameter knows the parameterization that it belongs to, and its name there


class Holder(Protocol):
    """What holds the tensors of a parameterization in a model: an adapter's pair."""

    method: Parameterization
    at: Step
    precondition: Any
    tangent: TangentRule | None

    @property
    def scale(self) -> float: ...
    def tensors(self) -> Params: ...


@dataclass(eq=False)
class Unit:
    """Tensors that a rule moves together: those behind one pair of factors, or one tensor alone.

    Args:
        tensors: by the names that the rule knows them by.
        rule: theirs.
        at: where their run stands.
        rates, scale: see `Optimizer.init`.
        holder: what holds them, where that is an adapter's pair.
    """

    tensors: dict[str, nn.Parameter]
    rule: Optimizer
    at: Step
    rates: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    holder: Holder | None = None
    state: State | None = None

    def views(self) -> Params:
        """The tensors as the rule takes them: those with more than two dimensions, as of convolutions, as matrices."""
        return {name: as_matrix(tensor.detach()) for name, tensor in self.tensors.items()}

    def started(self) -> State:
        """The state, made at first use."""
        if self.state is None:
            self.state = self.rule.init(self.views(), self.rates, self.scale)
        return self.state

    def run(self, lr: float) -> Run | None:
        """What `Optimizer.update` takes to move along the gradients that the tensors have; None without any."""
        grads = {name: tensor.grad for name, tensor in self.tensors.items()}
        if all(grad is None for grad in grads.values()):
            return None
        found = {name: torch.zeros_like(tensor) if (grad := grads[name]) is None else grad for name, tensor in self.tensors.items()}
        if any(grad.is_sparse for grad in found.values()):
            raise InputError("sparse gradients: the rules of this suite take dense ones; give the embedding sparse=False")
        params = self.views() if self.holder is None else self.holder.tensors() | self.views()
        self.at.lr = lr
        return params, {name: as_matrix(grad) for name, grad in found.items()}, self.started(), lr, self.at

    def put_back(self, params: Params) -> None:
        """Move tensors whose matrix is no view, as of convolutions with their channels last, to where the rule moved that."""
        for name, tensor in self.tensors.items():
            if tensor.ndim > 2 and not tensor.is_contiguous():
                tensor.copy_(params[name].view(tensor.shape))

    @property
    def preconditioned(self) -> bool:
        """Whether the rule has changed the gradients on their way back through the factors already."""
        return self.holder is not None and self.holder.precondition is not None


class RuleOptimizer(torch.optim.Optimizer):
    """See `torch_optimizer`."""

    def __init__(self, rule: Optimizer, params: Any, lr: float, seed: int = 0) -> None:
        self.rule, self.seed = rule, seed
        self.units: list[list[Unit]] = []
        self._scales = plain_scales(params) if isinstance(params, nn.Module) else {}
        if isinstance(params, nn.Module):
            params = [(name, tensor) for name, tensor in params.named_parameters() if tensor.requires_grad]
            check(bool(params), "parameters", "none of the model's", "tensors that require a gradient")
        super().__init__(params, {"lr": lr})
        if needs_pairs(rule) and not any(unit.holder or "left" in unit.tensors for unit in chain(*self.units)):
            raise InputError(
                f"{type(rule).__name__}: moves pairs of factors, and none is among the parameters: give it the model, or "
                "model.named_parameters(), with lora_A and lora_B or an attached parameterization"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check_number("lr", float(group["lr"]), least=0)
        names = group.get("param_names") or [""] * len(group["params"])
        offset = sum(len(units) for units in self.units)
        self.units.append(list(self._grouped(list(zip(names, group["params"], strict=True)), offset)))

    def _grouped(self, named: list[tuple[str, nn.Parameter]], offset: int) -> Iterator[Unit]:
        """What belongs together: the tensors of an adapter's pair, lora_A and lora_B of one layer, and every other alone."""
        held: dict[int, tuple[Holder, dict[str, nn.Parameter]]] = {}
        plain: dict[str, dict[str, tuple[str, nn.Parameter]]] = {}
        alone: list[tuple[str, nn.Parameter]] = []
        for name, tensor in named:
            if slot := getattr(tensor, SLOT, None):
                held.setdefault(id(slot[0]), (slot[0], {}))[1][slot[1]] = tensor
            elif side := lora_side(name):
                plain.setdefault(side[0], {})[side[1]] = name, tensor
            else:
                alone.append((name, tensor))
        for holder, tensors in held.values():
            yield self._of_holder(holder, tensors)
        for layer, sides in plain.items():
            if sides.keys() == {"left", "right"} and (unit := self._of_lora(layer, sides)):
                yield unit
            else:
                alone.extend(sides.values())
        for i, (name, tensor) in enumerate(alone):
            rule = AdamW(weight_decay=getattr(self.rule, "weight_decay", 0.0)) if needs_pairs(self.rule) else self.rule
            yield Unit({"weight": tensor}, rule, self._step(name or f"tensor {offset + i}"))

    def _of_holder(self, holder: Holder, tensors: dict[str, nn.Parameter]) -> Unit:
        method = holder.method
        if reason := self.rule.supports(method):
            raise InputError(f"{type(self.rule).__name__} with {type(method).__name__}: {reason}")
        missing = holder.tensors().keys() - tensors.keys() - set(method.frozen)
        check(
            not missing,
            "parameters",
            f"a group without {', '.join(sorted(missing))}",
            "all tensors of a layer's adapter, in one group",
        )
        if self.rule.preconditions and method.pair == "predicted":
            holder.precondition = self.rule.precondition
        holder.tangent = self.rule if isinstance(self.rule, TangentRule) else None
        return Unit(tensors, self.rule, holder.at, method.rates, holder.scale, holder)

    def _of_lora(self, layer: str, sides: dict[str, tuple[str, nn.Parameter]]) -> Unit | None:
        """None for shapes that are no pair, such as those of experts."""
        left, right = (as_matrix(sides[side][1]) for side in ("left", "right"))
        if left.shape[-1] != right.shape[-2]:
            return None
        if reason := self.rule.supports(LoRA(rank=right.shape[-2])):
            raise InputError(f"{type(self.rule).__name__} with lora_A and lora_B: {reason}")
        tensors = {side: sides[side][1] for side in ("left", "right")}
        return Unit(tensors, self.rule, self._step(layer), scale=self._scales.get(layer, 1.0))

    def _step(self, stream: str) -> Step:
        return Step(generators=[generator(self.seed, f"optimizer {stream}")])

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient.

        Args:
            closure: evaluates the loss and its gradients first.

        Returns:
            The closure's loss, if one was given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, units in zip(self.param_groups, self.units, strict=True):
            runs = {unit: run for unit in units if (run := unit.run(float(group["lr"]))) is not None}
            for unit, run in runs.items():
                if unit.preconditioned:
                    unit.rule.move(*run)
                elif unit.rule is not self.rule:
                    unit.rule.update(*run)
            together = [run for unit, run in runs.items() if unit.rule is self.rule and not unit.preconditioned]
            if together:
                self.rule.update_together(together)
            for unit, (params, *_) in runs.items():
                unit.put_back(params)
                if unit.holder is None:
                    unit.at.step += 1  # an adapter's pair counts for itself, whatever optimizer moves it
        return loss

    def state_of(self, holder: Any) -> State | None:
        """The state of an adapter's pair, None where it is not this optimizer's."""
        return next((unit.started() for unit in chain(*self.units) if unit.holder is holder), None)

    def bytes_of(self, tensors: Iterable[Tensor]) -> int:
        """What the moments of units that hold any of these tensors take."""
        wanted = {id(tensor) for tensor in tensors}
        found = [unit for unit in chain(*self.units) if any(id(tensor) in wanted for tensor in unit.tensors.values())]
        return sum(unit.rule.state_bytes(unit.state) for unit in found if unit.state is not None)

    def state_dict(self) -> dict[str, Any]:
        """As of any torch optimizer. A tensor's state holds its moments, and how many gradients they have seen; a unit's first
        tensor also where its run and its random stream stand."""
        self.state.clear()
        for unit in chain(*self.units):
            if unit.state is not None:
                for i, (name, tensor) in enumerate(unit.tensors.items()):
                    self.state[tensor] = packed(unit, name, first=i == 0)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, to the last bit.

        Raises:
            InputError: where it is of other parameters, or of another rule.
        """
        super().load_state_dict({**state_dict, "state": {}})
        found = state_dict["state"]
        places = {tensor: i for i, tensor in enumerate(tensor for group in self.param_groups for tensor in group["params"])}
        for unit in chain(*self.units):
            unit.state = None
            if any(places[tensor] in found for tensor in unit.tensors.values()):
                unpack(unit, {name: found.get(places[tensor], {}) for name, tensor in unit.tensors.items()})


def torch_optimizer(rule: Optimizer, parameters: Any, lr: float, *, seed: int = 0) -> RuleOptimizer:
    """An update rule as a `torch.optim.Optimizer`: param groups, schedulers, state_dict, GradScaler and clipping as usual.

    Rules that treat the two factors of a low-rank update together find their pairs by themselves: the tensors of a
    parameterization that `adapters.attach` put into a model, or lora_A and lora_B of a layer by their names. What belongs to no
    pair, a classifier's head for one, goes by AdamW at the same rate where the rule takes nothing but pairs.

    Args:
        parameters: a model, whose tensors that require a gradient are taken; `model.named_parameters()`; tensors; or groups.
            lora_A and lora_B are known by names, and their scale by the model alone: without it, it is 1.
        lr: of groups that name none.
        seed: of what rules draw, such as Flora's projections.

    Raises:
        InputError: where the rule does not go with a layer's parameterization, with the reason; where it needs pairs and finds
            none; where it needs what a training loop does not give (a closed form, a line search, dL/dW).
    """
    check(isinstance(rule, Optimizer), "rule", type(rule).__name__, "an update rule of this suite, such as optimizers.Adam()")
    name = type(rule).__name__
    if name in UNFIT:
        raise InputError(f"{name}: {UNFIT[name]}")
    return RuleOptimizer(rule, parameters, lr, seed)


UNFIT = {
    "ALS": "solves the problem in closed form; a model's loss has none",
    "SVDOracle": "solves the problem in closed form; a model's loss has none",
    "LBFGS": "needs the loss within a step; torch.optim.LBFGS takes a closure",
    "LoRSum": "needs dL/dW whole, which the backward pass of a low-rank layer never forms",
    "Torch": "is a torch.optim optimizer already; use its class",
}


def unfit(rule: Optimizer) -> str | None:
    """Why a rule cannot move the weights of a model, or None. `Torch` can, as the class that it names."""
    if isinstance(rule, Torch):
        return "it needs a closure, which a model's training loop does not give" if needs_closure(rule.target) else None
    return UNFIT.get(type(rule).__name__)


def needs_pairs(rule: Optimizer) -> bool:
    """Whether a rule moves nothing but pairs of factors."""
    return isinstance(rule, (PairRule, LoRAFA)) or rule.tangent


def as_matrix(tensor: Tensor) -> Tensor:
    """A tensor of more than two dimensions as a matrix of as many rows."""
    return tensor if tensor.ndim <= 2 else tensor.flatten(1)


def lora_side(name: str) -> tuple[str, str] | None:
    """The layer, with the adapter's name, and the side of `….lora_A.default.weight` or `….lora_embedding_B.default`."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part in ("lora_A", "lora_embedding_A", "lora_B", "lora_embedding_B") and "parametrizations" not in parts:
            rest = [each for each in parts[i + 1 :] if each not in ("weight",)]
            if parts[-1] == "bias":
                return None
            return ".".join([*parts[:i], *rest]), "right" if part.endswith("A") else "left"
    return None


def plain_scales(model: nn.Module) -> dict[str, float]:
    """The scale of every layer's pair by `lora_side`'s name for it."""
    found: dict[str, float] = {}
    for name, module in model.named_modules():
        scaling = getattr(module, "scaling", None)
        if hasattr(module, "lora_A") and isinstance(scaling, Mapping):
            found |= {f"{name}.{adapter}": float(scale) for adapter, scale in scaling.items()}
    return found


def packed(unit: Unit, name: str, first: bool) -> dict[str, Any]:
    """The state of one of a unit's tensors as a flat dictionary of tensors."""
    state, at = unit.started(), unit.at
    flat: dict[str, Any] = dict(state[name])
    if name in state.counts:
        flat["step"] = state.counts[name].clone()
    if name in state.restarted:
        flat["restarted"] = torch.tensor(True)
    if first:
        flat["run/step"] = torch.tensor(at.step)
        flat |= {f"run/stream/{i}": stream.get_state() for i, stream in enumerate(at.generators)}
        flat |= {f"run/memory/{key}": tensor for key, tensor in at.memory.items()}
    return flat


def unpack(unit: Unit, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Put a unit where `packed` was called."""
    state, at = unit.started(), unit.at
    state.counts = {name: count for name, count in state.counts.items() if "step" in found[name]}
    memory = {}
    for name, flat in found.items():
        for key, value in flat.items():
            if key == "step":
                fresh = state.counts.get(name)  # where the rule keeps it, which a file does not say
                place = unit.tensors[name].device if fresh is None and unit.rule.elementwise else getattr(fresh, "device", "cpu")
                state.counts[name] = torch.as_tensor(value).detach().clone().to(place)
            elif key == "restarted":
                state.restarted.add(name)
            elif key == "run/step":
                at.step = int(value)
            elif key.startswith("run/stream/"):
                at.generators[int(key.rpartition("/")[2])].set_state(value.cpu().to(torch.uint8))
            elif key.startswith("run/memory/"):
                memory[key.removeprefix("run/memory/")] = value.detach().clone().to(unit.tensors[name].device)
            elif key not in state[name] or state[name][key].shape != value.shape:
                raise InputError(f"optimizer state: {name}/{key} is of another rule, or of another model")
            else:
                state[name][key].copy_(value)
    at.memory.clear()
    at.memory.update(memory)
