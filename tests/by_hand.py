"""References written out by hand: autograd on plain tensors and gradient descent without the suite's optimizers."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from linalg import FactoredMatrix
from parameterizations import Parameterization, Params

Loss = Callable[[FactoredMatrix], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def lowrank(m: int, n: int, values: Tensor, seed: int = 0) -> Tensor:
    """(m, n) with these singular values, from numpy-style QR of Gaussian matrices."""
    left = torch.linalg.qr(gaussian(m, len(values), seed=seed)).Q
    right = torch.linalg.qr(gaussian(n, len(values), seed=seed + 10_000)).Q
    return left @ torch.diag(values.double()) @ right.mT


def half_squared(target: Tensor) -> Loss:
    """(...,) ½ ‖W - target‖²_F."""
    return lambda weight: 0.5 * (weight.dense() - target).square().sum((-2, -1))


def stacked(lanes: list[Params]) -> Params:
    """Lanes as one block with a leading dimension."""
    return {name: torch.stack([lane[name] for lane in lanes]) for name in lanes[0]}


def gradients(method: Parameterization, params: Mapping[str, Tensor], loss: Loss) -> Params:
    """d(sum of all lanes' losses)/d(tensor) for every tensor that is not frozen."""
    leaves = {name: tensor.detach().requires_grad_(name not in method.frozen) for name, tensor in params.items()}
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    found = torch.autograd.grad(loss(method.weight(leaves)).sum(), list(wanted.values()))
    return dict(zip(wanted, found, strict=True))


def descend(
    method: Parameterization,
    params: Params,
    loss: Loss,
    lr: float,
    decay: float = 0.0,
    momentum: float = 0.0,
    rates: Mapping[str, float | Tensor] | None = None,
    velocity: Params | None = None,
) -> None:
    """One step w ← (1 - lr decay) w - lr grad, or with a heavy ball `velocity` ← momentum velocity + grad, in place."""
    for name, grad in gradients(method, params, loss).items():
        if velocity is not None:
            grad = velocity[name] = momentum * velocity.get(name, torch.zeros_like(grad)) + grad
        rate = lr * (rates or method.rates).get(name, 1.0)
        params[name] = (1 - rate * decay) * params[name].detach() - rate * grad
