"""Fill in the missing pixels of a photograph."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from linalg import InputError
from linalg.checks import check, check_choice, check_number, check_shape
from problems._completion import Completion
from problems._problem import Problem
from problems._real_data import Split, data_package, digest, scaled_completion

IMAGES = ("camera", "coins", "astronaut", "coffee")  # in the wheel of scikit-image; most others would be downloaded


@dataclass(frozen=True)
class Inpainting(Problem):
    """½ Σ (W_ij - M_ij)² / observed over some pixels of a grey photograph M, less their mean.

    Errors are in grey levels from 0 to 1; `relative_error` is over the whole picture.

    Args:
        image: `camera`, `coins`, `astronaut` or `coffee`.
        shape: (rows, columns), to which the middle of the photograph, cropped to that aspect, is averaged.
        observed: fraction of the pixels that is known: exactly int(observed m n); the rest is the test.
        validation: fraction of the known pixels that picks the learning rate instead of being trained on.
        normalize: `spectral` divides by the spectral norm of the zero-filled training pixels over their fraction,
            an unbiased guess at the whole picture; `none` leaves grey levels.
        reduction: as in `matrix_factorization`; `sum` here divides by the fraction trained on.
    """

    reference: ClassVar[str] = "van der Walt et al. 2014, doi 10.7717/peerj.453: the photographs of scikit-image"

    image: str = "camera"
    shape: tuple[int, int] = (96, 96)
    observed: float = 0.5
    validation: float = 0.1
    normalize: str = "spectral"
    reduction: str = "sum"

    def check(self):
        check_choice("image", self.image, IMAGES)
        check_shape("shape", self.shape)
        check(min(self.shape) >= 2, "shape", self.shape, "at least 2 x 2")
        check_number("observed", self.observed, above=0, most=1)
        check_number("validation", self.validation, above=0, most=1)

    def instance(self, seed):
        return self.completion(averaged(photograph(self.image), self.shape), seed)

    def completion(self, picture: Tensor, seed: int) -> Completion:
        """The instance of a seed on a picture (m, n); pixels not trained on touch nothing but their own targets."""
        split = self.split(picture.numel(), seed)
        flat = torch.arange(picture.numel())
        centred = picture - picture.flatten()[split.train].mean()
        return scaled_completion(self.shape, flat, centred.flatten(), split, self.normalize, self.reduction, whole=centred)

    def split(self, pixels: int, seed: int) -> Split:
        known = int(self.observed * pixels)
        validation = int(self.validation * known)
        train = known - validation
        if min(validation, train, pixels - known) < 1:
            raise InputError(
                f"observed={self.observed}, validation={self.validation}: leave {train} of {pixels} pixels to train on, "
                f"{validation} to validate and {pixels - known} to test; each needs some"
            )
        order = torch.randperm(pixels, generator=self.generator(seed))
        return Split(order[validation:known], order[:validation], order[known:])

    def fingerprint(self):
        return digest([photograph(self.image)])


@cache
def photograph(image: str) -> Tensor:
    """(M, N) grey levels from 0 to 1, float64."""
    skimage = data_package("skimage", "inpainting", package="scikit-image")
    pixels = getattr(skimage.data, image)()
    grey = skimage.color.rgb2gray(pixels) if pixels.ndim == 3 else skimage.util.img_as_float(pixels)
    return torch.tensor(grey, dtype=torch.float64)


def averaged(picture: Tensor, shape: tuple[int, int]) -> Tensor:
    """(m, n) means over equal areas of the largest part in the middle of a picture (M, N) that has the aspect of `shape`."""
    (m, n), (rows, columns) = shape, picture.shape
    check(m <= rows and n <= columns, "shape", shape, f"at most {rows} x {columns}, the size of the picture")
    scale = min(rows / m, columns / n)
    top, left = (rows - scale * m) / 2, (columns - scale * n) / 2
    return _areas(rows, m, top, scale) @ picture @ _areas(columns, n, left, scale).mT


def _areas(pixels: int, count: int, start: float, width: float) -> Tensor:
    """(count, pixels) the share of each pixel in `count` neighbouring intervals of that width: rows sum to 1."""
    edges = start + width * torch.arange(count + 1, dtype=torch.float64)[:, None]
    covered = (edges - torch.arange(pixels, dtype=torch.float64)).clamp(0, 1)  # of each pixel, left of each edge
    return covered.diff(dim=0) / width
