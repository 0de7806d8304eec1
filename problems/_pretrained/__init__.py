"""Small models that come with the suite: their weights as safetensors, and the scripts that made them."""

from pathlib import Path

from torch import nn


def write_weights(net: nn.Module, path: Path) -> None:
    """Write a net's weights, in half precision."""
    from safetensors.torch import save_file

    save_file({name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}, path)


def with_weights(net: nn.Module, path: Path) -> nn.Module:
    """The net with the weights of a file, in float32."""
    from safetensors.torch import load_file

    net.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return net
