"""Icon glyphs: 894 subjects drawn in five styles, from the Phosphor font that qtawesome carries (MIT)."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from linalg.random import generator
from problems._packages import package_folder

STYLES = ("regular", "thin", "light", "fill", "bold")  # the last is left out of pre-training
SIDE = 32
OVERSAMPLING = 4  # glyphs are drawn larger and averaged down
FONT, CHARMAP = "phosphor-1.3.0.ttf", "phosphor-charmap-1.3.0.json"
TRAIN, VALIDATION = 600, 100  # subjects; what is left is for tests


def folder() -> Path:
    """Where the font lies.

    Raises:
        InputError: where qtawesome is not installed.
    """
    return package_folder("qtawesome", "image_style") / "fonts"


@cache
def subjects() -> tuple[str, ...]:
    """The names that there is a glyph of in every style, in an order of chance that is always the same."""
    known = json.loads((folder() / CHARMAP).read_text())
    names = sorted(name for name in known if all(f"{name}-{style}" in known for style in STYLES[1:]))
    return tuple(names[i] for i in torch.randperm(len(names), generator=generator(0, "glyphs")).tolist())


@cache
def glyphs(style: str) -> Tensor:
    """(894, 1, 32, 32) from -1, paper, to 1, ink: every subject in one style, by the order of `subjects`."""
    from PIL import Image, ImageDraw, ImageFont

    known = json.loads((folder() / CHARMAP).read_text())
    side = SIDE * OVERSAMPLING
    font = ImageFont.truetype(str(folder() / FONT), size=int(0.94 * side))
    drawn = []
    for name in subjects():
        picture = Image.new("L", (side, side))
        letter = chr(int(known[name if style == "regular" else f"{name}-{style}"], 16))
        ImageDraw.Draw(picture).text((side / 2, side / 2), letter, fill=255, font=font, anchor="mm")
        drawn.append(np.asarray(picture))
    whole = torch.from_numpy(np.stack(drawn)).float()[:, None] / 255
    return torch.nn.functional.avg_pool2d(whole, OVERSAMPLING) * 2 - 1


def parts(style: str) -> dict[str, Tensor]:
    """The glyphs of a style by subjects: `train`, `validation` and `test`, the same subjects in every style."""
    train, validation, test = glyphs(style).split([TRAIN, VALIDATION, len(subjects()) - TRAIN - VALIDATION])
    return {"train": train, "validation": validation, "test": test}
