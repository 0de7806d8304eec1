"""AdaLoRA: P Λ Q, whose directions lose their place where they matter least, until a budget is met."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg.checks import check, check_choice, check_integer, check_number, two_decays
from linalg.random import gaussian
from parameterizations._diagonal import Diagonal
from parameterizations._step import Params, Step


@dataclass(frozen=True)
class AdaLoRA(Diagonal):
    """P Λ Q, Λ = diag(λ) from zero, + γ(‖PᵀP - I‖² + ‖QQᵀ - I‖²); λ of the least important triplets is set to zero.

    Args:
        rank: the budget: how many triplets a matrix keeps in the end, on average over a stack's layers, which share it.
        start: r, with how many each begins; None for 3/2 rank, as in the paper, at most the smaller side.
        orthogonality: γ.
        norm: `squared`, the paper's penalty, summed over layers; `unsquared`, that of the authors' code and of PEFT, the mean
            of the norms over all P and Q.
        betas: of the moving averages of sensitivity and of uncertainty.
        warmup: t_i, steps before the budget falls; below 1 as a fraction of the run. The paper's GLUE runs have about 0.1
        final: t_f, steps at the end with the budget met and the pattern kept; below 1 a fraction. About 0.5 in those runs.
        interval: Δ_T, steps between two prunings while the budget falls.

    For an entry w with gradient g, penalty included: I = |w g|, Ī ← β1 Ī + (1 - β1) I, Ū ← β2 Ū + (1 - β2)|I - Ī|, s = Ī Ū. A
    triplet scores s(λ_i) + mean_j s(P_ji) + mean_j s(Q_ij). After t steps ⌊b + (b_0 - b)(1 - (t - t_i)/(T - t_f - t_i))³⌋ of
    them are left. λ is masked only: it goes on training, and its triplet may come back until the pattern is kept. As in the
    authors' code w has moved when I is taken, so that a masked λ counts with the step it would have made. Ties, where their
    threshold removes all, are broken, so that the budget is met exactly. P and Q start with columns and rows of length 1 on
    average, not at N(0, 0.02²), which is 0.55 at their width 768; there is no alpha, λ being free. Where nobody knows how long
    a run is (`Step.steps`) nothing is pruned.
    """

    reference: ClassVar[str] = "Zhang et al. 2023, arXiv 2303.10512"
    size: ClassVar[str] = "(m + n + 1) * min(m, n, start or (3 * r + 1) // 2)"

    start: int | None = None
    orthogonality: float = 0.1
    norm: str = "squared"
    betas: tuple[float, float] = (0.85, 0.85)
    warmup: float = 0.1
    final: float = 0.5
    interval: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None:
            check_integer("start", self.start)
            check(self.start >= self.rank, "start", self.start, f"at least {self.rank}, the rank")
        check_choice("norm", self.norm, ("squared", "unsquared"))
        object.__setattr__(self, "betas", two_decays("betas", self.betas, corrected=False))
        for key in ("orthogonality", "warmup", "final"):
            check_number(key, getattr(self, key), least=0)
        both = self.warmup + self.final
        check(
            max(self.warmup, self.final) >= 1 or both <= 1, "final", self.final, f"at most {1 - self.warmup:g}, what warmup leaves"
        )
        check_integer("interval", self.interval)

    def initial(self, shape, generator, base, gradient):
        (m, n), r = shape, self.reach(shape)
        return {
            "left": gaussian(m, r, generator=generator) / math.sqrt(m),
            "diagonal": torch.zeros(r, dtype=torch.float64),
            "right": gaussian(r, n, generator=generator) / math.sqrt(n),
        }

    def reach(self, shape):
        return min(*shape, math.ceil(1.5 * self.rank) if self.start is None else self.start)

    @property
    def penalizes(self):
        return self.orthogonality > 0

    def penalty(self, params):
        left, right = params["left"], params["right"]
        eye = torch.eye(left.shape[-1], dtype=left.dtype, device=left.device)
        defects = left.mT @ left - eye, right @ right.mT - eye
        if self.norm == "squared":
            return self.orthogonality * sum(defect.square().sum((-2, -1)) for defect in defects)
        matrices = 2 * left.shape[2:-2].numel()  # (seeds, rates, layers, m, r)
        return self.orthogonality / matrices * sum(torch.linalg.matrix_norm(defect) for defect in defects)

    def after_step(self, params, grads, state, at):
        self.after_steps([(params, grads, state, at)])

    def after_steps(self, runs):
        at = runs[0][-1]
        if at.steps is None:
            return
        first, last = (round(x * at.steps) if x < 1 else round(x) for x in (self.warmup, self.final))
        last, now = at.steps - last, at.step + 1
        for params, grads, _, own in runs:
            if now < last or not own.memory:
                self.observe(params, grads, own)
        if now > first and (now >= last or now % self.interval == 0):
            share = max(0.0, 1 - (now - first) / max(last - first, 1))
            self.prune([(params["diagonal"], self.scores(own)) for params, _, _, own in runs], share, at)

    def observe(self, params: Params, grads: Params, at: Step) -> None:
        """Take the present sensitivities up into their moving averages."""
        for name in ("left", "diagonal", "right"):
            found = (params[name] * grads[name]).abs()
            mean = at.memory.setdefault(f"{name}_sensitivity", torch.zeros_like(found))
            mean.mul_(self.betas[0]).add_(found, alpha=1 - self.betas[0])
            uncertainty = at.memory.setdefault(f"{name}_uncertainty", torch.zeros_like(found))
            uncertainty.mul_(self.betas[1]).add_((found - mean).abs_(), alpha=1 - self.betas[1])

    def scores(self, at: Step) -> Tensor:
        """(..., r) the importance of each triplet."""
        left, inner, right = (
            at.memory[f"{name}_sensitivity"] * at.memory[f"{name}_uncertainty"] for name in ("left", "diagonal", "right")
        )
        return inner + left.mean(-2) + right.mean(-1)

    def prune(self, layers: Sequence[tuple[Tensor, Tensor]], share: float, at: Step) -> None:
        """Leave a lane the budget, and the cubed `share` of what it began with beyond that; its layers' triplets compete.

        Args:
            layers: Λ and the scores of its triplets, (..., r) or of a stack (..., L, r).
        """
        lanes = at.lr.ndim if isinstance(at.lr, Tensor) else 0
        scores = [scores.flatten(lanes) for _, scores in layers]
        pooled = torch.cat(scores, -1)
        budget = sum(
            own.shape[-1] // diagonal.shape[-1] * min(self.rank, diagonal.shape[-1])
            for own, (diagonal, _) in zip(scores, layers, strict=True)
        )
        kept = int(budget + (pooled.shape[-1] - budget) * share**3)
        masked = torch.ones_like(pooled, dtype=torch.bool).scatter_(-1, pooled.topk(kept).indices, False)
        for part, (diagonal, _) in zip(masked.split([own.shape[-1] for own in scores], -1), layers, strict=True):
            diagonal.masked_fill_(part.reshape(diagonal.shape), 0)
