"""One file a family of objectives, each drawn from a seed.

Every module here without a leading underscore holds one frozen dataclass and is found by walking the folder.
"""

from problems._completion import Completion
from problems._instance import Instance
from problems._least_squares import LeastSquares
from problems._problem import Problem
from problems._task import FineTuning, Task
from problems.causal_lm import CausalLM
from problems.continual import Continual
from problems.deep_matrix_completion import DeepMatrixCompletion
from problems.federated import Federated
from problems.few_shot_text import FewShotText
from problems.gene_expression import GeneExpression
from problems.hilbert import Hilbert
from problems.ill_conditioned import IllConditioned
from problems.image_classification import ImageClassification
from problems.image_style import ImageStyle
from problems.inpainting import Inpainting
from problems.lecture_ratings import LectureRatings
from problems.linear_regression import LinearRegression
from problems.matrix_completion import MatrixCompletion
from problems.matrix_factorization import MatrixFactorization
from problems.matrix_file import MatrixFile
from problems.matrix_sensing import MatrixSensing
from problems.movielens import MovieLens
from problems.phase_retrieval import PhaseRetrieval
from problems.robust_factorization import RobustFactorization
from problems.rotated_digits import RotatedDigits
from problems.stack import Stack
from problems.summarization import Summarization

__all__ = [
    "CausalLM",
    "Completion",
    "Continual",
    "DeepMatrixCompletion",
    "Federated",
    "FewShotText",
    "FineTuning",
    "GeneExpression",
    "Hilbert",
    "IllConditioned",
    "ImageClassification",
    "ImageStyle",
    "Inpainting",
    "Instance",
    "LeastSquares",
    "LectureRatings",
    "LinearRegression",
    "MatrixCompletion",
    "MatrixFactorization",
    "MatrixFile",
    "MatrixSensing",
    "MovieLens",
    "PhaseRetrieval",
    "Problem",
    "RobustFactorization",
    "RotatedDigits",
    "Stack",
    "Summarization",
    "Task",
]
