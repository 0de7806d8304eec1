"""Linear tasks that come one after the other: what is left of the first when the last is learned?"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg.checks import check_integer, check_number, check_rank, check_shape
from linalg.random import gaussian, orthogonal, with_spectrum
from problems._problem import Problem
from problems._routing import centroids, domain_distances
from problems._scaling import reduction_weight
from problems._task_sequence import TaskSequence


@dataclass(frozen=True)
class Continual(Problem):
    """½ ‖W X_t - Y_t‖²_F for one task t after the other, Y_t = (W0 + Δ_t) X_t; measured on all tasks.

    Args:
        shape: (m, n), outputs then inputs.
        tasks: T; each has the same share of the steps, in order, and all its samples at every step.
        rank: of each Δ_t, whose singular values are 1, as W0's largest is; others fall as 1/i.
        separation: distance of two tasks' mean inputs over the inputs' standard deviation: how well an input tells its task.
        samples: of each task; 0 for four times the inputs. As many are held out.
        clusters: centroids a domain that route inputs, for methods that have one adapter a domain.
        reduction: see `reduction_weight`.

    `loss` is the mean over all tasks, seen or not, and picks the learning rate at the end of the run; `task_1`, ... are the
    tasks' losses over those at W0. The literature's forgetting is a task's loss (or error) at the end less its lowest before
    (Chaudhry et al. 2018, arXiv 1801.10112), or less that when its training ended (Lopez-Paz and Ranzato 2017,
    arXiv 1706.08840), averaged over all tasks but the last. A measure has no memory: `forgetting` is less the floor that a
    weight of the task's own reaches, 0, and over the loss at W0. At a run's end it is the literature's plus what was never
    learned; 1 is as bad as W0.
    """

    reference: ClassVar[str] = "the domain-incremental setting of Wistuba et al. 2023, arXiv 2311.17601, for one linear layer"
    provides: ClassVar[tuple[str, ...]] = ("base", "tasks")

    shape: tuple[int, int] = (32, 32)
    tasks: int = 4
    rank: int = 4
    separation: float = 6.0
    samples: int = 0
    clusters: int = 1
    reduction: str = "sum"

    def check(self):
        check_shape("shape", self.shape)
        check_integer("tasks", self.tasks)
        check_rank("rank", self.rank, self.shape)
        check_number("separation", self.separation, least=0)
        check_integer("samples", self.samples, least=0)
        check_integer("clusters", self.clusters)

    def instance(self, seed):
        generator, (m, n) = self.generator(seed), self.shape
        samples = self.samples or 4 * n
        pretrained = with_spectrum(m, n, 1 / torch.arange(1, min(m, n) + 1, dtype=torch.float64), generator)
        means = self.separation / 2**0.5 * orthogonal(n, self.tasks, generator)
        if self.tasks > n:  # then not orthogonal: rows are, and columns have norm below 1
            means = self.separation / 2**0.5 * torch.nn.functional.normalize(means, dim=0)
        deltas = torch.stack([with_spectrum(m, n, torch.ones(self.rank), generator) for _ in range(self.tasks)])
        inputs = means.mT[..., None] + gaussian(self.tasks, n, 2 * samples, generator=generator)
        inputs = inputs / torch.linalg.matrix_norm(inputs[..., :samples], 2).amax()
        outputs = (pretrained + deltas) @ inputs
        train, test = slice(samples), slice(samples, None)
        centres = [centroids(own, self.clusters, generator) for own in inputs[..., train]]
        signal = (deltas @ inputs[..., train]).square().sum()
        return TaskSequence(
            weight=reduction_weight(self.reduction, m * samples, signal / self.tasks),
            pretrained=pretrained,
            inputs=inputs[..., train],
            outputs=outputs[..., train],
            test_inputs=inputs[..., test],
            test_outputs=outputs[..., test],
            distances=domain_distances(inputs[..., train], centres),
            test_distances=domain_distances(inputs[..., test], centres),
        )
