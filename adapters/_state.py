"""Training state: of a pair as plain tensors, in a model's state_dict, and in files that resume a run to the last bit."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters._config import plain_name
from adapters._install import attached
from adapters._pair import Pair
from linalg import InputError

WEIGHTS, FACTS = "training_state.safetensors", "training_state.json"
FORMAT = 1


def pack(pair: Pair) -> dict[str, Tensor]:
    """Everything that a pair's next step depends on beside the optimizer's state: tensors, random stream, memory, step."""
    at = pair.source.at
    found = {f"tensors.{name}": tensor for name, tensor in pair.source.tensors().items()}
    found |= {f"memory.{name}": tensor for name, tensor in at.memory.items()}
    found |= {f"streams.{i}": stream.get_state() for i, stream in enumerate(at.generators)}
    found["step"] = torch.tensor(at.step)
    if pair.original is not None:
        found |= {"original": pair.original, "base": pair.site.base.detach()}
    return found


@torch.no_grad()
def unpack(pair: Pair, found: Mapping[str, Tensor], where: str) -> None:
    """Put a pair where `pack` was called.

    Raises:
        InputError: where it was another kind of pair; nothing has changed then.
    """
    own = {f"tensors.{name}": tensor for name, tensor in pair.source.tensors().items()}
    given = {name: tensor for name, tensor in found.items() if name.startswith("tensors.")}
    differ = own.keys() ^ given.keys() | {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape}
    if differ or "step" not in found:
        raise InputError(f"{where}: is of another parameterization or size: {', '.join(sorted(differ)) or 'no step'}")
    for name, tensor in given.items():
        own[name].copy_(tensor)
    memory = {name.removeprefix("memory."): tensor for name, tensor in found.items() if name.startswith("memory.")}
    at = pair.source.at
    at.memory.clear()
    at.memory.update({name: tensor.to(pair.device).clone() for name, tensor in memory.items()})
    for i, stream in enumerate(at.generators):
        stream.set_state(found[f"streams.{i}"].cpu())
    at.step = int(found["step"])
    pair.original = found["original"].clone().cpu() if "original" in found else None
    if "base" in found:
        pair.site.base.copy_(found["base"])


def save(model: nn.Module, path: str | Path, optimizer: torch.optim.Optimizer | None = None, *, adapter: str = "default") -> Path:
    """Write the training state of an attached adapter, and of its optimizer, into a folder: safetensors and JSON, no pickle.

    Pretrained weights are not in it, except those that a method has merged into.

    Args:
        optimizer: `torch_optimizer`'s, or one of torch's.

    Returns:
        The file of tensors.

    Raises:
        InputError: where nothing is attached, or the optimizer's state holds what is neither tensor nor number.
    """
    return write_state(Path(path), attached(model, adapter), optimizer)


def write_state(folder: Path, pairs: Sequence[Pair], optimizer: torch.optim.Optimizer | None = None) -> Path:
    """The same of pairs, which may be none."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    pairs = apart(pairs)
    tensors = {f"pairs/{plain_name(pair.site.name)}/{name}": tensor for pair in pairs for name, tensor in pack(pair).items()}
    facts: dict[str, Any] = {"format": FORMAT, "method": [repr(pair.method) for pair in pairs]}
    if optimizer is not None:
        saved = optimizer.state_dict()
        numbers: dict[str, dict[str, Any]] = {}
        for i, kept in saved["state"].items():
            for name, value in kept.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{i}/{name}"] = value
                else:
                    numbers.setdefault(str(i), {})[name] = packed(value, f"nested/{i}/{name}", name, tensors)
        groups = [
            {name: packed(value, f"groups/{i}/{name}", name, tensors) for name, value in group.items()}
            for i, group in enumerate(saved["param_groups"])
        ]
        facts["optimizer"] = {"groups": groups, "numbers": numbers}
    file = folder / WEIGHTS
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    replace_file(file, lambda partial: save_file(flat, partial))
    replace_file(folder / FACTS, lambda partial: partial.write_text(json.dumps(facts, indent=1) + "\n"))
    return file


