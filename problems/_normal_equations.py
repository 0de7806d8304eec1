"""The gradient of a squared loss by a weight's parts, from products that never form the residual."""

import torch
from torch import Tensor

from linalg import Program

Parts = tuple[Tensor, ...]


def record_normal_equations(
    program: Program, parts: Parts, cotangents: tuple[Tensor | None, ...], cross: Tensor, gram: Tensor | None
) -> None:
    """Record the gradient of ½ ⟨W, W Σ⟩ - ⟨C, W⟩ by W itself, or by the pair (L, R) of W = L R.

    dL/dL = L (R Σ Rᵀ) - C Rᵀ and dL/dR = (Lᵀ L) R Σ - Lᵀ C; what is fixed, and shared by lanes, is computed once.

    Args:
        cotangents: where a part's gradient is to be left; None where it is not wanted, and that part keeps its content.
        cross: C (..., m, n).
        gram: Σ (..., n, n), None for the identity.
    """
    if len(parts) == 1:
        through = parts[0] if gram is None else program.matmul(parts[0], gram)
        program.do(torch.sub, through, cross, out=cotangents[0])
    elif cotangents[1] is None:
        record_left(program, parts, cotangents[0], cross, gram)
    elif cotangents[0] is None:
        record_right(program, parts, cotangents[1], cross, gram)
    else:
        record_both(program, parts, cotangents, cross, gram)


def record_both(program: Program, parts: Parts, cotangents: tuple[Tensor | None, ...], cross: Tensor, gram: Tensor | None) -> None:
    """The products with C come first: they are the large ones, and fill the places that the others are added to."""
    left, right = parts
    through = right if gram is None else program.matmul(right, gram)
    grad_left, grad_right = cotangents
    program.matmul(in_columns(cross) if few_lanes(right) else cross, right.mT, grad_left)
    program.matmul(left, program.matmul(right, through.mT), grad_left, beta=-1)
    program.matmul(left.mT, cross, grad_right)
    program.matmul(program.matmul(left.mT, left), through, grad_right, beta=-1)


def in_columns(cross: Tensor) -> Tensor:
    """C column by column: then products with C and with its transpose both read along memory."""
    return cross.mT.contiguous().mT if cross.shape[-3:-2] in ((), (1,)) else cross


def record_left(program: Program, parts: Parts, grad_left: Tensor | None, cross: Tensor, gram: Tensor | None) -> None:
    """With a fixed right factor all that is large is computed here, once."""
    left, right = parts
    if grad_left is None:
        return
    through = right if gram is None else right @ gram
    fixed = torch.empty_like(grad_left)  # in grad_left's layout
    fixed.copy_(shared_matmul(right, cross.mT).mT)
    program.memory.append(fixed)
    program.do(grad_left.copy_, fixed)
    program.matmul(left, right @ through.mT, grad_left, beta=-1)


def record_right(program: Program, parts: Parts, grad_right: Tensor, cross: Tensor, gram: Tensor | None) -> None:
    """The same with a fixed left factor."""
    left, right = parts
    fixed = torch.empty_like(grad_right)
    fixed.copy_(shared_matmul(left.mT, cross))
    program.memory.append(fixed)
    program.do(grad_right.copy_, fixed)
    through = right if gram is None else program.matmul(right, gram)
    program.matmul(left.mT @ left, through, grad_right, beta=-1)


def few_lanes(right: Tensor) -> bool:
    """Whether one tall product with C is so short that the order in which it reads C counts for more than the room of a copy."""
    return right.ndim < 3 or right.shape[-3] < 16


def shared_matmul(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows (..., S, K, r, n) @ matrix (S, 1, n, m): where the K lanes of a seed share the matrix, one GEMM a seed."""
    if matrix.ndim < 3 or matrix.shape[-3] != 1 or rows.ndim < 3 or rows.shape[-3] == 1:
        return rows @ matrix
    merged = rows.reshape(*rows.shape[:-3], rows.shape[-3] * rows.shape[-2], rows.shape[-1])
    return (merged @ matrix[..., 0, :, :]).reshape(*rows.shape[:-1], matrix.shape[-1])
