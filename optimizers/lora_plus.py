"""LoRA+: AdamW with a higher learning rate for B than for A."""

from dataclasses import dataclass
from typing import ClassVar

from linalg.checks import check_number
from optimizers.adamw import AdamW


@dataclass(frozen=True)
class LoRAPlus(AdamW):
    """AdamW with the rate lr for A and ratio · lr for B; the weight decay of each goes with its rate.

    Args:
        ratio: λ = η_B / η_A. The paper advises about 2⁴.
        betas, eps, weight_decay: see `AdamW`; PEFT's `create_loraplus_optimizer` decays nothing unless asked to.

    Tensors beside the two factors have A's rate.
    """

    reference: ClassVar[str] = "Hayou et al. 2024, arXiv 2402.12354"
    memory: ClassVar[str] = "2 * r * (m + n)"
    span: ClassVar[tuple[float, float]] = (1e-5, 1e-1)

    ratio: float = 16.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ratio", self.ratio, above=0)

    def supports(self, parameterization):
        if parameterization.pair == "stored":
            return None
        return "it has a learning rate for each of two factors, both of which train"

    def init(self, params, rates=None, scale=1.0):
        rates = dict(rates or {})
        if "left" in params:
            rates["left"] = self.ratio * rates.get("left", 1.0)
        return super().init(params, rates, scale)
