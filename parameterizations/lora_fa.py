"""LoRA-FA: LoRA with A frozen where it was drawn; only B trains."""

from dataclasses import dataclass
from typing import ClassVar

from linalg.checks import check_choice
from parameterizations._lora_schemes import RANDOM
from parameterizations.lora import LoRA


@dataclass(frozen=True)
class LoRAFA(LoRA):
    """B A, scaled by alpha / r, with A frozen at its draw and B started at zero.

    Args:
        rank, alpha, rslora: as in LoRA.
        init: A's law: `kaiming`, as PEFT has it; `gaussian`, as in the paper; `orthogonal`.

    The update's rows stay in the row space that A was drawn with: of a target it can fit the share that lies there, r / n of
    the energy on average.
    """

    reference: ClassVar[str] = "Zhang et al. 2023, arXiv 2308.03303"
    size: ClassVar[str] = "r * m"
    pair: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_choice("init", self.init, RANDOM)
        super().__post_init__()

    @property
    def frozen(self):
        return ("base", "right")
