"""How targets and losses are scaled, so that one grid of rates fits all sizes."""

import torch
from torch import Tensor

from linalg.checks import check, check_choice

NORMALIZE = ("spectral", "none")
REDUCTIONS = ("sum", "mean", "relative")


def spectrally_normalized(matrix: Tensor, normalize: str) -> Tensor:
    """(m, n) over its largest singular value where `normalize` is `spectral`; zero, and what is not finite, stays."""
    check_choice("normalize", normalize, NORMALIZE)
    if normalize == "none" or not matrix.isfinite().all():
        return matrix
    norm = torch.linalg.matrix_norm(matrix, 2)
    return matrix / norm if norm > 0 else matrix


def reduction_weight(reduction: str, entries: int, energy: Tensor) -> Tensor:
    """() c in loss = c/2 Σ residual²: `sum` 1, `mean` 2 / entries (the mean square), `relative` 2 / energy (relative to zero).

    Args:
        entries: how many residuals are summed.
        energy: () the sum at the start, of squared targets.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check(reduction != "relative" or bool(energy > 0), "reduction", reduction, "sum or mean for a target of zero")
    one = torch.ones((), dtype=torch.float64)
    return {"sum": one, "mean": one * 2 / entries, "relative": 2 / energy.double()}[reduction]