def load(
    model: nn.Module, path: str | Path, optimizer: torch.optim.Optimizer | None = None, *, adapter: str = "default"
) -> nn.Module:
    """Go on where `save` was called, on a model to which the same parameterization is attached.

    Raises:
        InputError: where the files are missing, truncated or not what `save` writes, or are of another model or method.
    """
    read_state(Path(path), attached(model, adapter), optimizer)
    return model


def read_state(folder: Path, pairs: Sequence[Pair], optimizer: torch.optim.Optimizer | None = None) -> None:
    """The same of pairs, which may be none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS)
        facts = json.loads((folder / FACTS).read_text())
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{folder}: holds no training state that can be read ({' '.join(str(error).split())})") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(f"{folder / FACTS}: is not of format {FORMAT}")
    pairs = apart(pairs)
    methods = [repr(pair.method) for pair in pairs]
    if methods != facts["method"]:
        other = next(
            (f"{a} is attached, {b} was saved" for a, b in zip(methods, facts["method"], strict=False) if a != b), "other layers"
        )
        raise InputError(f"{folder}: is of another model or method: {other}")
    if optimizer is not None and "optimizer" not in facts:
        raise InputError(f"{folder}: was saved without an optimizer")
    for pair in pairs:
        start = f"pairs/{plain_name(pair.site.name)}/"
        own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        unpack(pair, own, f"{folder / WEIGHTS}: {pair.site.name}")
    if optimizer is not None:
        numbers = {
            int(i): {name: unpacked(value, tensors) for name, value in values.items()}
            for i, values in facts["optimizer"]["numbers"].items()
        }
        for key, tensor in tensors.items():
            if key.startswith("optimizer/"):
                _, i, name = key.split("/", 2)
                numbers.setdefault(int(i), {})[name] = tensor
        there, own_groups = len(facts["optimizer"]["groups"]), len(optimizer.param_groups)
        if there != own_groups:
            raise InputError(f"{folder}: was saved with an optimizer of {there} groups of parameters; this one has {own_groups}")
        groups = [
            {name: placed(unpacked(value, tensors), own, name) for name, value in group.items()}
            for group, own in zip(facts["optimizer"]["groups"], optimizer.param_groups, strict=True)
        ]
        optimizer.load_state_dict({"state": numbers, "param_groups": groups})


def apart(pairs: Sequence[Pair]) -> list[Pair]:
    """One pair for all that share their tensors, every other as it is."""
    return list({id(pair.source): pair for pair in reversed(pairs)}.values())[::-1]


def replace_file(path: Path, write: Any) -> None:
    """Write beside a file, then put it in its place: what is there is whole at all times."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)


def packed(value: Any, place: str, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value that an optimizer keeps as JSON has it; the tensors in it go into a file of their own, each under its place.

    Raises:
        InputError: where it is neither tensor nor number, text, list, tuple or mapping of such.
    """
    if isinstance(value, Tensor):
        tensors[place] = value
        return {"tensor": place}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [packed(each, f"{place}/{i}", name, tensors) for i, each in enumerate(value)]}
    if isinstance(value, Mapping):
        return {
            "mapping": [
                [packed(key, f"{place}/{i}/key", name, tensors), packed(each, f"{place}/{i}", name, tensors)]
                for i, (key, each) in enumerate(value.items())
            ]
        }
    if value is None or isinstance(value, (int, float, bool, str)):
        return value
    raise InputError(f"optimizer: keeps a {type(value).__name__} as {name}, which neither safetensors nor JSON hold")


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The way back."""
    if not isinstance(value, Mapping):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "mapping":
        return {unpacked(key, tensors): unpacked(each, tensors) for key, each in held}
    found = (unpacked(each, tensors) for each in held)
    return tuple(found) if kind == "tuple" else list(found)


def placed(value: Any, group: Mapping[str, Any], name: str) -> Any:
    """A param group's tensor on the device of the one that it replaces, or of what is trained; the state's torch moves itself."""
    if not isinstance(value, Tensor):
        return value
    present = group.get(name)
    return value.to(present.device if isinstance(present, Tensor) else group["params"][0].device)
