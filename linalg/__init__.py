"""Ground floor: chains of factors, their spectra, seeded random matrices, and the checks on user input."""

from linalg.chain_rule import ChainRule
from linalg.checks import InputError
from linalg.factored_matrix import FactoredMatrix
from linalg.program import Program
from linalg.random import gaussian, generator, orthogonal, uniform, with_spectrum
from linalg.spectra import condition, decomposable, effective_rank, numerical_rank, polar_factor, stable_rank, svdvals

__all__ = [
    "ChainRule",
    "FactoredMatrix",
    "InputError",
    "Program",
    "condition",
    "decomposable",
    "effective_rank",
    "gaussian",
    "generator",
    "numerical_rank",
    "orthogonal",
    "polar_factor",
    "stable_rank",
    "svdvals",
    "uniform",
    "with_spectrum",
]
