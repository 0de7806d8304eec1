"""Approximate a table of gene expression, which is of low rank as real data are: nearly, with a tail."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check_choice
from problems._least_squares import approximation
from problems._problem import Problem
from problems._real_data import check_cut, data_frame, digest, sides

SOURCES = {"tissue": ("dslabs", "tissue_gene_expression"), "nci60": ("ISLR", "NCI60")}


@dataclass(frozen=True)
class GeneExpression(Problem):
    """½ ‖W - M‖²_F for samples by genes, every gene centred; the best of each rank is known (Eckart and Young 1936).

    All seeds share M and differ in how the factors start.

    Args:
        data: `tissue`, 189 samples of seven tissues by 500 genes; `nci60`, 64 cancer cell lines by 6830 genes.
        shape: (samples, genes): samples evenly spaced in the data's order, which sorts by tissue, then the genes that
            vary most over those samples, from the most varied; 0 on a side for all.
        normalize, reduction: as in `matrix_factorization`.
    """

    reference: ClassVar[str] = "Irizarry and Love 2016, in the R package dslabs; Ross et al. 2000, doi 10.1038/73432, in ISLR"
    provides: ClassVar[tuple[str, ...]] = ("quadratic", "target")

    data: str = "tissue"
    shape: tuple[int, int] = (64, 128)
    normalize: str = "spectral"
    reduction: str = "sum"

    def check(self):
        check_choice("data", self.data, SOURCES)
        check_cut("shape", self.shape)

    def instance(self, seed):
        return approximation(centred_cut(expression(self.data), self.shape), self.normalize, self.reduction)

    def fingerprint(self):
        return digest([expression(self.data)])


def centred_cut(table: Tensor, shape: tuple[int, int]) -> Tensor:
    """(m, n) of a table (M, N): evenly spaced rows, the columns that vary most over them, each less its mean."""
    m, n = sides(shape, (table.shape[0], table.shape[1]))
    rows = table[torch.arange(m) * len(table) // m]
    centred = rows - rows.mean(0)
    return centred[:, centred.square().sum(0).argsort(descending=True, stable=True)[:n]]


@cache
def expression(data: str) -> Tensor:
    """(samples, genes) float64."""
    frame = data_frame("gene_expression", SOURCES[data])
    return torch.tensor(frame.drop(columns="rownames").select_dtypes("number").to_numpy(dtype=float))
