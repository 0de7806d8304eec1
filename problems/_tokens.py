"""What the tasks that write have in common: the loss of tokens, of which padding is none."""

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from problems._language import on
from problems._task import Batch, Task, by_lane


class Writing(Task):
    """Texts in three parts. A subclass gives `chunks`, `logits` and `written`.

    Args:
        measured: training texts that the exact loss is taken over.
    """

    measured: ClassVar[int]
    parts: dict[str, Batch]

    def chunks(self, part: Batch) -> Iterable[Batch]:
        """The part in pieces that a forward pass takes, each text once."""
        raise NotImplementedError

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(N, T, tokens) of what is to be written."""
        raise NotImplementedError

    def written(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, T) the tokens to be written, and which of them are text."""
        raise NotImplementedError

    def of_tokens(self, model: nn.Module, batch: Batch) -> Tensor:
        """(N, T) the loss of every token; of padding, too."""
        logits, tokens = self.logits(model, batch), self.written(batch)[0]
        flat = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        return flat.view(tokens.shape)

    def losses(self, model, batch, lanes=1):
        return by_lane(self.of_tokens(model, batch), lanes, self.written(batch)[1])

    def measure(self, model):
        some = {name: tensor[: self.measured] for name, tensor in self.parts["train"].items()}
        return {"loss": self.mean_loss(model, some), "validation_loss": self.mean_loss(model, self.parts["validation"])}

    def mean_loss(self, model: nn.Module, part: Batch) -> float:
        """The mean over a part's tokens."""
        total, count = 0.0, 0
        for chunk in self.chunks(part):
            chunk = on(chunk, model)
            mask = self.written(chunk)[1]
            total += float((self.of_tokens(model, chunk) * mask).double().sum())
            count += int(mask.sum())
        return total / max(count, 1)
