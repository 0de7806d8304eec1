"""Random tiny models of the classes that users have, with LoRA pairs, and a batch for each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from linalg import InputError

RANK = 4
# as a user would: every method of the catalogue that has a place in a model, with an interval that merges within a few steps
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora_fa": {},
    "vera": {},
    "loha": {},
    "lokr": {},
    "deep": {"depth": 2},
    "deep_lora": {},
    "svd": {"scale": 0.1},
    "stella": {},
    "polar": {},
    "adalora": {},
    "sora": {},
    "flat_lora": {},
    "op_lora": {"hidden": 8, "embedding": 4},
    "op": {"over": "lora", "hidden": 8, "embedding": 4},
    "flora": {"interval": 3},
    "relora": {"interval": 3},
    "xgblora": {"interval": 3},
}
SHARED = {
    "lorta": ("lorta", {}),
    "op, shared": ("op", {"over": "lora", "hidden": 8, "embedding": 4, "shared": True}),
}
STARTS = {f"lora, {start}": ("lora", {"init": start}) for start in ("pissa", "milora", "lora_ga")}
CASES = {name: (name, options) for name, options in METHODS.items()} | STARTS | SHARED


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForSequenceClassification(BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0))


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4))


def unet() -> nn.Module:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return UNet2DModel(8, 3, 3, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8, layers_per_block=1, **blocks)


def conditional_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "cross_attention_dim": 12}
    return UNet2DConditionModel(8, 4, 4, attention_head_dim=4, **sizes, **blocks)


def transformer() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "joint_attention_dim": 12}
    sizes |= {"caption_projection_dim": 16, "pooled_projection_dim": 10, "pos_embed_max_size": 8}
    return SD3Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, out_channels=4, **sizes)


def tokens(rows: int = 2, length: int = 10) -> Tensor:
    return torch.randint(2, 48, (rows, length), generator=torch.Generator().manual_seed(1))


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


Case = tuple[Callable[[], nn.Module], list[str], Callable[[nn.Module], Tensor]]


def language(model: nn.Module) -> Tensor:
    return model(input_ids=tokens(), labels=tokens()).loss


def classes(model: nn.Module) -> Tensor:
    return model(input_ids=tokens(), labels=torch.tensor([0, 1])).loss


def images(model: nn.Module) -> Tensor:
    return model(pixel_values=drawn(2, 3, 8, 8), labels=torch.tensor([0, 1])).loss


def denoised(model: nn.Module) -> Tensor:
    return (model(drawn(2, 3, 8, 8), torch.tensor([3, 7])).sample - 1).square().mean()


def conditioned(model: nn.Module) -> Tensor:
    return (model(drawn(2, 4, 8, 8), torch.tensor([3, 7]), encoder_hidden_states=drawn(2, 5, 12)).sample - 1).square().mean()


def captioned(model: nn.Module) -> Tensor:
    found = model(drawn(2, 4, 8, 8), drawn(2, 5, 12), drawn(2, 10), torch.tensor([3, 7]))
    return (found.sample - 1).square().mean()


MODELS: dict[str, Case] = {
    "llama": (llama, ["q_proj", "down_proj", "embed_tokens"], language),
    "bert": (bert, ["query", "value", "intermediate.dense", "output.dense"], classes),
    "t5": (t5, ["q", "wo"], language),
    "vit": (vit, ["q_proj", "v_proj"], images),
    "unet": (unet, ["to_q", "to_out.0", "conv1"], denoised),
    "conditional_unet": (conditional_unet, ["to_q", "to_k", "to_out.0"], conditioned),
    "transformer": (transformer, ["to_q", "to_v"], captioned),
}


def wrapped(model: str, **options: Any) -> nn.Module:
    """With LoRA pairs of rank 4 and scale 2, by peft."""
    from peft import LoraConfig, get_peft_model

    build, target, _ = MODELS[model]
    return get_peft_model(build(), LoraConfig(**({"r": RANK, "lora_alpha": 2 * RANK, "target_modules": target} | options)))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[nn.Module], Tensor], steps: int) -> list[float]:
    """The losses before each step."""
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def output(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Tensor:
    """The loss in evaluation, to compare two models by: with the outputs of all layers behind it."""
    found = []
    hooks = [module.register_forward_hook(lambda _, __, out: found.append(out)) for module in model.modules() if is_leaf(module)]
    model.eval()
    with torch.no_grad():
        value = loss(model)
    for hook in hooks:
        hook.remove()
    return torch.cat([value.flatten()[None].reshape(-1), found[-1].flatten()])


def is_leaf(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and not any(True for _ in module.children())


def trainable(model: nn.Module) -> list[nn.Parameter]:
    found = [tensor for tensor in model.parameters() if tensor.requires_grad]
    if not found:
        raise InputError("model: nothing trains")
    return found
