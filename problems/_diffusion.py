"""What `image_style` needs of a diffusion model: the net that is adapted, pictures as it sees them, and samples."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linalg.random import generator
from problems._language import check_reach, fresh, unreadable
from problems._pretrained import glyphs
from problems._real_data import digest
from problems._task import unknown, without_dropout

ROWS = 32  # of a forward pass
CONTRAST = 1.5
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def quiet() -> None:
    """Let diffusers warn of nothing: it does whenever a model moves, and of advice that is not for users of the suite."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()


class GlyphNet:
    """The small U-Net that comes with the suite: no text, no autoencoder.

    Args:
        weights: pretrained or random.
    """

    side = 32
    channels = 1

    def __init__(self, weights: str) -> None:
        quiet()
        self.net = glyphs.pretrained() if weights == "pretrained" else glyphs.untrained()
        self.process = glyphs.noising()

    def model(self) -> nn.Module:
        return without_dropout(fresh(self.net))

    @staticmethod
    def compared(images: Tensor) -> Tensor:
        """Pictures as they are compared, real ones too: what is nearly paper is paper, nearly ink is ink, at half the resolution.

        An ImageNet network makes more of edges that are ragged by a pixel, as samples' are, than of a stroke's weight.
        """
        return nn.functional.avg_pool2d((CONTRAST * images).clamp(-1, 1), 2)

    def encoded(self, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """(N, c, h, w), what the net is to denoise, of pictures (N, 1, 32, 32) from -1 to 1."""
        return glyphs.folded(images)

    def captioned(self, captions: Sequence[str], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """What the net is told beside, a row a picture."""
        return {}

    def predicted(self, net: nn.Module, noised: Tensor, times: Tensor, told: dict[str, Tensor]) -> Tensor:
        return net(noised, times).sample

    @torch.no_grad()
    def samples(self, net: nn.Module, captions: Sequence[str], steps: int, seed: int) -> Tensor:
        """(N, 1, 32, 32) pictures by DDIM, as many as captions; the same noise for the same seed, whatever the net."""
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler(**glyphs.SCHEDULE, timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        like = next(net.parameters())
        shape = (len(captions), glyphs.NET["in_channels"], glyphs.NET["sample_size"], glyphs.NET["sample_size"])
        latents = torch.randn(shape, generator=generator(seed, "samples")).to(like)
        done = []
        for part in latents.split(ROWS):
            for time in scheduler.timesteps:
                part = scheduler.step(net(part, time).sample, time, part).prev_sample
            done.append(glyphs.unfolded(part))
        return torch.cat(done).clamp(-1, 1).float().cpu()


class Pipeline:
    """A pipeline of Stable Diffusion's class: an autoencoder, a text encoder, and a U-Net whose attention is told the text."""

    channels = 3

    def __init__(self, path: str, weights: str, problem: str) -> None:
        from diffusers import DDPMScheduler, StableDiffusionPipeline

        quiet()
        check_reach(problem, path, "glyphs")
        try:
            self.pipe: Any = StableDiffusionPipeline.from_pretrained(path, safety_checker=None, requires_safety_checker=False)
        except unreadable() as error:
            raise unknown(problem, "model", path, "glyphs, the folder of a pipeline, or a hub's id within reach", error) from error
        self.pipe.set_progress_bar_config(disable=True)
        self.latents: dict[str, Tensor] = {}  # of pictures by their digests
        self.texts: dict[str, Tensor] = {}  # of captions
        if weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.pipe.unet = type(self.pipe.unet).from_config(self.pipe.unet.config)
        self.side = int(self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor)
        self.process = DDPMScheduler.from_config(self.pipe.scheduler.config)

    @staticmethod
    def compared(images: Tensor) -> Tensor:
        return images

    def model(self) -> nn.Module:
        return without_dropout(fresh(self.pipe.unet))

    @torch.no_grad()
    def encoded(self, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """(N, c, h, w) the autoencoder's means, scaled, of pictures (N, 3, side, side) from -1 to 1; each is encoded once."""
        vae, names = self.pipe.vae, [digest([image]) for image in images]
        new = [i for i, name in enumerate(names) if name not in self.latents]
        vae.to(device)
        for rows in torch.tensor(new).split(ROWS) if new else ():
            found = vae.encode(images[rows].to(device)).latent_dist.mean.cpu() * vae.config.scaling_factor
            self.latents |= {names[i]: latent for i, latent in zip(rows.tolist(), found, strict=True)}
        return torch.stack([self.latents[name] for name in names])

    @torch.no_grad()
    def captioned(self, captions: Sequence[str], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder.to(device)
        for caption in dict.fromkeys(captions):
            if caption not in self.texts:
                length = tokenizer.model_max_length
                tokens = tokenizer(caption, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
                self.texts[caption] = encoder(tokens.to(device))[0][0].cpu()
        return {"text": torch.stack([self.texts[caption] for caption in captions])}

    def predicted(self, net: nn.Module, noised: Tensor, times: Tensor, told: dict[str, Tensor]) -> Tensor:
        return net(noised, times, encoder_hidden_states=told["text"].to(noised)).sample

    @torch.no_grad()
    def samples(self, net: nn.Module, captions: Sequence[str], steps: int, seed: int) -> Tensor:
        """(N, 3, side, side) pictures from -1 to 1, one a caption, by the pipeline's own scheduler."""
        like = next(net.parameters())
        pipe = copy.copy(self.pipe)  # beside it, what there is stays where it is and in its precision, for the next task
        pipe.unet = getattr(getattr(net, "base_model", None), "model", net)  # with peft's layers in it
        pipe.vae, pipe.text_encoder = (fresh(part).to(like) for part in (self.pipe.vae, self.pipe.text_encoder))
        drawn = []
        for i, caption in enumerate(captions):
            found = pipe(caption, num_inference_steps=steps, generator=generator(seed, f"sample {i}"), output_type="pt").images
            drawn.append(found.cpu().float() * 2 - 1)
        return torch.cat(drawn)


def pictures(folder: Path, side: int, problem: str) -> tuple[Tensor, list[str]]:
    """(N, 3, side, side) from -1 to 1 of a folder's pictures by name, and their captions: a .txt beside a picture, or nothing.

    Raises:
        InputError: where there is none.
    """
    import numpy as np
    from PIL import Image, ImageOps

    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")]
    if not files:
        raise unknown(problem, "data", str(folder), "a folder with pictures (.png, .jpg, .jpeg, .webp); it has none")
    found = []
    for file in files:
        try:
            picture = ImageOps.fit(Image.open(file).convert("RGB"), (side, side))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise unknown(problem, "data", str(folder), f"a folder of pictures; {file.name} is none", error) from error
        found.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 127.5 - 1)
    beside = [file.with_suffix(".txt") for file in files]
    return torch.stack(found), [caption(text, problem) for text in beside]


def caption(file: Path, problem: str) -> str:
    """What a file beside a picture says of it; nothing where there is none."""
    try:
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise unknown(problem, "data", str(file.parent), f"a folder whose captions are UTF-8; {file.name} is not", error) from error
