"""RunLoRA: a LoRA layer's products in the order that costs least, forward and back (Cherniuk et al., arXiv 2312.03415).

The layer is y = x W + (x U) V with W (n, m) fixed, U = Aᵀ (n, r) and V = s Bᵀ (r, m), for x (b, n). All orders give the same
output and gradients, to rounding.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adapters._sites import Site, sites
from linalg import InputError
from linalg.checks import check_choice

Gradients = tuple[Tensor, Tensor, Tensor | None]


def forward1(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return torch.addmm(x @ w, x @ u, v)


def forward2(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return x @ torch.addmm(w, u, v)


def backward1(x: Tensor, w: Tensor, u: Tensor, v: Tensor, dy: Tensor, dx: bool = True) -> Gradients:
    z = dy @ v.mT
    return x.mT @ z, (x @ u).mT @ dy, torch.addmm(dy @ w.mT, z, u.mT) if dx else None


def backward2(x: Tensor, w: Tensor, u: Tensor, v: Tensor, dy: Tensor, dx: bool = True) -> Gradients:
    z = dy @ v.mT
    return x.mT @ z, (u.mT @ x.mT) @ dy, torch.addmm(dy @ w.mT, z, u.mT) if dx else None


def backward3(x: Tensor, w: Tensor, u: Tensor, v: Tensor, dy: Tensor, dx: bool = True) -> Gradients:
    z = x.mT @ dy
    return z @ v.mT, u.mT @ z, torch.addmm(dy @ w.mT, dy @ v.mT, u.mT) if dx else None


def backward4(x: Tensor, w: Tensor, u: Tensor, v: Tensor, dy: Tensor, dx: bool = True) -> Gradients:
    z = x.mT @ dy
    return z @ v.mT, u.mT @ z, dy @ torch.addmm(w, u, v).mT if dx else None


def backward5(x: Tensor, w: Tensor, u: Tensor, v: Tensor, dy: Tensor, dx: bool = True) -> Gradients:
    return x.mT @ (dy @ v.mT), (x @ u).mT @ dy, dy @ torch.addmm(w, u, v).mT if dx else None


FORWARD: Mapping[str, Callable[..., Tensor]] = {"forward1": forward1, "forward2": forward2}
BACKWARD: Mapping[str, Callable[..., Gradients]] = {
    "backward1": backward1,
    "backward2": backward2,
    "backward3": backward3,
    "backward4": backward4,
    "backward5": backward5,
}


def multiplications(name: str, b: int, n: int, m: int, r: int, dx: bool = True) -> int:
    """Multiplications and additions of an order, in pairs. Of a backward pass without dL/dx, what only that needs is left out."""
    weight, once, product = b * n * m, b * (n + m) * r, n * r * m
    costs = {
        "forward1": weight + once,
        "forward2": weight + product,
        "backward1": dx * (weight + b * n * r) + 2 * once,
        "backward2": dx * (weight + b * n * r) + 2 * once,
        "backward3": weight + 2 * product + dx * (weight + once),
        "backward4": weight + 2 * product + dx * (weight + product),
        "backward5": 2 * once + dx * (weight + product),
    }
    return costs[name]


class Ordered(torch.autograd.Function):
    """x W + (x U) V in given orders; x U is not kept for the way back."""

    @staticmethod
    def forward(ctx, x, w, u, v, forward, backward):
        ctx.save_for_backward(x, w, u, v)
        ctx.order = backward
        return forward(x, w, u, v)

    @staticmethod
    def backward(ctx, dy):
        du, dv, dx = ctx.order(*ctx.saved_tensors, dy, ctx.needs_input_grad[0])
        return dx, None, du, dv, None, None


class Orders:
    """The orders of one layer: chosen for every number of rows that it meets, once.

    Args:
        by: `flops`, the fewest multiplications, or `time`, the fastest of all on the first batch.
    """

    def __init__(self, site: Site, by: str) -> None:
        self.site, self.by = site, by
        self.chosen: dict[tuple[int, bool], tuple[str, str]] = {}

    def choose(self, x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> tuple[str, str]:
        key = len(x), x.requires_grad
        if key not in self.chosen:
            if self.by == "flops":
                b, n, m, r = len(x), *w.shape, u.shape[1]
                forward = min(FORWARD, key=lambda name: multiplications(name, b, n, m, r))
                backward = min(BACKWARD, key=lambda name: multiplications(name, b, n, m, r, x.requires_grad))
            else:
                tensors = [tensor.detach() for tensor in (x, w, u, v)]
                dy = forward1(*tensors)
                forward = min(FORWARD, key=lambda name: seconds(lambda: FORWARD[name](*tensors)))
                backward = min(BACKWARD, key=lambda name: seconds(lambda: BACKWARD[name](*tensors, dy, x.requires_grad)))
            self.chosen[key] = forward, backward
        return self.chosen[key]

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output."""
        site, base = self.site, self.site.layer.base_layer
        b, a = site.factors
        weight = site.base_matrix()
        tensors = [x.flatten(0, -2), weight.mT, a.mT, site.scaling * b.mT]
        kind, wide = x.device.type, weight.dtype
        if torch.is_autocast_enabled(kind):
            wide = torch.get_autocast_dtype(kind)
        tensors = [tensor.to(wide) for tensor in tensors]
        with torch.autocast(kind, enabled=False):
            forward, backward = self.choose(*tensors)
            y = Ordered.apply(*tensors, FORWARD[forward], BACKWARD[backward])
        y = y if base.bias is None else y + base.bias.to(wide)
        return y.unflatten(0, x.shape[:-1])


def seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """The shortest of several runs, after one to warm up."""
    function()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken)


def unfit(site: Site) -> str | None:
    """Why a layer's products cannot be reordered, or None."""
    layer = site.layer
    if site.kind != "linear" or not isinstance(layer.base_layer, nn.Linear):
        return "it is no plain linear layer"
    if site.adapter in getattr(layer, "lora_variant", {}):
        return "it is a variant of LoRA, such as DoRA"
    dropout = getattr(layer, "lora_dropout", {})
    if site.adapter in dropout and not isinstance(dropout[site.adapter], nn.Identity):
        return "it drops inputs of the pair alone"
    if list(layer.active_adapters) != [site.adapter]:
        return "several adapters are active"
    if not layer.base_layer.weight.is_floating_point():
        return "its weight is quantised"
    return None


def runlora(model: nn.Module, by: str = "flops", *, adapter: str = "default") -> nn.Module:
    """Let every linear LoRA layer multiply in the order that is cheapest for the batches it meets, forward and back.

    Loss and gradients stay those of LoRA, to rounding, whatever is attached. Layers that this does not fit (convolutions, DoRA,
    LoRA dropout, quantised weights) stay as they are. W + U V first is cheaper for b > n m / (n + m) rows; it takes the memory of
    a weight for a while. The choice stands in `layer.low_rank_orders.chosen`, by rows and whether x needs a gradient.

    Args:
        by: `flops` or `time`; see `Orders`.

    Returns:
        The model.

    Raises:
        InputError: where no layer fits, with the reasons; for an unknown `by`.
    """
    check_choice("by", by, ("flops", "time"))
    reasons = {site: unfit(site) for site in sites(model, adapter)}
    if all(reasons.values()):
        raise InputError(
            f"model: has no layer whose products can be reordered: {'; '.join(dict.fromkeys(map(str, reasons.values())))}"
        )
    for site, reason in reasons.items():
        if reason is None:
            site.layer.low_rank_orders = Orders(site, by)
            site.layer.forward = partial(forward, site.layer)
    return model


def forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In place of a LoRA layer's own, as long as its pair is in use and nothing else is asked for."""
    orders: Orders = layer.low_rank_orders
    if args or kwargs or not orders.site.active or unfit(orders.site) is not None:
        return type(layer).forward(layer, x, *args, **kwargs)
    return orders(x)
