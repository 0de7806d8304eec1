"""Deep matrix completion: the setting of Yaras et al., where depth finds very low rank from few entries."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from problems.matrix_completion import MatrixCompletion


@dataclass(frozen=True)
class DeepMatrixCompletion(MatrixCompletion):
    """Square, very low rank, 30 % observed, float64.

    The paper's figures use 1000 x 1000 of rank 5 at 20 % and 100 x 100 of rank 10 at 30 %, and half the mean over all
    entries as the loss: that is this problem's with the learning rate divided by m n.
    """

    reference: ClassVar[str] = "Yaras et al. 2024, arXiv 2406.04112"
    dtype: ClassVar[torch.dtype] = torch.float64

    shape: tuple[int, int] = (80, 80)
    rank: int = 3
    observed: float = 0.3
