"""Plain LoRA files, as peft, diffusers and inference servers load them."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adapters._config import patterns, plain_name
from adapters._install import pair_of
from adapters._sites import Site, sites
from linalg import InputError
from linalg.checks import check_choice

FORMATS = {"peft": "adapter_model.safetensors", "diffusers": "pytorch_lora_weights.safetensors"}


@torch.no_grad()
def export(
    model: nn.Module, path: str | Path, format: str = "peft", *, adapter: str = "default", prefix: str | None = None
) -> Path:
    """Write a model's adapter as a plain LoRA: A and B of every layer with the scale baked in, so that alpha is r.

    The model stays as it is, attached or not: training can go on. Both formats hold the scale in B, because diffusers drops alpha.

    Args:
        path: a folder; made if it is not there.
        format: `peft`: adapter_model.safetensors with adapter_config.json; `diffusers`: pytorch_lora_weights.safetensors, for
            `pipeline.load_lora_weights(path, weight_name=...)`.
        adapter: whose pairs.
        prefix: of a diffusers file's keys: `unet`, `transformer` or `text_encoder`; None for what the model's class says.

    Returns:
        The file of weights.

    Raises:
        InputError: for an unknown format, or where a diffusers file cannot hold a layer.
    """
    from safetensors.torch import save_file

    check_choice("format", format, tuple(FORMATS))
    chosen = sites(model, adapter)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    weights, ranks = {}, {}
    start = "base_model.model." if format == "peft" else f"{prefix or component(model)}."
    for site in chosen:
        left, right, shape = baked(site)
        ranks[plain_name(site.name)] = left.shape[1]
        a, b = site.reshaped(left, right, shape)
        embedding = "embedding_" if site.kind == "embedding" else ""
        ending = "" if embedding else ".weight"
        if embedding and format == "diffusers":
            raise InputError(f"{site.name}: is an embedding, and diffusers loads LoRA of linear and convolutional layers")
        for key, tensor in (("A", a), ("B", b)):
            weights[f"{start}{plain_name(site.name)}.lora_{embedding}{key}{ending}"] = tensor.contiguous().cpu()
    weights |= others(model, adapter, start) if format == "peft" else {}
    file = folder / FORMATS[format]
    partial = file.with_suffix(".partial")
    save_file(weights, partial, metadata={"format": "pt"})
    partial.replace(file)
    if format == "peft":
        write_config(model, adapter, chosen, ranks, folder)
    return file


def baked(site: Site) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """left (m, k) and right (k, n) of a site with its scale in left, in the precision that it has, and the shape of a row of A."""
    pair = pair_of(site)
    if pair is None:
        left, right = site.factors
        return left.detach() * site.scaling, right.detach(), site.input_shape
    left, right = pair.plain()
    return left.to(pair.like.dtype), right.to(pair.like.dtype), pair.input_shape


def others(model: nn.Module, adapter: str, start: str) -> dict[str, Tensor]:
    """What else belongs to a peft adapter: DoRA's magnitudes, modules that are saved whole."""
    if adapter not in getattr(model, "peft_config", {}):
        return {}
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    pairs = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B")
    rest = {key: tensor for key, tensor in found.items() if not any(part in key for part in pairs)}
    return {
        key if key.startswith(start) else start + key: tensor.detach().contiguous().cpu().clone() for key, tensor in rest.items()
    }


def component(model: nn.Module) -> str:
    """What diffusers calls the part of a pipeline that a model is.

    Raises:
        InputError: where the class does not say.
    """
    inner = getattr(getattr(model, "base_model", None), "model", model)
    name = type(inner).__name__
    for part, component in (
        ("UNet", "unet"),
        ("Transformer2D", "transformer"),
        ("Transformer3D", "transformer"),
        ("Text", "text_encoder"),
    ):
        if part in name:
            return component
    raise InputError(f"prefix=None: {name} does not say what part of a pipeline it is; give unet, transformer or text_encoder")


def write_config(model: nn.Module, adapter: str, chosen: Sequence[Site], ranks: Mapping[str, int], folder: Path) -> None:
    """Write adapter_config.json: the model's own LoraConfig, or for layers of `wrap` one that names them."""
    said = patterns(ranks)
    config = getattr(model, "peft_config", {}).get(adapter)
    if config is not None:
        config = copy.copy(config)
        vars(config).update(said, inference_mode=True)
        if config.base_model_name_or_path is None:
            inner = getattr(getattr(model, "base_model", None), "model", model)
            config.base_model_name_or_path = getattr(inner, "name_or_path", None)
        config.save_pretrained(str(folder))
        return
    plain = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "target_modules": [plain_name(site.name) for site in chosen],
    }
    (folder / "adapter_config.json").write_text(json.dumps(plain | said, indent=2, sort_keys=True) + "\n")
