"""The diffusion model of `image_style`: a small U-Net that draws icon glyphs of four styles.

python -m problems._pretrained.glyphs --steps 5000     writes glyphs.safetensors beside this file; half an hour on one core

Every 2 x 2 pixels are the channels of one (`folded`), so that the net works on 16 x 16. It predicts v (Salimans and Ho 2022) under
a cosine schedule, and keeps the exponential average of its weights.
"""

import argparse
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linalg.random import generator
from problems._glyphs import STYLES, parts
from problems._pretrained import with_weights, write_weights

WEIGHTS = Path(__file__).with_suffix(".safetensors")
FOLD = 2
NET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": FOLD**2,
    "out_channels": FOLD**2,
    "layers_per_block": 1,
    "block_out_channels": (48, 96),
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
    "norm_num_groups": 16,
    "attention_head_dim": 24,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": True,
}
AVERAGE = 0.998  # of the weights, by step


def folded(images: Tensor) -> Tensor:
    """(N, 1, 32, 32) as (N, 4, 16, 16)."""
    return nn.functional.pixel_unshuffle(images, FOLD)


def unfolded(latents: Tensor) -> Tensor:
    """The way back."""
    return nn.functional.pixel_shuffle(latents, FOLD)


def untrained(seed: int = 0) -> nn.Module:
    """The net with random weights."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: Any = UNet2DModel(**NET)
    return net


@cache
def noising() -> Any:
    """The forward process, as diffusers' scheduler."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**SCHEDULE)


def denoising_loss(net: Any, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """() the mean squared error of v at (N,) times."""
    process = noising()
    noised = process.add_noise(latents, noise, times)
    return nn.functional.mse_loss(net(noised, times).sample, process.get_velocity(latents, noise, times))


def pretrain(steps: int, batch: int = 32, lr: float = 1e-3, warmup: int = 200) -> nn.Module:
    """Train on four styles of the training subjects, mirrored at random, with Adam and a cosine; returns the averaged net."""
    net = untrained()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup)
    rising = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-2, total_iters=warmup)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rising, cosine], [warmup])
    averaged = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE))
    images = torch.cat([parts(style)["train"] for style in STYLES[:-1]])
    source, started, shown = generator(0, "pretraining"), time.time(), 0.0
    for step in range(steps):
        latents = images[torch.randint(len(images), (batch,), generator=source)]
        mirrored = torch.rand(batch, generator=source) < 0.5
        latents = folded(torch.where(mirrored[:, None, None, None], latents.flip(-1), latents))
        noise = torch.randn(latents.shape, generator=source)
        times = torch.randint(SCHEDULE["num_train_timesteps"], (batch,), generator=source)
        loss = denoising_loss(net, latents, noise, times)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(net)
        shown = loss.item() if step == 0 else 0.99 * shown + 0.01 * loss.item()
        if step % 100 == 99:
            left = (time.time() - started) / (step + 1) * (steps - step - 1) / 60
            print(f"step {step + 1}: loss {shown:.4f}, {left:.1f} min left", flush=True)
            write_weights(averaged.module, WEIGHTS)
    return averaged.module


def pretrained() -> nn.Module:
    """The net with the weights that come with the suite."""
    return with_weights(untrained(), WEIGHTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=5000)
    write_weights(pretrain(parser.parse_args().steps), WEIGHTS)
