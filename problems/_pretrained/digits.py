"""The classifier of `image_classification`: a small vision transformer that knows upright digits.

python -m problems._pretrained.digits     writes digits.safetensors beside this file; a minute on one core

Half of scikit-learn's digits train it, shifted by up to a pixel; the other half it never sees, so that those can be adapted to
and tested on.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linalg.random import generator
from problems._digits import CLASSES, digits
from problems._pretrained import with_weights, write_weights

WEIGHTS = Path(__file__).with_suffix(".safetensors")
NET: dict[str, Any] = {
    "image_size": 8,
    "num_channels": 1,
    "patch_size": 2,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.1,  # about 1/sqrt(64); transformers' 0.02 is for a width of 768, and starts slowly here
    "num_labels": CLASSES,
}
SEEN = 900  # of the 1797 digits
MEAN = STD = 0.5  # pixels from 0 to 1 become -1 to 1
SMOOTHING = 0.1  # of the labels: surer of itself, the net is no better upright and adapts worse


def split() -> tuple[Tensor, Tensor]:
    """(900,) and (897,) the digits that pre-training sees, and those that it does not: positions, always the same."""
    order = torch.randperm(len(digits()[0]), generator=generator(0, "digits"))
    return order[:SEEN], order[SEEN:]


def as_seen(images: Tensor) -> Tensor:
    """(N, 8, 8) from 0 to 1 as (N, 1, 8, 8) in float32, as the net takes them."""
    return ((images[:, None] - MEAN) / STD).float()


def shifted(images: Tensor, source: torch.Generator) -> Tensor:
    """(N, 8, 8) images, each moved by -1, 0 or 1 pixels along each side; zero comes in from outside."""
    height, width = images.shape[-2:]
    windows = nn.functional.pad(images, (1, 1, 1, 1)).unfold(-2, height, 1).unfold(-2, width, 1)  # (N, 3, 3, 8, 8)
    down, right = torch.randint(3, (2, len(images)), generator=source)
    return windows[torch.arange(len(images)), down, right]


def untrained(seed: int = 0) -> nn.Module:
    """The net with random weights."""
    from transformers import ViTConfig, ViTForImageClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTForImageClassification(ViTConfig(**NET))


def pretrain(epochs: int = 150, batch: int = 60, lr: float = 2e-3) -> nn.Module:
    """Train on the upright digits of the first part of `split`, with AdamW and one cycle of its rate."""
    net = untrained()
    images, labels = digits()[0][split()[0]], digits()[1][split()[0]].argmax(-1)
    steps, source = epochs * (SEEN // batch), generator(0, "pretraining")
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    net.train()
    for epoch in range(epochs):
        shown = 0.0
        for rows in torch.randperm(SEEN, generator=source).split(batch):
            scores = net(pixel_values=as_seen(shifted(images[rows], source))).logits
            loss = nn.functional.cross_entropy(scores, labels[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            shown += loss.item() * len(rows) / SEEN
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {shown:.4f}, {accuracy(net):.1%} of the other digits right", flush=True)
    return net


@torch.no_grad()
def accuracy(net: nn.Module) -> float:
    """Of the upright digits that pre-training does not see."""
    images, classes = digits()
    other = split()[1]
    net.eval()
    found = net(pixel_values=as_seen(images[other])).logits.argmax(-1)
    net.train()
    return float((found == classes[other].argmax(-1)).double().mean())


def pretrained() -> nn.Module:
    """The net with the weights that come with the suite."""
    return with_weights(untrained(), WEIGHTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--epochs", type=int, default=150)
    write_weights(pretrain(parser.parse_args().epochs), WEIGHTS)
