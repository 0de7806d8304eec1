"""GeoLoRA: the rank of U S Vᵀ doubles by the gradient's directions, S is trained in them, and an SVD cuts the rank again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linalg import InputError
from linalg.checks import check_choice, check_integer, check_number
from optimizers._manifold import Factors, TangentRule, cut, ranks, retract, tangent_step
from optimizers._optimizer import per_lane
from optimizers._state import State
from optimizers.adam import Adam
from optimizers.sgd import SGD

CORE_RULES = {"sgd": SGD(), "adam": Adam()}


@dataclass(frozen=True)
class GeoLoRA(TangentRule):
    """U S Vᵀ ← Û Ŝ V̂ᵀ = W - lr P(W) G, P onto the tangent space; steps on Ŝ; SVD, cut where ‖σ_{>r}‖ < tolerance ‖σ‖.

    Args:
        tolerance: τ, the share of ‖Ŝ‖_F that a truncation may drop; 0 keeps all that there is room for.
        budget: how many singular values the layers of a stack keep together, the largest of all, in place of τ; None for τ.
        min_rank: what every layer keeps; 2 in the authors' code, which so never finds a target of rank 1.
        coefficient_steps: c, steps on Ŝ alone between an augmentation and its truncation. The tangent space lacks G's normal
            part, so that without them new singular values are of second order in lr, and a run below the true rank may stay.
        core_rule: of those steps, `sgd` or `adam`; AdamW in the authors' code.
        moments_at_augmentation: Adam's moments in the new basis: `rotate`, M ← A M B with the overlaps A and B of the bases and
            their squares for the second moment, which may not turn negative; or `reset`, which leaves Adam poor steps.

    The rank of `svd` is the room: where it has none for all new directions, Û Ŝ V̂ᵀ is cut to it by its SVD. The authors' code
    keeps the first columns of the QR instead, divides by a stale S to get G V, lets weight decay shrink the bases, truncates a
    layer once for every layer, and leaves Adam's moments in the old basis; its Adam moves S at the rate of the basis step.
    """

    reference: ClassVar[str] = "Schotthöfer et al. 2024, arXiv 2410.18720"
    memory: ClassVar[str] = "2 * r**2 if core_rule == 'adam' and coefficient_steps else 0"
    span: ClassVar[tuple[float, float]] = (1e-2, 2.0)

    tolerance: float = 0.1
    budget: int | None = None
    min_rank: int = 1
    coefficient_steps: int = 10
    core_rule: str = "sgd"
    moments_at_augmentation: str = "rotate"

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, least=0, most=1)
        check_integer("min_rank", self.min_rank)
        if self.budget is not None:
            check_integer("budget", self.budget)
        check_integer("coefficient_steps", self.coefficient_steps, least=0)
        check_choice("core_rule", self.core_rule, tuple(CORE_RULES))
        check_choice("moments_at_augmentation", self.moments_at_augmentation, ("reset", "rotate"))

    def init(self, params, rates=None, scale=1.0):
        if params["left"].ndim > 4:  # (seeds, rates, layers, m, R)
            self._check_budget(params["left"].shape[2])
        moments = CORE_RULES[self.core_rule].moments if self.coefficient_steps else ()
        kept = {moment: torch.zeros_like(params["core"]) for moment in moments}
        return State({name: dict(kept) if name == "core" else {} for name in params}, rates, scale)

    def moves_bases(self, step: int) -> bool:
        return step % (self.coefficient_steps + 1) == 0

    @torch.no_grad()
    def update(self, params, grads, state, lr, step):
        self.update_together([(params, grads, state, lr, step)])

    @torch.no_grad()
    def update_together(self, runs):
        retracted = [(run, found) for run in runs if (found := self.move_or_retract(*run)) is not None]
        if not retracted:
            return
        spectra = [(values, most, stack) for _, ((_, values, _), most, stack) in retracted]
        kept = [self.kept(*each) for each in spectra] if self.budget is None else self.pooled(spectra)
        for ((params, _, state, _, _), ((left, values, right), _, _)), rank in zip(retracted, kept, strict=True):
            self.replace(params, cut(left, torch.diag_embed(values), right, rank, params["left"].shape[-1]), state)

    def move_or_retract(self, params, grads, state, lr, step) -> tuple[Factors, Tensor, bool] | None:
        """Take a step; where a truncation is due, its singular value decomposition, how many values there are, and whether the
        last dimension before the matrices is a stack's."""
        now = step if isinstance(step, int) else step.step
        phase = now % (self.coefficient_steps + 1)
        left, core = params["left"], params["core"]
        factors = left, core, params["right"]
        room, rate, most = left.shape[-1], per_lane(lr, core), ranks(left)
        if phase:
            CORE_RULES[self.core_rule].step_tensor(core, grads["core"], state, "core", rate, now)
        else:
            factors = tangent_step(factors, grads["left"], grads["right"], rate)
            most = (2 * most).clamp(max=min(room, *factors[1].shape[-2:]))
        if phase == self.coefficient_steps:
            return retract(factors), most, left.ndim - (lr.ndim if isinstance(lr, Tensor) else 0) > 2
        if phase == 0:
            if self.moments_at_augmentation == "reset" and state["core"]:
                state.reset("core")
            self.replace(params, self.within(factors, ranks(left), most, room), state)
        return None

    def within(self, factors: Factors, rank: Tensor, most: Tensor, room: int) -> Factors:
        """The augmented factors as they are where there is room for them, else the best that there is room for."""
        whole = cut(*factors, most, room)
        fits = (2 * rank <= room)[..., None, None]
        if fits.all():
            return whole
        turned_left, values, turned_right = retract(factors)
        best = cut(turned_left, torch.diag_embed(values), turned_right, most, room)
        return whole[0].where(fits, best[0]), whole[1].where(fits, best[1]), whole[2].where(fits, best[2])

    def kept(self, values: Tensor, most: Tensor, stack: bool) -> Tensor:
        """(...,) how many of the singular values (..., k) stay, of at most `most` (...,); a stack's layers share a budget."""
        if self.budget is not None:
            return self.pooled([(values, most, stack)])[0]
        tails = values.square().flip(-1).cumsum(-1).flip(-1).sqrt()
        count = (tails >= self.tolerance * tails[..., :1]).sum(-1)
        return torch.minimum(count.clamp(min=self.min_rank), most)

    def pooled(self, layers: Sequence[tuple[Tensor, Tensor, bool]]) -> list[Tensor]:
        """`kept` for layers, or stacks, that share the budget."""
        self._check_budget(sum(values.shape[-2] if stack else 1 for values, _, stack in layers))
        pools, usable = [], []
        for values, most, stack in layers:
            index = torch.arange(values.shape[-1], device=values.device)
            usable.append(index < most[..., None])
            ranked = values.masked_fill(index < self.min_rank, torch.inf).where(usable[-1], -1.0)
            pools.append(ranked.flatten(-2) if stack else ranked)
        pool = torch.cat(pools, -1)
        best = pool.argsort(dim=-1, descending=True, stable=True)[..., : self.budget]
        chosen = torch.zeros_like(pool, dtype=torch.bool).scatter(-1, best, True).split([own.shape[-1] for own in pools], -1)
        return [(own.reshape(mask.shape) & mask).sum(-1) for own, mask in zip(chosen, usable, strict=True)]

    def _check_budget(self, layers: int) -> None:
        if self.budget is not None and self.budget < layers * self.min_rank:
            raise InputError(f"budget={self.budget}: must be at least {layers * self.min_rank}, min_rank for each layer")

    def replace(self, params: dict[str, Tensor], new: Factors, state: State) -> None:
        """Put new factors in the place of the old, and what Adam keeps into their bases."""
        if state["core"] and self.moments_at_augmentation == "rotate":
            before, behind = new[0].mT @ params["left"], params["right"] @ new[2].mT
            first, second = state["core"]["exp_avg"], state["core"]["exp_avg_sq"]
            first.copy_(before @ first @ behind)
            second.copy_(before.square() @ second @ behind.square())
        for name, tensor in zip(("left", "core", "right"), new, strict=True):
            params[name].copy_(tensor)
