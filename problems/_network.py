"""What a net of two layers makes of its inputs, for weights with any leading dimensions."""

import torch
from torch import Tensor

from linalg import FactoredMatrix
from parameterizations.color import Routed


def layers_of(weight: FactoredMatrix) -> tuple[Tensor, Tensor]:
    """U and V of a stack (..., L, n, n): (..., D or 1, n, n) each; of a routed one (..., 2, t, n, n), (..., 1, t, n, n) each."""
    dense = weight.dense()
    if isinstance(weight, Routed):
        return dense[..., None, 0, :, :, :], dense[..., None, 1, :, :, :]
    pairs = dense.unflatten(-3, (-1, 2))
    return pairs[..., 0, :, :], pairs[..., 1, :, :]


def logits(first: Tensor, second: Tensor, x: Tensor, classes: int) -> Tensor:
    """(..., C, N) of V ReLU(U x)."""
    return second[..., :classes, :] @ torch.relu(first @ x)


def cross_entropy(scores: Tensor, classes: Tensor) -> Tensor:
    """(..., N) of logits (..., C, N) for one-hot classes."""
    return scores.logsumexp(-2) - (scores * classes).sum(-2)
