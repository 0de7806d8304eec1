"""XGBLoRA: gradient boosting with rank-1 pairs, each fitted to what the merged ones before it have left."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check_integer
from parameterizations._merging import Merging
from parameterizations._step import Step


@dataclass(frozen=True)
class XGBLoRA(Merging):
    """Σ_k b_k a_k: a booster trains for `interval` steps, joins the base, and a fresh one with fresh moments follows.

    Args:
        rank: of a booster.
        interval: κ, steps a booster; 0 keeps one for ever. Too few leave boosters unfitted: fitted to optimality on
            ½‖W - M‖², K boosters of rank 1 leave the tail of M's spectrum, Σ_{i>K} σ_i² / 2.
        alpha: None for the rank, so that the scale is 1: boosters are merged with weight 1.
        layers_per_round: L_s, how many of a stack's layers get a booster in a round, drawn anew each time; the others stay.

    The paper has no public code: its rules for b, a and the layers are those of a survey; its norm penalty on the booster,
    whose weight could not be established, is left out.
    """

    reference: ClassVar[str] = "Zhang et al. 2024, arXiv 2410.19694"
    size: ClassVar[str] = "r * (m + n)"

    rank: int = 1
    interval: int = 50
    layers_per_round: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("layers_per_round", self.layers_per_round)

    def direct(self, params, grads, at):
        if grads["left"].ndim < 5:  # (seeds, rates, m, r): one weight alone
            return
        if "chosen" not in at.memory:
            at.memory["chosen"] = self.choose(grads["left"].shape[2], at).to(grads["left"].device)
        for grad in grads.values():
            grad.masked_fill_(~at.memory["chosen"], 0)

    def choose(self, layers: int, at: Step) -> Tensor:
        """(seeds, 1, L, 1, 1) the layers of the next round."""
        chosen = torch.zeros(len(at.generators), layers, dtype=torch.bool)
        for row, generator in zip(chosen, at.generators, strict=True):
            row[torch.randperm(layers, generator=generator)[: self.layers_per_round]] = True
        return chosen[:, None, :, None, None]

    def restart(self, params, state, at):
        self.draw_again(params, at)
        at.memory.pop("chosen", None)
        for name in ("left", "right"):
            state.reset(name)
