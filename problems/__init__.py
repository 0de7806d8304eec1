"""One file a family of objectives, each drawn from a seed.

Every module here without a leading underscore holds one frozen dataclass and is found by walking the folder.
"""

from problems._completion import Completion
from problems._least_squares import LeastSquares
from problems._problem import Instance, Problem
from problems.deep_matrix_completion import DeepMatrixCompletion
from problems.gene_expression import GeneExpression
from problems.hilbert import Hilbert
from problems.ill_conditioned import IllConditioned
from problems.inpainting import Inpainting
from problems.lecture_ratings import LectureRatings
from problems.linear_regression import LinearRegression
from problems.matrix_completion import MatrixCompletion
from problems.matrix_factorization import MatrixFactorization
from problems.matrix_file import MatrixFile
from problems.movielens import MovieLens
from problems.stack import Stack

__all__ = [
    "Completion",
    "DeepMatrixCompletion",
    "GeneExpression",
    "Hilbert",
    "IllConditioned",
    "Inpainting",
    "Instance",
    "LeastSquares",
    "LectureRatings",
    "LinearRegression",
    "MatrixCompletion",
    "MatrixFactorization",
    "MatrixFile",
    "MovieLens",
    "Problem",
    "Stack",
]
