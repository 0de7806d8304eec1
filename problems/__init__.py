"""One file a family of objectives, each drawn from a seed.

Every module here without a leading underscore holds one frozen dataclass and is found by walking the folder.
"""

from problems._completion import Completion
from problems._least_squares import LeastSquares
from problems._problem import Instance, Problem
from problems.deep_matrix_completion import DeepMatrixCompletion
from problems.hilbert import Hilbert
from problems.ill_conditioned import IllConditioned
from problems.linear_regression import LinearRegression
from problems.matrix_completion import MatrixCompletion
from problems.matrix_factorization import MatrixFactorization
from problems.matrix_file import MatrixFile

__all__ = [
    "Completion",
    "DeepMatrixCompletion",
    "Hilbert",
    "IllConditioned",
    "Instance",
    "LeastSquares",
    "LinearRegression",
    "MatrixCompletion",
    "MatrixFactorization",
    "MatrixFile",
    "Problem",
]
