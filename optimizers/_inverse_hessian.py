"""The inverse Hessian that pairs of steps and changes of the gradient stand for, lane by lane in one tensor."""

import torch
from torch import Tensor

LEAST_CURVATURE = 1e-10  # of pairs that are kept, as torch.optim has it


def remember(history: dict[str, Tensor], change: Tensor) -> None:
    """Take up the last step with its change of the gradient, in lanes where the curvature along it is positive."""
    curvature = (change * history["step"]).sum(-1)
    kept = curvature > LEAST_CURVATURE
    history["diagonal"].copy_(torch.where(kept, curvature / change.square().sum(-1), history["diagonal"]))
    for moment, newest in (("steps", history["step"]), ("changes", change), ("inverse", 1 / curvature)):
        old, newest = history[moment], newest.unsqueeze(kept.ndim)
        mask = kept.reshape(kept.shape + (1,) * (old.ndim - kept.ndim))
        old.copy_(torch.where(mask, torch.cat((old.narrow(kept.ndim, 1, old.shape[kept.ndim] - 1), newest), kept.ndim), old))


def descent(history: dict[str, Tensor], gradient: Tensor) -> Tensor:
    """- H g; places that hold no pair yet have an inverse of zero, and add nothing."""
    steps, changes, inverse = (history[moment].unbind(gradient.ndim - 1) for moment in ("steps", "changes", "inverse"))
    direction, weights = -gradient, []
    for step, change, weight in zip(reversed(steps), reversed(changes), reversed(inverse), strict=True):
        weights.append(weight * (step * direction).sum(-1))
        direction -= weights[-1][..., None] * change
    direction *= history["diagonal"][..., None]
    for step, change, weight, first in zip(steps, changes, inverse, reversed(weights), strict=True):
        direction += (first - weight * (change * direction).sum(-1))[..., None] * step
    return direction
