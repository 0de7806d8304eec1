"""What the claims on Deep LoRA share: baselines and data as the authors' code has them, which the catalogue does not hold."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.claims._claim import FAILS, HOLDS, INCONCLUSIVE, Evidence, Figure, worst
from linalg import gaussian, orthogonal
from linalg.checks import check, check_integer
from parameterizations import DeepLoRA, LoRA, Parameterization
from problems import DeepMatrixCompletion, RotatedDigits

PAPER = "Yaras et al. 2024, arXiv 2406.04112"


@dataclass(frozen=True)
class Narrow(Parameterization):
    """W_L ... W_1 of width `rank`, orthogonal factors times `scale`: the deep network that is small without a compression.

    The width min(m, n) makes it `deep`.
    """

    reference: ClassVar[str] = PAPER

    rank: int = 8
    depth: int = 3
    scale: float = 1e-3

    def initial(self, shape, generator, base, gradient):
        widths = [shape[1]] + [self.rank] * (self.depth - 1) + [shape[0]]
        return {
            f"factor_{layer}": self.scale * orthogonal(widths[layer], widths[layer - 1], generator)
            for layer in range(1, self.depth + 1)
        }

    def factors(self, params):
        return tuple(params[f"factor_{layer}"] for layer in range(self.depth, 0, -1))


@dataclass(frozen=True)
class Compressed(DeepLoRA):
    """`deep_lora` with the outer rate of the authors' fine-tuning runs."""

    outer_rate: float = 0.01


@dataclass(frozen=True)
class WideStartLoRA(LoRA):
    """LoRA as the authors' code has it: A's entries N(0, 1), whatever its rank and length."""

    def initial(self, shape, generator, base, gradient):
        return {"left": torch.zeros(shape[0], self.rank).double(), "right": gaussian(self.rank, shape[1], generator=generator)}


@dataclass(frozen=True)
class TruncatedGaussian(DeepMatrixCompletion):
    """Completion of a square Gaussian matrix cut to its first singular values, which are nearly equal."""

    def check(self):
        super().check()
        check(self.noise == 0 and self.reduction == "sum", "noise", self.noise, "0, with reduction=sum")

    def instance(self, seed):
        drawn = super().instance(seed)
        u, s, vt = torch.linalg.svd(gaussian(*self.shape, generator=self.generator(seed, "target")), full_matrices=False)
        hidden = (u[:, : self.rank] * (s[: self.rank] / s[0])) @ vt[: self.rank]
        values = {name: hidden.flatten()[getattr(drawn, name)] for name in ("observed", "validation", "test")}
        return replace(
            drawn, hidden=hidden, values=values["observed"], validation_values=values["validation"], test_values=values["test"]
        )


@dataclass(frozen=True)
class FewShotDigits(RotatedDigits):
    """Digits turned by one angle, of which only the first `samples` train the pretrained net."""

    setting: str = "federated"  # with one client: every digit at the angle
    domains: int = 1
    angle: float = 30.0
    samples: int = 16

    def check(self):
        super().check()
        check_integer("samples", self.samples)

    def instance(self, seed):
        drawn = super().instance(seed)
        return replace(drawn, train=drawn.train[..., : self.samples], train_classes=drawn.train_classes[..., : self.samples])


def worst_of(evidence: Evidence, name: str, found: Iterable[Tensor]) -> Figure:
    """The largest over settings, and over seeds: for what must hold on every one."""
    return worst(evidence, name, np.max([np.asarray(each) for each in found], axis=0))


VERDICT = {True: HOLDS, False: FAILS, None: INCONCLUSIVE}


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """Whether all are true; None where one is undecided and none false."""
    found = list(answers)
    return False if False in found else None if None in found else True


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """Whether one is true; None where none is but one is undecided."""
    found = list(answers)
    return True if True in found else None if None in found else False


def opposite(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def as_said(answer: bool | None) -> str:
    """An answer in words that `settled` knows."""
    return "inconclusive" if answer is None else "better" if answer else "worse"
