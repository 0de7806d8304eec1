"""Rules for factor pairs that follow up on GeoLoRA: what LoRA-Pro leaves of the gradient, and which rules see the factors."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, SEEDS, Evidence, Finding, at_most, claim, typical, worst
from bench.claims._geolora import never_above, norm
from linalg.random import gaussian, generator, orthogonal
from optimizers import Adam, LoRAMuon, LoRAPro, LoRARITE, Muon, Optimizer
from parameterizations import Params, Step

LEDGER = "geolora"

SHAPE, RANK = (16, 12), 3


def drawn(stream: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """(k, ...) one of the stream for each of `SEEDS`."""
    return torch.stack([draw(generator(seed, stream)) for seed in SEEDS])


def factors(condition: float = 1.0) -> Params:
    """Gaussian pairs (k, 16, 3) and (k, 3, 12) whose columns, rows fall in size down to 1 / condition."""
    sizes = torch.logspace(0, -1, RANK, base=condition, dtype=torch.float64)
    left, right = (
        drawn(side, lambda draw, shape=shape: gaussian(*shape, generator=draw)) / n**0.5  # type: ignore[misc]  # shape is bound
        for side, n, shape in (("left", SHAPE[0], (SHAPE[0], RANK)), ("right", SHAPE[1], (RANK, SHAPE[1])))
    )
    return {"left": left * sizes, "right": sizes.flip(0)[:, None] * right}


def targets() -> Tensor:
    matrix = drawn("target", lambda draw: gaussian(*SHAPE, generator=draw))
    return matrix / torch.linalg.matrix_norm(matrix, 2, keepdim=True)


def refactored(params: Params) -> Params:
    """The same products in factors B X⁻¹, X A; X has random singular vectors and singular values 2, 1, 1/2."""

    def draw(source: torch.Generator) -> Tensor:
        return orthogonal(RANK, RANK, source) @ torch.diag(torch.tensor([2, 1, 0.5]).double()) @ orthogonal(RANK, RANK, source)

    gauge = drawn("gauge", draw)
    return {"left": params["left"] @ torch.linalg.inv(gauge), "right": gauge @ params["right"]}


def walk(rule: Optimizer, start: Params, lr: float, steps: int) -> Tensor:
    """(steps, k, m, n) the weights on the way of ½ ‖B A - M‖²."""
    params, target = {name: tensor.clone() for name, tensor in start.items()}, targets()
    state, weights = rule.init(params), []
    for step in range(steps):
        gradient = params["left"] @ params["right"] - target
        rule.update(params, {"left": gradient @ params["right"].mT, "right": params["left"].mT @ gradient}, state, lr, Step(step))
        weights.append(params["left"] @ params["right"])
    return torch.stack(weights)


def apart(rule: Optimizer, lr: float, steps: int = 30) -> Tensor:
    """(k,) the largest distance between the weights' paths from two factorings, over the length of the first path."""
    start = factors()
    one, other = walk(rule, start, lr, steps), walk(rule, refactored(start), lr, steps)
    moved = norm(one - start["left"] @ start["right"]).amax(0)
    return norm(one - other).amax(0) / moved


@claim(
    "pro_residual",
    "The motion s (B dA + dB A) of LoRA-Pro is as near to the full gradient g as any can be; (I - P_B) g (I - P_A) is left.",
    source="Wang et al. 2025, arXiv 2407.18242 (LoRA-Pro), its closed form; the residual is the dossier's (section 7)",
    matched="the same pairs and random g; pairs of conditions 1, 100 and 1e4 by column; 16 x 12, rank 3, no ridge, float64",
)
def is_the_nearest_motion(evidence: Evidence) -> Finding:
    gradient, figures = drawn("gradient", lambda draw: gaussian(*SHAPE, generator=draw)), []
    for condition in (1.0, 1e2, 1e4):
        start = factors(condition)
        left, right = start["left"], start["right"]
        after, rule = {name: tensor.clone() for name, tensor in start.items()}, LoRAPro(rule="sgd", ridge=0.0)
        rule.update(after, {"left": gradient @ right.mT, "right": left.mT @ gradient}, rule.init(after), 1.0, Step(0))
        motion = left @ (right - after["right"]) + (left - after["left"]) @ right
        columns, rows = torch.linalg.qr(left).Q, torch.linalg.qr(right.mT).Q
        beyond = gradient - columns @ (columns.mT @ gradient)
        beyond = beyond - beyond @ rows @ rows.mT
        figures.append(
            worst(
                evidence,
                f"relative error of what is left, condition {condition:g}",
                norm(gradient - motion - beyond) / norm(beyond),
            )
        )
    # a Gram matrix has the square of its factor's condition: 1e4² times rounding is 2e-8
    return never_above(figures, 1e-7, "Bound: 1e-7, which the squared condition of 1e4 times rounding stays below.")


