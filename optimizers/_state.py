"""What an optimizer keeps from step to step."""

from collections.abc import Mapping

import torch
from torch import Tensor

from linalg import InputError

EVERY = "every"


class State(dict[str, dict[str, Tensor]]):
    """Moments by parameter name, {name: {moment: tensor}}, with the multipliers of the learning rate.

    `counts` holds, by name, how many gradients the moments have seen: a tensor (), so that a captured graph counts on. While
    it is the same for all names it may stand under `EVERY`. `restarted` are the names whose moments have been reset, `scale`
    is the number in front of the product of a pair, and `entrywise` says whether every moment belongs to the entry of its tensor
    in the same place.
    """

    entrywise = False

    def __init__(
        self, moments: Mapping[str, dict[str, Tensor]], rates: Mapping[str, float] | None = None, scale: float = 1.0
    ) -> None:
        super().__init__(moments)
        self.rates = dict(rates or {})
        self.scale = scale
        self.counts: dict[str, Tensor] = {}
        self.restarted: set[str] = set()
        self._scratch: dict[str, Tensor] = {}

    def reset(self, name: str) -> None:
        """Start the moments of the tensor `name` from zero, bias corrections included."""
        for moment in self[name].values():
            moment.zero_()
        self.restarted.add(name)
        if EVERY in self.counts:
            common = self.counts.pop(EVERY)
            self.counts = {name: common.clone() for name in self} | self.counts
        self.counts.pop(name, None)

    def count(self, name: str, like: Tensor) -> Tensor:
        """() float32: the number of gradients seen, this one included; call it once a step."""
        if name not in self.counts:
            self.counts[name] = torch.zeros((), device=like.device)
        return self.counts[name].add_(1)

    def pack(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name: the tensors themselves, not copies."""
        found = {f"moments/{name}/{moment}": tensor for name, kept in self.items() for moment, tensor in kept.items()}
        found |= {f"counts/{name}": count for name, count in self.counts.items()}
        return found | {f"restarted/{name}": torch.zeros(0) for name in self.restarted}

    def unpack(self, found: Mapping[str, Tensor]) -> None:
        """Go on where `pack` was called, on the devices where the tensors are here.

        Raises:
            InputError: where it was the state of another configuration; nothing has changed then.
        """
        own = {f"moments/{name}/{moment}": tensor for name, kept in self.items() for moment, tensor in kept.items()}
        given = {name: tensor for name, tensor in found.items() if name.startswith("moments/")}
        if own.keys() != given.keys() or any(given[name].shape != tensor.shape for name, tensor in own.items()):
            raise InputError("checkpoint: is of another configuration")
        for name, tensor in own.items():
            tensor.copy_(given[name])
        place = next((tensor.device for tensor in own.values()), None) if self.entrywise else None
        counts = {name.removeprefix("counts/"): count for name, count in found.items() if name.startswith("counts/")}
        for name in self.counts.keys() - counts.keys():
            del self.counts[name]
        for name, count in counts.items():
            self.counts.setdefault(name, torch.zeros_like(count, device=place)).copy_(count)
        self.restarted = {name.removeprefix("restarted/") for name in found if name.startswith("restarted/")}

    def scratch(self, name: str, like: Tensor) -> Tensor:
        """Memory in the shape and layout of `like`, the same at every step; its content is anybody's."""
        found = self._scratch.get(name)
        if found is None or found.shape != like.shape or found.stride() != like.stride() or found.dtype != like.dtype:
            found = self._scratch[name] = torch.empty_like(like)
        return found
