"""Quantities measured along a run. Probes never draw; plots never compute."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import jacrev

from linalg import FactoredMatrix, condition, decomposable, effective_rank, numerical_rank, stable_rank, svdvals
from parameterizations import Parameterization, Params
from problems import Instance

LEVELS = ("none", "basic", "all")
PROBED_STEPS = 40  # basic probes a run, about
COARSE_STEPS = 10  # steps of those on which `all` measures what is expensive, about
DENSE_JACOBIAN = 1024  # the most entries of W, of a stack in all, for which the Gauss-Newton map is built densely


def geometric_grid(steps: int, count: int = PROBED_STEPS) -> list[int]:
    """Steps from 0 to `steps`, both included, growing by about a constant ratio."""
    return sorted({0, *np.rint(np.geomspace(1, steps, count)).astype(int).tolist()})


def coarse_grid(steps: int) -> set[int]:
    """About `COARSE_STEPS` of the grid's steps, its first and last among them."""
    grid = geometric_grid(steps)
    return {grid[round(i)] for i in np.linspace(0, len(grid) - 1, min(COARSE_STEPS, len(grid)))}


def basic(weight: FactoredMatrix, before: FactoredMatrix | None, grads: Params, dtype: torch.dtype) -> dict[str, Tensor]:
    """Step length, gradient norm, conditions of the product and the factors, and ranks of the weight: (lanes) each.

    Args:
        before: the weight one step earlier, None at the start.
        grads: of the loss that is trained, which a method's penalty is part of, by all tensors that train; what preconditioners,
            projections and masks then make of them has no part in the norm.
        dtype: what the run trains in: it sets the threshold of the numerical rank.
    """
    probes = {"gradient_norm": sum(grad.double().square().flatten(2).sum(-1) for grad in grads.values()) ** 0.5}
    if before is not None and weight.factors[0].shape == before.factors[0].shape:  # another adapter may have joined
        probes["step_length"] = distance(weight, before)
    update = weight.svdvals(of="update")
    values = update if weight.base is None else weight.svdvals()
    thin = len(weight.factors) > 1 and weight.rank < min(weight.shape)
    exact = torch.float64 if thin else dtype  # a product multiplied out is known to its own rounding only
    singular = update[..., -1] <= max(weight.shape) * torch.finfo(exact).eps * update[..., 0]
    probes["condition_product"] = condition(update).masked_fill(singular & (update[..., 0] > 0), torch.inf)
    alone = len(weight.factors) == 1 and weight.scale == 1  # then its values are known already
    factors = [condition(update if alone else svdvals(factor)).expand(update.shape[:-1]) for factor in weight.factors]
    probes["condition_factors"] = torch.stack(factors).amax(0)
    if len(factors) > 1:
        probes |= {f"condition_factor_{i}": value for i, value in enumerate(factors, start=1)}
    probes["rank"] = numerical_rank(values, weight.shape, dtype)
    probes["effective_rank"] = effective_rank(values)
    probes["stable_rank"] = stable_rank(values)
    return probes


def distance(weight: FactoredMatrix, before: FactoredMatrix) -> Tensor:
    """(...,) ‖W - W'‖_F of two chains alike; a base of both is left out, because a step may be below its rounding.

    Where the pair L R is thin the difference is (L - L') R + L' (R - R'), and nothing of the size of W is formed.
    """
    if not same_memory(weight.base, before.base):
        return (weight.dense() - before.dense()).double().square().sum((-2, -1)).sqrt()
    if not weight.thin:
        return (weight.update() - before.update()).double().square().sum((-2, -1)).sqrt()
    (left, right), (old_left, old_right) = ([part.double() for part in each.pair()] for each in (weight, before))
    tall, wide = torch.cat([left - old_left, old_left], -1), torch.cat([right, right - old_right], -2)
    return (torch.linalg.qr(tall, mode="r").R @ wide).square().sum((-2, -1)).sqrt()


