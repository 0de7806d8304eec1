"""Tasks that come one after the other, and which of them an input is taken to be from."""

from typing import Any

import torch
from torch import Tensor

from linalg import InputError
from parameterizations import Step


def active_task(step: int, steps: int | None, tasks: int) -> int:
    """Which of the tasks a step is spent on: each has the same share of the run, in order."""
    if tasks == 1:
        return 0
    if steps is None:
        raise InputError("steps=None: must be known for tasks that come one after the other")
    if steps < tasks:
        raise InputError(f"steps={steps}: must be at least {tasks}, one for each task")
    return min(step * tasks // steps, tasks - 1)


def task_batch(at: Step, tasks: int, like: Tensor) -> Tensor:
    """(..., 1) the index of the step's task, for an instance whose scalars are shaped like `like` (...)."""
    index = active_task(at.step, at.steps, tasks)
    return torch.full((*like.shape, 1), index, device=like.device)


def of_task(batch: Tensor, stacked: Tensor, dim: int) -> Tensor:
    """The slice of `stacked` along `dim` that a batch (..., 1, ...) of `task_batch` names."""
    return stacked.index_select(dim, batch.flatten()[:1]).squeeze(dim)


def centroids(samples: Tensor, clusters: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """(n, clusters) of the columns of (n, N): Lloyd's k-means from k-means++ (Arthur and Vassilvitskii 2007)."""
    count = samples.shape[-1]
    first = int(torch.randint(count, (1,), generator=generator))
    centres = samples[:, [first]]
    while centres.shape[-1] < min(clusters, count):
        apart = squared_distances(centres, samples).amin(0)
        if not apart.any():
            break  # fewer distinct samples than clusters
        centres = torch.cat([centres, samples[:, torch.multinomial(apart, 1, generator=generator)]], -1)
    for _ in range(rounds):
        member = torch.nn.functional.one_hot(squared_distances(centres, samples).argmin(0), centres.shape[-1]).to(samples)
        size = member.sum(0)
        centres = torch.where(size > 0, samples @ member / size.clamp(min=1), centres)
    return centres


def squared_distances(centres: Tensor, samples: Tensor) -> Tensor:
    """(..., k, N) between the columns of (..., n, k) and of (..., n, N)."""
    return torch.cdist(centres.mT, samples.mT).square()


def domain_distances(features: Tensor, centres: list[Tensor]) -> Tensor:
    """(G, D, N) how far each column of features (G, n, N) is from the nearest centroid of each of D domains."""
    return torch.stack([squared_distances(own, features).amin(-2) for own in centres], -2)


def routed(values: Tensor, distances: Tensor) -> Tensor:
    """(..., G, N) of values (..., G, t, N), one a domain seen so far: that of the nearest by distances (..., G, D, N)."""
    nearest = nearest_domain(distances, values.shape[-2])
    lead = torch.broadcast_shapes(values.shape[:-2], nearest.shape[:-1])
    index = nearest.expand(*lead, nearest.shape[-1]).unsqueeze(-2)
    return values.expand(*lead, *values.shape[-2:]).gather(-2, index).squeeze(-2)


def nearest_domain(distances: Tensor, seen: int) -> Tensor:
    """(..., G, N) which of the first `seen` domains is nearest."""
    return distances[..., :seen, :].argmin(-2)


def routing_accuracy(distances: Tensor, seen: int) -> Tensor:
    """(...,) the fraction of the inputs of domains seen so far that are given to their own."""
    nearest: Any = nearest_domain(distances, seen)[..., :seen, :]
    return (nearest == torch.arange(seen, device=distances.device)[:, None]).to(distances).mean((-2, -1))
