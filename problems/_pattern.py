"""Products with a matrix of which only some entries count."""

import warnings

import torch
from torch import Tensor

warnings.filterwarnings(
    "ignore", message="Sparse CSR tensor support is in beta"
)  # said once a process; what is used here is tested


class Pattern:
    """The observed entries of all lanes as one block-diagonal sparse matrix: sampled products and products in one call each."""

    def __init__(self, observed: Tensor, lead: torch.Size, rows: int, columns: int) -> None:
        self.lead = lead
        flat = observed.expand(*lead, -1).reshape(-1, observed.shape[-1])
        lane = torch.arange(len(flat), device=flat.device)[:, None]
        row, column = (lane * rows + flat // columns).view(-1), (lane * columns + flat % columns).view(-1)
        self.size = (len(flat) * rows, len(flat) * columns)
        self.by_row = (_pointers(row, self.size[0]), column)
        self.order = torch.argsort(column, stable=True)
        self.by_column = (_pointers(column, self.size[1]), row[self.order])

    def sample(self, left: Tensor, right: Tensor) -> Tensor:
        """(nnz,) entries of left (M, r) @ right (N, r).T in the pattern."""
        blank = torch.sparse_csr_tensor(*self.by_row, left.new_zeros(len(self.order)), self.size, check_invariants=False)
        return torch.sparse.sampled_addmm(blank, left, right.T, beta=0.0).values()

    def multiply(self, values: Tensor, right: Tensor) -> Tensor:
        """(M, r): the sparse matrix with these values @ right (N, r)."""
        return torch.sparse_csr_tensor(*self.by_row, values, self.size, check_invariants=False) @ right

    def multiply_transposed(self, values: Tensor, left: Tensor) -> Tensor:
        """(N, r): its transpose @ left (M, r)."""
        size = (self.size[1], self.size[0])
        return torch.sparse_csr_tensor(*self.by_column, values[self.order], size, check_invariants=False) @ left


def _pointers(index: Tensor, size: int) -> Tensor:
    """(size + 1,) compressed pointers of sorted or unsorted indices."""
    return torch.cat([index.new_zeros(1), torch.bincount(index, minlength=size).cumsum(0)])
