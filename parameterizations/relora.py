"""ReLoRA: LoRA that merges and starts again, so that the rank of the sum grows with every restart."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from linalg.checks import check_choice, check_integer, check_number
from parameterizations._merging import Merging


@dataclass(frozen=True)
class ReLoRA(Merging):
    """Σ_k B_k A_k: after every `interval` steps B A joins the base, B = 0, A is drawn anew and the moments are pruned.

    Args:
        rank: r.
        interval: steps between restarts; 0 for none. The paper's 5000 of 20000 is for long training.
        alpha: None for r, so that the scale is 1.
        momentum: what becomes of the optimizer's moments of both factors. `prune`: those entries of each matrix stay where
            the first moment is largest, the rest is zero; moments that are not entry by entry start from zero. `reset`: all do.
        pruned: which share of the entries `prune` sets to zero.
        warmup: steps over which the learning rate climbs back linearly from zero after a restart; 0 for none.

    The warm restart takes back a part of the step that the optimizer made: exact for rules whose step is proportional to the
    rate. An entry's moments stay or go together: pruned each by its own size, as in the authors' code, a first moment that
    stays is divided by a second that went, and as A has no gradient while B = 0, by eps. Their reset prunes 99.9 % at random
    instead. The paper begins with training at full rank, which is a run of its own and not here.
    """

    reference: ClassVar[str] = "Lialin et al. 2023, arXiv 2307.05695"
    size: ClassVar[str] = "r * (m + n)"

    momentum: str = "prune"
    pruned: float = 0.99
    warmup: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("momentum", self.momentum, ("prune", "reset"))
        check_number("pruned", self.pruned, least=0, most=1)
        check_integer("warmup", self.warmup, least=0)

    def regained(self, step: int) -> float:
        """The factor on the learning rate at a step."""
        if not self.merges or step < self.interval or not self.warmup:
            return 1.0
        return min(1.0, step % self.interval / self.warmup)

    @property
    def directs(self):
        return self.merges and self.warmup > 0

    def direct(self, params, grads, at):
        if self.regained(at.step) < 1:
            at.memory |= {name: params[name].clone() for name in ("left", "right")}

    def after_step(self, params, grads, state, at):
        factor = self.regained(at.step)
        if factor < 1:
            for name in ("left", "right"):
                params[name].copy_(at.memory[name].lerp(params[name], factor))
        super().after_step(params, grads, state, at)

    def restart(self, params, state, at):
        self.draw_again(params, at)
        for name in ("left", "right"):
            moments = list(state[name].values())
            if self.momentum == "reset" or not self.carries(state):
                state.reset(name)
            elif moments:
                small = ~largest(moments[0], self.pruned)
                for moment in moments:
                    moment.masked_fill_(small, 0)


def largest(moment: Tensor, pruned: float) -> Tensor:
    """Which entries of matrices (..., p, q) lie above their `pruned` quantile in magnitude."""
    magnitude = moment.abs()
    return magnitude > magnitude.flatten(-2).quantile(pruned, -1)[..., None, None]