def gauge_invariance(evidence: Evidence, rules: dict[str, Optimizer], beside: dict[str, Optimizer], lr: float) -> Finding:
    figures = [worst(evidence, f"paths' distance over their length, {name}", apart(rule, lr)) for name, rule in rules.items()]
    others = [typical(evidence, f"paths' distance over their length, {name}", apart(rule, lr)) for name, rule in beside.items()]
    found = never_above(figures, 1e-9, "Bound: 1e-9 after 30 steps from two factorings that differ by a matrix of condition 4.")
    return Finding(found.verdict, found.said, (*figures, *others))


GAUGE = "the same W in two factorings, 30 steps at rate 0.05 towards the same target; 16 x 12, rank 3, float64; nothing tuned"


@claim(
    "rite_gauge",
    "With LoRA-RITE the weight's path does not depend on how W is factored.",
    source="Yen et al. 2025, arXiv 2410.20625 (LoRA-RITE), transformation invariance",
    matched=GAUGE,
)
def rite_sees_no_factors(evidence: Evidence) -> Finding:
    return gauge_invariance(
        evidence, {"LoRA-RITE": LoRARITE(), "LoRA-RITE without clipping": LoRARITE(clip=0.0)}, {"Adam": Adam()}, 0.05
    )


@claim(
    "muon_gauge",
    "With LoRA-Muon the weight's path does not depend on how W is factored.",
    source="Cesista et al. 2026, arXiv 2606.12921 (LoRA-Muon)",
    matched=GAUGE,
)
def lora_muon_sees_no_factors(evidence: Evidence) -> Finding:
    ridged = {"LoRA-Muon with its ridge of 1e-5": LoRAMuon(), "Muon on each factor": Muon()}
    return gauge_invariance(evidence, {"LoRA-Muon without a ridge": LoRAMuon(ridge=0.0)}, ridged, 0.05)


@claim(
    "pro_gauge",
    "With LoRA-Pro the weight's path does not depend on how W is factored.",
    source="Wang et al. 2025, arXiv 2407.18242 (LoRA-Pro): the motion does not depend on its free X; restated for whole steps",
    matched="the same W in two factorings, one step at rates 1e-2 and 1e-3, and 30 at 0.05; 16 x 12, rank 3, float64",
)
def pro_sees_factors_to_second_order(evidence: Evidence) -> Finding:
    paths, orders = [], []
    for name, rule in {"SGD": LoRAPro(rule="sgd", ridge=0.0), "AdamW": LoRAPro(ridge=0.0)}.items():
        paths.append(typical(evidence, f"paths' distance over their length, {name}", apart(rule, 0.05)))
        ratio = apart(rule, 1e-2, steps=1) / apart(rule, 1e-3, steps=1)
        orders.append(typical(evidence, f"distance over length of one step, rate 1e-2 over 1e-3, {name}", ratio))
    first = all(order.value.low > 9 and order.value.high < 11 for order in orders)
    exact = [at_most(path, 1e-9) for path in paths]
    verdict = HOLDS if all(exact) else CONDITION if first else FAILS if False in exact else INCONCLUSIVE
    said = "To first order in the rate alone: the distance is of second order, because dB dA depends on the factors."
    return Finding(verdict, said if verdict == CONDITION else "", (*paths, *orders))
