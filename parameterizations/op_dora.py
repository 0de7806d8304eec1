"""OP-DoRA: the generator of OP-LoRA with one more head, which predicts how far the length of each row moves."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from linalg import FactoredMatrix
from linalg.checks import check_choice
from parameterizations._dora import row_norms, weight_decomposed
from parameterizations._generator import affine, hidden_units
from parameterizations._parameterization import Parameterization
from parameterizations.op_lora import OPLoRA


@dataclass(frozen=True)
class OPDoRA(OPLoRA):
    """(‖W0‖ + δ) (W0 + s B A) / ‖W0 + s B A‖ row by row; one MLP predicts A, B and δ.

    Args:
        rank, hidden, embedding, alpha, embedding_scale, head, generators: see `op_lora`; s = alpha / r.
        detach_norm: whether ‖W0 + s B A‖ counts as a constant in the gradients, as in DoRA and in the authors' code.

    ‖W0‖, the lengths of the pretrained rows, stays as it is; the head of δ (m,) starts at zero, weight and bias, and so does
    the update. The update is dense: it reaches every rank, and no LoRA pair smaller than the weight holds it.
    """

    size: ClassVar[str] = (
        "(3 if generators == 'separate' else 1) * (embedding + hidden * (embedding + 1)) "
        "+ (hidden + 1) * (r * (m + n) + m) + (head == 'rezero')"
    )
    pair: ClassVar[str] = ""

    detach_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("detach_norm", self.detach_norm, (True, False))

    def initial(self, shape, generator, base, gradient):
        return super().initial(shape, generator, base, gradient) | {
            "magnitude_head_weight": torch.zeros(shape[0], self.hidden, dtype=torch.float64),
            "magnitude_head_bias": torch.zeros(shape[0], dtype=torch.float64),
        }

    @property
    def _trunks(self):
        return super()._trunks | {"magnitude": "" if self.generators == "shared" else "magnitude_"}

    def weight(self, params, at=None):
        left, right = super().factors(params)
        base, units = params["base"], hidden_units(params, self._trunks["magnitude"])
        moved = affine(params["magnitude_head_weight"], units, params["magnitude_head_bias"])[..., None]
        detach = self.detach_norm and at is not None  # only while it is trained
        update = weight_decomposed(base, super().scaling * left @ right, row_norms(base) + moved, detach=detach)
        return FactoredMatrix((update,), base)

    def factors(self, params):
        return self.weight(params).factors

    def record(self, program, params, grads, at):
        return Parameterization.record(self, program, params, grads, at)

    @property
    def scaling(self) -> float:
        return 1.0

    @property
    def needs(self):
        return ("base",)

    def reach(self, shape):
        return min(shape)
