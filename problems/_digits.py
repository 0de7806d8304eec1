"""Small pictures of digits, turned, and a net that knows them upright."""

import math
from functools import cache

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from linalg import FactoredMatrix, generator
from linalg.random import gaussian
from problems._real_data import data_package
from problems._two_layer import TwoLayer

PIXELS, CLASSES = 64, 10
RIDGE, ROUNDS = 1e-4, 100  # of pre-training: without a ridge the weights' norms grow fourfold while the loss goes to 1e-6
KEPT: dict[tuple[int, bytes], Tensor] = {}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 8, 8) from 0 to 1 and one-hot classes (1797, 10), float64."""
    found = data_package("sklearn.datasets", "rotated_digits", package="scikit-learn").load_digits()
    classes = torch.nn.functional.one_hot(torch.tensor(found.target), CLASSES)
    return torch.tensor(found.images / 16), classes.double()


def rotated(images: Tensor, angles: Tensor) -> Tensor:
    """(N, 8, 8) images turned counter-clockwise about their middles by (N,) degrees, bilinearly; zero comes in from outside."""
    turn = torch.deg2rad(angles)
    rows = torch.stack([torch.stack([turn.cos(), -turn.sin()], -1), torch.stack([turn.sin(), turn.cos()], -1)], -2)
    places = torch.nn.functional.affine_grid(torch.cat([rows, rows.new_zeros(len(rows), 2, 1)], -1), [len(images), 1, 8, 8], False)
    return torch.nn.functional.grid_sample(images[:, None], places, align_corners=False)[:, 0]


def pretrained_net(seed: int, train: Tensor) -> Tensor:
    """(2, 64, 64) trained on those upright digits by L-BFGS, from He's initialisation; kept for as long as the process."""
    key = seed, train.numpy().tobytes()
    if key not in KEPT:
        images, classes = digits()
        x, one_hot = images[train].flatten(1).mT[None], classes[train].mT[None]
        net = TwoLayer("single", 0, torch.zeros(2, PIXELS, PIXELS, dtype=torch.float64), x, one_hot, x, one_hot, x, one_hot)
        start = gaussian(2, PIXELS, PIXELS, generator=generator(seed, "pretraining")) * math.sqrt(2 / PIXELS)
        start[1, CLASSES:] = 0

        def evaluate(entries: np.ndarray) -> tuple[float, np.ndarray]:
            weight = torch.from_numpy(entries).view(2, PIXELS, PIXELS)
            loss = net.loss(FactoredMatrix((weight,))) + RIDGE / 2 * weight.square().sum()
            return float(loss), (net.weight_gradient(FactoredMatrix((weight,))) + RIDGE * weight).flatten().numpy()

        found = scipy.optimize.minimize(evaluate, start.flatten().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": ROUNDS})
        KEPT[key] = torch.from_numpy(found.x).view(2, PIXELS, PIXELS)
    return KEPT[key]