def same_memory(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether both are views of one content, or None."""
    if a is None or b is None:
        return a is b
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def expensive(
    instance: Instance,
    parameterization: Parameterization,
    params: Params,
    weight: FactoredMatrix,
    total: FactoredMatrix,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The Gauss-Newton map's condition, and the angles to the truth's leading subspaces: (lanes) each, where they are to be had.

    Args:
        total: all that was learned, merged or not, as an update without a base.
    """
    probes = {}
    gauss_newton = gauss_newton_condition(parameterization, params, weight, dtype)
    if gauss_newton is not None:
        probes["condition_gauss_newton"] = gauss_newton
    if instance.truth_svd is not None:
        probes["angle_left"], probes["angle_right"] = angles_to_truth(instance, total)
    return probes


def over_layers(name: str, values: Tensor) -> Tensor:
    """(seeds, rates) of a probe (seeds, rates, L) of a stack: lengths as of one vector, ranks added up, of the rest the largest."""
    if name in ("gradient_norm", "step_length"):
        return values.square().sum(-1).sqrt()
    return values.sum(-1) if name.endswith("rank") else values.amax(-1)


def angles_to_truth(instance: Instance, update: FactoredMatrix) -> tuple[Tensor, Tensor]:
    """(lanes) each: the largest principal angle, in radians, between the update's leading left (right) singular subspace and
    the truth's, of the dimension that both can fill."""
    assert instance.truth_svd is not None
    u, s, vt = instance.truth_svd
    filled = int(numerical_rank(s, update.shape, torch.float32).nan_to_num(1).min())
    k = max(1, min(filled, update.rank))
    left, right, ok = singular_vectors(update)
    angles = [largest_angle(ours[..., :k], theirs[..., :k]).where(ok, torch.nan) for ours, theirs in ((left, u), (right, vt.mT))]
    return angles[0], angles[1]


def singular_vectors(update: FactoredMatrix) -> tuple[Tensor, Tensor, Tensor]:
    """Left (..., m, k) and right (..., n, k) singular vectors in float64, k the rank of the chain, by QR of its pair where that
    is thin; and for which (...,) they are to be had."""
    if update.base is not None or update.rank == min(update.shape):
        matrix = update.dense().detach().double()
        ok = decomposable(matrix)
        left, _, right = torch.linalg.svd(torch.where(ok[..., None, None], matrix, 0.0), full_matrices=False)
        return left, right.mT, ok
    sides = [part.detach().double() for part in update.pair()]
    ok = decomposable(sides[0]) & decomposable(sides[1])
    (q_left, r_left), (q_right, r_right) = (
        torch.linalg.qr(torch.where(ok[..., None, None], side, 0.0)) for side in (sides[0], sides[1].mT)
    )
    core = r_left @ r_right.mT
    ok = ok & decomposable(core)
    left, _, right = torch.linalg.svd(torch.where(ok[..., None, None], core, 0.0))
    return q_left @ left, q_right @ right.mT, ok


def largest_angle(first: Tensor, second: Tensor) -> Tensor:
    """(...,) the largest principal angle between the spans of orthonormal (..., p, k) columns, accurate at both ends."""
    overlap = second.mT @ first
    sine = svdvals(first - second @ overlap)[..., 0].clamp(max=1)
    cosine = svdvals(overlap)[..., -1].clamp(max=1)
    return torch.where(cosine > 0.7, sine.asin(), cosine.acos())


def gauss_newton_condition(
    parameterization: Parameterization, params: Params, weight: FactoredMatrix, dtype: torch.dtype
) -> Tensor | None:
    """(lanes) σ1/σmin of J Jᵀ on its range, J the derivative of W by the trainable tensors; None where it is too large.

    Where the chain's factors are the parameters themselves there is a formula: for one factor J is the identity; for two,
    the eigenvalues of dL, dR -> dL R + L dR are σi(L)² + σj(R)² with both spectra padded by zeros to m and n.
    """
    names = [next((name for name, tensor in params.items() if tensor is factor), None) for factor in weight.factors]
    stack = weight.factors[0].shape[2:-2]
    m, n = weight.shape
    small = m * n * stack.numel() <= DENSE_JACOBIAN
    if None in names:
        return dense_condition(jacobian_gram(parameterization, params)) if small and not stack else None
    trainable = [name not in parameterization.frozen for name in names]
    if len(names) == 1:
        return torch.ones(weight.factors[0].shape[:-2], dtype=torch.float64)
    if len(names) == 2:
        left, right = (svdvals(factor) for factor in weight.factors)
        return pair_condition(left, right, weight.shape, train_left=trainable[0], train_right=trainable[1], dtype=dtype)
    return dense_condition(chain_gram(weight, trainable)) if small else None


def pair_condition(
    left: Tensor, right: Tensor, shape: tuple[int, int], *, train_left: bool, train_right: bool, dtype: torch.dtype
) -> Tensor:
    """(...,) the condition of the two-factor Gauss-Newton map from σ(L) (..., k) and σ(R) (..., k')."""
    smallest, largest = [], []
    for values, side, counts in ((left, shape[0], train_right), (right, shape[1], train_left)):
        squares = values.square() * counts
        zero = values <= max(shape) * torch.finfo(dtype).eps * values[..., :1]
        squares = squares.masked_fill(zero, 0.0)
        positive = squares.masked_fill(squares == 0, torch.inf).amin(-1)
        least = squares.amin(-1) if values.shape[-1] == side else torch.zeros_like(positive)
        smallest.append((positive, least))
        largest.append(squares.amax(-1))
    (positive_left, least_left), (positive_right, least_right) = smallest
    on_range = torch.minimum(positive_left + least_right, positive_right + least_left)
    undefined = (left.isnan().any(-1)) | (right.isnan().any(-1))
    return ((largest[0] + largest[1]) / on_range).masked_fill(undefined, torch.nan)


def dense_condition(gram: Tensor) -> Tensor:
    """(...,) the same from J Jᵀ (..., p, p) itself, in float64."""
    usable = decomposable(gram)
    values = torch.linalg.eigvalsh(torch.where(usable[..., None, None], gram, 0.0))
    on_range = values > values.shape[-1] * torch.finfo(torch.float64).eps * values[..., -1:]
    smallest = values.masked_fill(~on_range, torch.inf).amin(-1)
    return (values[..., -1] / smallest).masked_fill(~(usable & on_range.any(-1)), torch.nan)


def around(weight: FactoredMatrix) -> list[tuple[Tensor, Tensor]]:
    """For each factor F of the chain what stands before it, scale included, and behind it: A (..., m, p), B (..., q, n) with
    dW = A dF B."""
    factors = [factor.detach().double() for factor in weight.factors]
    before, behind = [weight.scale * torch.eye(weight.shape[0]).to(factors[0])], [torch.eye(weight.shape[1]).to(factors[0])]
    for factor in factors[:-1]:
        before.append(before[-1] @ factor)
    for factor in reversed(factors[1:]):
        behind.append(factor @ behind[-1])
    return list(zip(before, reversed(behind), strict=True))


def kron(a: Tensor, b: Tensor) -> Tensor:
    """(..., pq, rs) Kronecker product of (..., p, r) and (..., q, s)."""
    return torch.einsum("...pr,...qs->...pqrs", a, b).flatten(-2).flatten(-3, -2)


def chain_gram(weight: FactoredMatrix, trainable: Sequence[bool]) -> Tensor:
    """(..., mn, mn) J Jᵀ for vec W row by row where the chain's factors are the parameters: Σ A Aᵀ ⊗ Bᵀ B over those that train."""
    total = torch.zeros((), dtype=torch.float64)
    for (a, b), trains in zip(around(weight), trainable, strict=True):
        if trains:
            total = total + kron(a @ a.mT, b.mT @ b)
    return total


def jacobian_gram(parameterization: Parameterization, params: Params) -> Tensor:
    """(seeds, rates, mn, mn) J Jᵀ of any map, lane by lane: autograd up to the factors, Kronecker products from there.

    An entry of a factor often depends on few of the parameters: what is zero in their Jacobian takes no part in products.
    """
    trainable = [name for name in params if name not in parameterization.frozen]
    lanes = params[trainable[0]].shape[:2]
    grams = []
    for lane in np.ndindex(*lanes):
        own = {name: tensor.detach().expand(*lanes, *tensor.shape[2:])[lane].double() for name, tensor in params.items()}
        learned = {name: own.pop(name) for name in trainable}

        def entries(moving: Params, rest: Params = own) -> Tensor:
            return torch.cat([factor.flatten() for factor in parameterization.weight({**rest, **moving}).factors])

        jacobians = [jacobian.flatten(1) for jacobian in jacrev(entries)(learned).values()]
        inner = torch.zeros(len(jacobians[0]), len(jacobians[0]), dtype=torch.float64)
        for jacobian in jacobians:
            rows = jacobian.any(1).nonzero()[:, 0]
            inner[rows[:, None], rows] += jacobian[rows] @ jacobian[rows].mT
        outer = torch.cat([kron(a, b.mT) for a, b in around(parameterization.weight({**own, **learned}))], dim=-1)
        grams.append(outer @ inner @ outer.mT)
    return torch.stack(grams).unflatten(0, lanes)
