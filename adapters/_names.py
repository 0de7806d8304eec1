"""How a pair stands in a model's state_dict."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import nn

from adapters._pair import Pair


class Names:
    """How a pair stands in its layer's state_dict: A and B as any LoRA has them, so that whoever saves an adapter saves a plain
    one; and what training needs under a name of its own, which peft leaves out of its files."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

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
        state[a], state[b] = self.pair.site.reshaped(left, right, self.pair.input_shape)
        if self.pair.original is not None:
            state[own + "original"] = self.pair.original

    def read(self, layer: nn.Module, state: MutableMapping[str, Any], prefix: str, *args: Any) -> None:
        a, b, raw, own = self.keys(prefix)
        plain = [state.pop(key, None) for key in (a, b)]
        given = [key for key in state if key.startswith(own)]
        if not given and plain[0] is not None and self.pair.source is self.pair:
            args[-1].append(
                f"{prefix}lora_A: a parameterization is attached, and a plain LoRA cannot be loaded into it; bake first"
            )
        for key in given:
            name, tensor = key.removeprefix(own), state.pop(key)
            if name == "original":
                self.pair.original = tensor.cpu()
            else:
                state[raw + name] = tensor
