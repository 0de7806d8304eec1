"""Approximate a matrix of one's own, read from a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.io
import scipy.sparse
import torch

from linalg import InputError
from linalg.checks import check
from problems._fingerprints import of_contents
from problems._least_squares import approximation
from problems._problem import Problem


@dataclass(frozen=True)
class MatrixFile(Problem):
    """½ ‖W - M‖²_F for the matrix in a `.npy` or MatrixMarket `.mtx` file.

    All seeds share M and differ in how the factors start.

    Args:
        path: of the file. It is read without unpickling, so that an untrusted file runs no code.
        normalize, reduction: as in `matrix_factorization`.
    """

    reference: ClassVar[str] = "the file's own"
    provides: ClassVar[tuple[str, ...]] = ("quadratic", "target")
    dtype: ClassVar[torch.dtype] = torch.float64

    path: str = "matrix.npy"
    normalize: str = "spectral"
    reduction: str = "sum"

    def check(self):
        ok = isinstance(self.path, (str, Path)) and Path(self.path).suffix in (".npy", ".mtx")
        check(ok, "path", str(self.path), "a .npy or a MatrixMarket .mtx file")

    def instance(self, seed):
        try:
            if Path(self.path).suffix == ".npy":
                matrix = np.load(self.path, allow_pickle=False)
            else:
                matrix = scipy.io.mmread(self.path)
                matrix = matrix.toarray() if scipy.sparse.issparse(matrix) else matrix
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"problem.path={str(self.path)!r}: cannot be read as a matrix ({error})") from error
        real = np.ndim(matrix) == 2 and matrix.size > 0 and np.issubdtype(matrix.dtype, np.number) and not np.iscomplexobj(matrix)
        if not real:
            raise InputError(
                f"problem.path={str(self.path)!r}: must hold a real matrix, but holds {matrix.dtype} of shape {np.shape(matrix)}"
            )
        if not np.isfinite(matrix).all():
            raise InputError(f"problem.path={str(self.path)!r}: must hold finite numbers only, but holds NaN or infinity")
        return approximation(torch.tensor(matrix, dtype=torch.float64), self.normalize, self.reduction)

    def fingerprint(self):
        try:
            return of_contents(Path(self.path))
        except OSError as error:
            raise InputError(f"problem.path={str(self.path)!r}: cannot be read ({error.strerror})") from error
