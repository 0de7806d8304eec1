"""What the tasks that classify have in common: losses and errors of labelled rows."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from problems._language import on
from problems._task import Batch, Task, by_lane


class Classification(Task):
    """Rows with their `labels` in three parts. A subclass gives `parts`, `chunks` and `scores`; the label may be a number, too."""

    parts: dict[str, Batch]

    def chunks(self, part: Batch) -> Iterable[Batch]:
        """The part in pieces that a forward pass takes, each row once."""
        raise NotImplementedError

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(N, classes), or (N, 1) of a number."""
        raise NotImplementedError

    def losses(self, model, batch, lanes=1):
        return by_lane(of_rows(self.scores(model, batch), batch["labels"]), lanes)

    def measure(self, model):
        return self.of_part("train", model) | self.of_part("validation", model)

    def test(self, model):
        return self.of_part("test", model)

    def of_part(self, part: str, model: nn.Module) -> dict[str, float]:
        """Loss and error of a part: the fraction of wrong classes, of a number 1 less Pearson's correlation."""
        found = []
        for chunk in self.chunks(self.parts[part]):
            chunk = on(chunk, model)
            found.append((self.scores(model, chunk), chunk["labels"]))
        scores, labels = (torch.cat(each) for each in zip(*found, strict=True))
        return {
            "loss" if part == "train" else f"{part}_loss": float(of_rows(scores, labels).double().mean()),
            f"{part}_error": error(scores, labels),
        }


def of_rows(scores: Tensor, labels: Tensor) -> Tensor:
    """(N,) cross-entropy, or the squared difference of a number."""
    if scores.shape[-1] == 1:
        return (scores[:, 0] - labels.to(scores)).square()
    return nn.functional.cross_entropy(scores, labels, reduction="none")


def error(scores: Tensor, labels: Tensor) -> float:
    if scores.shape[-1] > 1:
        return float((scores.argmax(-1) != labels).double().mean())
    both = torch.stack([scores[:, 0].double(), labels.double()])
    return 1 - float(torch.corrcoef(both)[0, 1].nan_to_num(0.0))  # 0 where one side does not vary
