"""AdamW: Adam with the weight decay taken off the weight itself."""

from dataclasses import dataclass
from typing import ClassVar

from optimizers._optimizer import descend
from optimizers.adam import Adam


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam, but w ← (1 - lr weight_decay) w first."""

    reference: ClassVar[str] = "Loshchilov and Hutter 2019, arXiv 1711.05101"
    memory: ClassVar[str] = "2 * m * n"

    weight_decay: float = 0.01

    def _decay(self, param, grad, lr):
        descend(param, param, lr * self.weight_decay)
        return grad
