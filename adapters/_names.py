"""How a pair stands in a model's state_dict."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from adapters._pair import Pair


class Names:
    """How a pair stands in its layer's state_dict: A and B as any LoRA has them, so that whoever saves an adapter saves a plain
    one; and what training needs under a name of its own, which peft leaves out of its files.

    Args:
        config: the adapter's LoraConfig, where there is one.
        name: the layer's in that.
    """

    def __init__(self, pair: Pair, config: Any = None, name: str = "") -> None:
        self.pair, self.config, self.name = pair, config, name

    def keys(self, prefix: str) -> tuple[str, str, str, str]:
        """Where A, B, the raw tensors and those under our own name stand."""
        adapter, embedding = self.pair.site.adapter, self.pair.site.kind == "embedding"
        if embedding:
            names = f"lora_embedding_A.{adapter}", f"lora_embedding_B.{adapter}", f"lora_embedding_A.parametrizations.{adapter}.0."
        else:
            raw = f"lora_A.{adapter}.parametrizations.weight.0."
            names = f"lora_A.{adapter}.weight", f"lora_B.{adapter}.weight", raw
        a, b, raw = (prefix + name for name in names)
        return a, b, raw, f"{prefix}low_rank.{adapter}."

    @torch.no_grad()
    def write(self, layer: nn.Module, state: MutableMapping[str, Any], prefix: str, metadata: Any) -> None:
        a, b, raw, own = self.keys(prefix)
        for key in [key for key in state if key.startswith(raw)]:
            state[own + key.removeprefix(raw)] = state.pop(key)
        left, right = self.pair.shown()
        if self.pair.original is not None:
            left, right = self.at_least_rank(left, right)
            self.describe(left.shape[1])
        state[a], state[b] = self.pair.site.reshaped(left, right, self.pair.input_shape)
        at = self.pair.at
        state[own + "run.step"] = torch.tensor(at.step)
        for i, stream in enumerate(at.generators):
            state[f"{own}run.streams.{i}"] = stream.get_state()
        for name, tensor in sorted(at.memory.items()):
            state[f"{own}run.memory.{name}"] = tensor
        if self.pair.original is not None:
            state[own + "original"] = self.pair.original
            if prefix + "base_layer.weight" in state:  # A and B hold the whole change
                state[own + "merged"] = state[prefix + "base_layer.weight"]
                state[prefix + "base_layer.weight"] = self.pair.site.original_base(self.pair.original)

    def at_least_rank(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """A whole change of a rank below the layer's, filled up with zeros."""
        missing = max(0, self.pair.site.rank - left.shape[1])
        return nn.functional.pad(left, (0, missing)), nn.functional.pad(right, (0, 0, 0, missing))

    def describe(self, rank: int) -> None:
        """Let the LoraConfig know of a whole change of a rank above the layer's: whoever saves A and B saves it beside them."""
        site = self.pair.site
        if self.config is None or rank == site.rank:
            return
        alpha = site.scaling * (rank**0.5 if self.config.use_rslora else rank)
        for pattern, value in ((self.config.rank_pattern, rank), (self.config.alpha_pattern, alpha)):
            others = {name: old for name, old in pattern.items() if name != self.name}
            pattern.clear()
            pattern.update({self.name: value} | others)

    def read(self, layer: nn.Module, state: MutableMapping[str, Any], prefix: str, *args: Any) -> None:
        a, b, raw, own = self.keys(prefix)
        plain = [state.pop(key, None) for key in (a, b)]
        given = [key for key in state if key.startswith(own)]
        if not given and plain[0] is not None and self.pair.source is self.pair:
            args[-1].append(
                f"{prefix}lora_A: a parameterization is attached, and a plain LoRA cannot be loaded into it; bake first"
            )
        if given:
            self.pair.source.at.memory.clear()
        for key in given:
            name, tensor = key.removeprefix(own), state.pop(key)
            if name == "original":
                self.pair.original = tensor.cpu()
            elif name == "merged":
                state[prefix + "base_layer.weight"] = tensor
            elif name == "run.step":
                self.pair.at.step = int(tensor)
            elif name.startswith("run.streams."):
                self.pair.at.generators[int(name.rpartition(".")[2])].set_state(tensor.cpu())
            elif name.startswith("run.memory."):
                self.pair.at.memory[name.removeprefix("run.memory.")] = tensor.to(self.pair.device).clone()
            else:
                state[raw + name] = tensor
