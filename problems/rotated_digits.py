"""Adapt a classifier of upright digits to rotated ones: one task, several in time, or one a client."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import InputError
from linalg.checks import check, check_choice, check_integer, check_number
from problems._digits import digits, pretrained_net, rotated
from problems._problem import Problem
from problems._real_data import Split, digest
from problems._routing import centroids, domain_distances
from problems._two_layer import PARTS, TwoLayer


@dataclass(frozen=True)
class RotatedDigits(Problem):
    """Cross-entropy of a two-layer ReLU net on rotated 8 x 8 digits, from weights pre-trained on upright ones.

    Args:
        setting: `single`, every digit rotated by an angle of its own, U[-angle, angle]; `continual`, `domains` angles one
            after the other, angle / domains to angle, all digits at each; `federated`, the same angles, one a client,
            which has its own share of the digits for training.
        angle: in degrees.
        domains: tasks, or clients.
        test, validation: fractions of the 1797 digits held out for the report, and to pick the learning rate.
        batch_size: samples a step (of each client), drawn without replacement; 0 for all.
        clusters: centroids a domain, of pixels, that route inputs, for methods that have one adapter a domain.

    The paper has 28 x 28 MNIST and 512 hidden units; here both weights are 64 x 64, so that they are a stack: no biases,
    64 hidden units, and an output layer of 64 rows of which ten are used and the others stay zero. With `federated` the
    stack is U_1, V_1, U_2, V_2, ... over clients. Pre-training goes to nearly zero loss. The paper does not give its angles.
    """

    reference: ClassVar[str] = "Teterwak et al. 2024, arXiv 2412.10362, section 3.3; the digits of scikit-learn"

    client_weights: ClassVar[int] = 2

    setting: str = "single"
    angle: float = 180.0
    domains: int = 4
    test: float = 0.25
    validation: float = 0.1
    batch_size: int = 0
    clusters: int = 5

    @property
    def provides(self) -> tuple[str, ...]:  # type: ignore[override]  # tasks in time only in one setting
        return ("base", "layers", *{"continual": ("tasks",), "federated": ("clients",)}.get(self.setting, ()))

    def check(self):
        check_choice("setting", self.setting, ("single", "continual", "federated"))
        check_number("angle", self.angle, least=0, most=180)
        for name in ("domains", "clusters"):
            check_integer(name, getattr(self, name))
        check_number("test", self.test, above=0, most=1)
        check_number("validation", self.validation, above=0, most=1)
        check_integer("batch_size", self.batch_size, least=0)

    def instance(self, seed):
        split = self.split(len(digits()[0]), seed)
        pretrained = pretrained_net(seed, split.train)
        source, domains = self.generator(seed, "angles"), self.count
        shares = list(split.train.tensor_split(domains)) if self.setting == "federated" else [split.train] * domains
        smallest = min(map(len, shares))
        check(self.batch_size <= smallest, "batch_size", self.batch_size, f"at most {smallest}, the digits to train on")
        chosen = {"train": [share[:smallest] for share in shares], "validation": [split.validation] * domains}
        parts = {name: self.turned(shares, source) for name, shares in (chosen | {"test": [split.test] * domains}).items()}
        routing = {}
        if self.setting == "continual":
            centres = [centroids(own, self.clusters, source) for own in parts["train"][0]]
            routing = {f"{name}_distances": domain_distances(parts[name][0], centres) for name in PARTS}
        clients = domains if self.setting == "federated" else 1
        tensors = {name: parts[name][0] for name in PARTS} | {f"{name}_classes": parts[name][1] for name in PARTS}
        return TwoLayer(self.setting, self.batch_size, pretrained.repeat(clients, 1, 1), **tensors, **routing)

    @property
    def count(self) -> int:
        """How many domains there are."""
        return 1 if self.setting == "single" else self.domains

    def turned(self, shares: list[Tensor], source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs (D, 64, N) and one-hot classes (D, 10, N) of the digits that each domain is given."""
        images, classes = digits()
        inputs = []
        for domain, share in enumerate(shares, start=1):
            spread = torch.rand(len(share), generator=source, dtype=torch.float64) * 2 - 1
            angle = spread if self.setting == "single" else torch.full_like(spread, domain / len(shares))
            inputs.append(rotated(images[share], self.angle * angle).flatten(1).mT)
        return torch.stack(inputs), torch.stack([classes[share].mT for share in shares])

    def split(self, count: int, seed: int) -> Split:
        test, validation = int(self.test * count), int(self.validation * count)
        least = self.count if self.setting == "federated" else 1
        if min(test, validation) < 1 or count - test - validation < least:
            raise InputError(
                f"test={self.test}, validation={self.validation}: leave {count - test - validation} of {count} digits to train on, "
                f"{validation} to validate and {test} to test; each needs some"
            )
        order = torch.randperm(count, generator=self.generator(seed))
        return Split(order[test + validation :], order[test : test + validation], order[:test])

    def fingerprint(self):
        return digest(digits())
