"""Small models that come with the suite: their weights as safetensors, and the scripts that made them."""

import copy
from pathlib import Path

from torch import nn


def write_weights(net: nn.Module, path: Path) -> None:
    """Write a net's weights, in half precision, those that two layers share once."""
    from safetensors.torch import save_model

    save_model(copy.deepcopy(net).half(), str(path))


def with_weights(net: nn.Module, path: Path) -> nn.Module:
    """The net with the weights of a file, in float32."""
    from safetensors.torch import load_model

    load_model(net, path)
    return net
