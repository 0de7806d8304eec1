"""A small ReLU classifier whose two weights are a stack, on one domain, on several in time, or on one a client."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from linalg import FactoredMatrix
from parameterizations.color import Routed
from problems._instance import Instance, by_part
from problems._network import cross_entropy, layers_of, logits
from problems._normal_equations import shared_matmul
from problems._routing import active_task, of_task, routed, routing_accuracy, task_batch

PARTS = ("train", "validation", "test")


@dataclass(eq=False)
class TwoLayer(Instance):
    """Cross-entropy of V ReLU(U x) over C classes: `loss` is its mean over samples, added up over clients.

    Args:
        setting: `single`, one domain; `continual`, a batch names the one of D domains that is trained on, and without a
            batch their mean counts; `federated`, each domain has weights of its own, and the losses add up.
        batch_size: samples a step, the same positions in every domain; 0 for all.
        pretrained: (..., L, n, n): U then V, of which the first C rows are used and the rest get no gradient; with
            `federated` those of the first client, then the second's, and so on.
        train, validation, test: inputs (..., D, n, N), columns are samples.
        train_classes, validation_classes, test_classes: (..., D, C, N), one-hot.
        train_distances, ...: (..., D, D, N) for routing, see `domain_distances`; None where nothing is routed.

    The learning rate is picked by the loss on the validation samples of all domains. In the continual setting `task_1`, ...
    are the domains' test errors, and `forgetting` is the training loss of all but the last, see `Continual`.
    """

    selection: ClassVar[str] = "validation_loss"
    headline: ClassVar[str] = "test_error"

    setting: str
    batch_size: int
    pretrained: Tensor
    train: Tensor
    train_classes: Tensor
    validation: Tensor
    validation_classes: Tensor
    test: Tensor
    test_classes: Tensor
    train_distances: Tensor | None = None
    validation_distances: Tensor | None = None
    test_distances: Tensor | None = None

    @property
    def shape(self):
        return self.pretrained.shape[-2], self.pretrained.shape[-1]

    @property
    def layers(self):
        return self.pretrained.shape[-3]

    @property
    def base(self):
        return self.pretrained

    @property
    def tasks(self) -> int:
        """How many domains come one after the other."""
        return self.train.shape[-3] if self.setting == "continual" else 1

    def active(self, step: int, steps: int | None) -> int:
        """The domain that a step of the continual setting trains on."""
        return active_task(step, steps, self.tasks)

    def batch(self, at):
        """(..., 1 + b): the domain, then the samples; None for everything."""
        domain = task_batch(at, self.tasks, self.pretrained[..., 0, 0, 0])
        if not self.batch_size:
            return domain if self.setting == "continual" else None
        drawn = [torch.randperm(self.train.shape[-1], generator=source)[: self.batch_size] for source in at.generators]
        return torch.cat([domain, torch.stack(drawn).reshape(*domain.shape[:-1], -1).to(domain)], -1)

    def samples(self, batch: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs (..., D, n, b) and classes (..., D, C, b) of a batch, with D = 1 in the continual setting."""
        x, classes = self.train, self.train_classes
        if batch is None:
            return x, classes
        if self.setting == "continual":
            x, classes = (of_task(batch[..., :1], each, -3).unsqueeze(-3) for each in (x, classes))
        if batch.shape[-1] > 1:
            columns = batch[..., None, None, 1:]
            x, classes = (torch.take_along_dim(each, columns, -1) for each in (x, classes))
        return x, classes

    def loss(self, weight: FactoredMatrix, batch: Any = None) -> Tensor:
        x, classes = self.samples(batch)
        return self.total(cross_entropy(logits(*layers_of(weight), x, classes.shape[-2]), classes).mean(-1))

    def total(self, losses: Tensor) -> Tensor:
        """(...,) of domains' losses (..., D)."""
        return losses.sum(-1) if self.setting == "federated" else losses.mean(-1)

    def part_gradients(self, parts, base, wanted, batch):
        gradient = self.weight_gradient(FactoredMatrix(parts, base), batch)
        return by_part(gradient, parts, wanted)

    def weight_gradient(self, weight: FactoredMatrix, batch: Tensor | None = None) -> Tensor:
        """(..., L, n, n) by backpropagation."""
        x, classes = self.samples(batch)
        first, second = layers_of(weight)
        alone = x.shape[-3] == 1
        if alone:  # then the rates of a seed share their samples in one GEMM
            x, classes, first, second = (each.squeeze(-3) for each in (x, classes, first, second))
        second, unused = second[..., : classes.shape[-2], :], second.shape[-2] - classes.shape[-2]
        hidden = shared_matmul(first, x).relu_()
        residual = torch.softmax(second @ hidden, -2).sub_(classes).div_(x.shape[-1])
        back = (second.mT @ residual).mul_(hidden > 0)
        grads = torch.stack([shared_matmul(back, x.mT), torch.nn.functional.pad(residual @ hidden.mT, (0, 0, 0, unused))], -3)
        if alone:
            return grads
        return grads.flatten(-4, -3) if self.setting == "federated" else grads.mean(-4)

    def measure(self, weight):
        losses, errors = zip(*(self.losses_and_errors(weight, part) for part in PARTS), strict=True)
        measures = {"loss": self.total(losses[0]), "validation_loss": losses[1].mean(-1), "test_error": errors[2].mean(-1)}
        measures["accuracy"] = 1 - measures["test_error"]
        if self.setting == "federated":
            measures["client_loss"], measures["worst_client_loss"] = losses[0].mean(-1), losses[0].amax(-1)
        if self.setting == "continual":
            measures |= {f"task_{d + 1}": errors[2][..., d] for d in range(self.tasks)}
            if self.tasks > 1:
                measures["forgetting"] = losses[0][..., :-1].mean(-1)
            if isinstance(weight, Routed) and self.test_distances is not None:
                measures["routing_accuracy"] = routing_accuracy(self.test_distances, weight.dense().shape[-3])
        return {name: value.expand(losses[0].shape[:-1]) for name, value in measures.items()}

    def losses_and_errors(self, weight: FactoredMatrix, part: str) -> tuple[Tensor, Tensor]:
        """(..., D) the mean cross-entropy and the fraction classified wrongly."""
        x, classes, by_domain = getattr(self, part), getattr(self, f"{part}_classes"), isinstance(weight, Routed)
        if by_domain:
            x, classes = x.unsqueeze(-3), classes.unsqueeze(-3)
        scores = logits(*layers_of(weight), x, classes.shape[-2])
        losses, wrong = cross_entropy(scores, classes), (scores.argmax(-2) != classes.argmax(-2)).to(scores)
        if by_domain:
            losses, wrong = (routed(each, getattr(self, f"{part}_distances")) for each in (losses, wrong))
        return losses.mean(-1), wrong.mean(-1)

    def workspace(self, parts):
        samples = (self.batch_size or self.train.shape[-1]) * (self.train.shape[-3] if self.setting == "federated" else 1)
        return (3 * self.shape[0] + 2 * self.train_classes.shape[-2]) * samples + 4 * self.layers * self.shape[0] ** 2
