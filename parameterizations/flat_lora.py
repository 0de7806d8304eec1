"""Flat-LoRA: LoRA trained under random perturbations of the merged weight, towards flat minima."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from linalg import FactoredMatrix, generator
from linalg.checks import check_number
from parameterizations._step import Step
from parameterizations.lora import LoRA


@dataclass(frozen=True)
class FlatLoRA(LoRA):
    """B A trained on E L(W + ε), ε_ij ~ N(0, σ_i²), σ_i = ½(1 - cos πt/T) ρ/√n ‖W_i‖₂ with W = base + B A and its row W_i.

    Args:
        rho: ρ. The rest is LoRA's.

    Each step t has its own ε, which depends on the seed and t alone; measures and exports see W. σ is a number: no gradient
    goes through it. Where nobody knows the run's length T (`Step.steps`) the perturbation has its full strength at once.
    The weight that trains is no product of two factors, so rules that treat a pair together do not go with it. The authors'
    code adds ε to the weight and subtracts it again, which drifts in low precision, and reseeds the global generator from
    the clock; this draws from generators of its own.
    """

    reference: ClassVar[str] = "Li et al. 2024, arXiv 2409.14396"
    size: ClassVar[str] = "r * (m + n)"
    pair: ClassVar[str] = ""

    rho: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rho", self.rho, least=0)

    def weight(self, params, at=None):
        clean = super().weight(params)
        if at is None:
            return clean
        return FactoredMatrix((clean.update() + self.perturbation(clean.dense().detach(), at),), params.get("base"))

    def perturbation(self, weight: Tensor, at: Step) -> Tensor:
        """ε of a step for W (seeds, rates, ..., m, n), or (m, n); the rates of a seed share what is drawn."""
        strength = 1.0 if at.steps is None else 0.5 * (1 - math.cos(math.pi * at.step / at.steps))
        own = [generator(source.initial_seed(), f"perturbation {at.step}") for source in at.generators]
        sigma = strength * self.rho / math.sqrt(weight.shape[-1]) * weight.norm(dim=-1, keepdim=True)
        return sigma * Step(generators=own).gaussian_like(weight)
