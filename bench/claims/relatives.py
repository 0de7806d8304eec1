"""Relatives of Flora, what can be settled without a sweep: LoRA-Pro's step, LoRTA's count, boosting and restarts."""

import numpy as np
import torch
from torch import Tensor

from bench.claims._claim import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    NOT_RUN,
    SEEDS,
    Evidence,
    Figure,
    Finding,
    by_bound,
    claim,
    kept,
    typical,
    worst,
)
from bench.claims.flora import by_all, lies_within, mean, off_by, rank_after, squares
from bench.engine import Block, Settings
from bench.stats import EQUAL, compare
from linalg.random import gaussian, generator
from optimizers import ALS, LoRAPro
from parameterizations import LoRA, LoRTA, Parameterization, ReLoRA, XGBLoRA
from problems import IllConditioned

LORA_PRO = "Wang et al., arXiv 2407.18242 (LoRA-Pro)"
LORTA = "Hounie et al., arXiv 2410.04060 (LoRTA)"
XGB = "Zhang et al., arXiv 2410.19694 (XGBLoRA)"
RELORA = "Lialin et al., arXiv 2307.05695 (ReLoRA)"
SIDE, RANK, SCALE = 64, 4, 2.0
TALL = IllConditioned((16, 12), rank=12, condition=10)


def factors(seed: int, m: int = SIDE, n: int = SIDE, rank: int = RANK) -> tuple[Tensor, Tensor, Tensor]:
    """B (m, r), A (r, n) and G (m, n) with entries N(0, 1)."""
    draw = generator(seed, "factors")
    return gaussian(m, rank, generator=draw), gaussian(rank, n, generator=draw), gaussian(m, n, generator=draw)


def motion(left: Tensor, right: Tensor, gradient: Tensor) -> Tensor:
    """s (B dA + dB A), the gradient of the weight s B A that LoRA-Pro's step stands for."""
    rule, params = LoRAPro(rule="sgd", ridge=0), {"left": left.clone(), "right": right.clone()}
    grads = {"left": SCALE * gradient @ right.mT, "right": SCALE * left.mT @ gradient}
    rule.update(params, grads, rule.init(params, None, SCALE), 1.0, 0)
    return SCALE * (left @ (right - params["right"]) + (left - params["left"]) @ right)


def nearest(left: Tensor, right: Tensor, gradient: Tensor) -> Tensor:
    """The least-squares solution of s (B dA + dB A) = G over dA and dB, from the dense system."""
    m, n = gradient.shape
    eyes = torch.eye(m).double(), torch.eye(n).double()
    dense = SCALE * torch.cat([torch.kron(left, eyes[1]), torch.kron(eyes[0], right.mT.contiguous())], 1)
    return (dense @ torch.linalg.lstsq(dense, gradient.reshape(-1, 1), driver="gelsd").solution).view(m, n)


def shares_left(seed: int, low_rank: bool = False) -> tuple[float, float, float, float]:
    """‖G~ - G‖² / ‖G‖² of LoRA-Pro, of LoRA at the best multiple of its step and at its own; and the distance of G - G~ from
    (I - P_B) G (I - P_A), over ‖G‖."""
    left, right, gradient = factors(seed)
    if low_rank:
        gradient = gradient[:, :RANK] @ gradient[:RANK]
    found = motion(left, right, gradient)
    lora = SCALE**2 * (left @ (left.mT @ gradient) + gradient @ right.mT @ right)
    best = (lora * gradient).sum() / squares(lora) * lora
    beyond = torch.eye(SIDE) - left @ torch.linalg.pinv(left), torch.eye(SIDE) - torch.linalg.pinv(right) @ right
    distances = found - gradient, best - gradient, lora - gradient, gradient - found - beyond[0] @ gradient @ beyond[1]
    pro, rescaled, raw, error = (float(squares(each) / squares(gradient)) for each in distances)
    return pro, rescaled, raw, error**0.5


@claim(
    "C8",
    "LoRA-Pro's step moves the weight along the nearest point to its gradient that the factors can reach: what is left is "
    "(I - P_B) G (I - P_A), never more than LoRA leaves at its best step.",
    source=f"{LORA_PRO}, theorem 2.1 and its closed form; the residual is the dossier's (sections 3 and C8)",
    matched="the same B, A and G with entries N(0, 1); 64 x 64, rank 4, s = 2; the dense system with 20 x 16, rank 3; float64",
)
def is_the_nearest(evidence: Evidence) -> Finding:
    pro, rescaled, raw, error = (np.array(column) for column in zip(*map(shares_left, SEEDS), strict=True))
    dense = []
    for seed in SEEDS:
        left, right, gradient = factors(seed, 20, 16, 3)
        dense.append(float((squares(motion(left, right, gradient) - nearest(left, right, gradient)) / squares(gradient)).sqrt()))
    exact = [
        worst(evidence, "relative error of the closed form of what is left", error),
        worst(evidence, "relative distance from the dense system's solution", dense),
    ]
    share = mean(evidence, "share left by LoRA-Pro over (1 - r/n)(1 - r/m)", pro / (1 - RANK / SIDE) ** 2)
    against = worst(evidence, "share left by LoRA-Pro over LoRA's at its best step", pro / rescaled)
    beside = typical(evidence, "share left by LoRA's own step", raw)
    found = [lies_within(each, 0, 1e-10) for each in exact] + [lies_within(share, 1 / EQUAL, EQUAL), lies_within(against, 0, 1)]
    return by_all(found, [*exact, share, against, beside], "For a G that does not know B and A nearly all is left, by either.")


@claim(
    "C8/low_rank",
    "The lead of LoRA-Pro's step over LoRA's best one is larger for gradients of low rank.",
    source="the dossier's (C8)",
    matched="as C8; G of rank 4 with random factors against a full one",
)
def leads_more_on_low_rank(evidence: Evidence) -> Finding:
    rows = {name: [shares_left(seed, name == "rank 4")[:2] for seed in SEEDS] for name in ("full rank", "rank 4")}
    ratios = {name: np.array([pro / rescaled for pro, rescaled in found]) for name, found in rows.items()}
    figures = [
        typical(evidence, f"share left by LoRA-Pro over LoRA's at its best, G of {name}", each) for name, each in ratios.items()
    ]
    comparison, name = compare([np.log10(ratios["rank 4"] / ratios["full rank"])]), "that ratio for rank 4 over that for full rank"
    kept(evidence, name, ratios["rank 4"] / ratios["full rank"])
    verdict = {"better": HOLDS, "inconclusive": INCONCLUSIVE}.get(comparison.verdict, FAILS)
    said = f"The leads are {comparison.verdict} (within 5 %: equal); where G knows nothing of B and A its rank makes no difference."
    return Finding(verdict, said if verdict == FAILS else "", (*figures, Figure(name, comparison.ratio, len(SEEDS), measure=name)))


def counted(method: Parameterization, layers: int, m: int, n: int) -> int:
    """Numbers that train in a stack of layers."""
    params = Parameterization.init(method, (m, n), generator=generator(0, "count"), layers=layers)
    return sum(tensor.numel() for name, tensor in params.items() if name not in method.frozen)


def five_way(rank: int, d: int, heads: int, layers: int) -> tuple[int, Tensor, Tensor]:
    """The paper's tensor: how many numbers it has; one (d, d) update head by head, and as a sum of outer products."""
    draw = generator(rank * d, "tensor")
    left, right, head, layer, kind = modes = [gaussian(size, rank, generator=draw) for size in (d, d // heads, heads, layers, 4)]
    blocks = torch.cat([(left * each) @ right.mT for each in head * kind[1] * layer[2]], -1)
    whole = torch.einsum("ir,jr,hr,r,r->ihj", left, right, head, layer[2], kind[1]).reshape(d, d)
    return sum(mode.numel() for mode in modes), blocks, whole


def miscounts(seed: int) -> tuple[float, float, float, float]:
    """For sizes that the seed draws: five modes' numbers off the formula, blocks off the sum; three modes', LoRA's numbers off."""
    draw = generator(seed, "sizes")
    quarter, layers, r = (int(torch.randint(low, high, (), generator=draw)) for low, high in ((8, 33), (3, 33), (1, 17)))
    d, n = 4 * quarter, 2 * quarter
    total, blocks, whole = five_way(r, d, 4, layers)
    ours = counted(LoRTA(r), layers, d, n) - r * (d + n + layers)
    lora = counted(LoRA(r), layers, d, n) - layers * r * (d + n)
    return abs(total - r * (d + quarter + 4 + layers + 4)), float(squares(blocks - whole).sqrt()), abs(ours), abs(lora)


@claim(
    "C13",
    "LoRTA trains r (d + d/H + H + L + 4) numbers for L layers of four d x d matrices with H heads; without the modes of heads and "
    "matrices, as here, r (m + n + L), where LoRA has L r (m + n).",
    source=f"{LORTA}, by its code (the dossier's sections 3 and C13)",
    matched="counts of tensors; d from 32 to 128, H = 4, L from 3 to 32, r from 1 to 16, as the seed draws them",
)
def counts_of_lorta(evidence: Evidence) -> Finding:
    names = (
        "five modes: numbers off the formula",
        "five modes: blocks off the sum of outer products",
        "three modes: numbers off the formula",
        "LoRA: numbers off the formula",
    )
    columns = zip(*map(miscounts, SEEDS), strict=True)
    figures = [worst(evidence, name, column) for name, column in zip(names, columns, strict=True)]
    return by_bound(figures, 1e-10, "Counted on every seed; 1e-10 is for the rounding of the blocks.")


def boosted(rounds: int, interval: int = 80) -> Tensor:
    """(k, rounds) what is left of the energy of 16 x 12 matrices after each booster of rank 1 that is fitted by least squares."""
    drawn = [TALL.draw(seed) for seed in SEEDS]
    settings = Settings(interval * rounds + 1, dtype=torch.float64, probes="none")
    block = Block(drawn, XGBLoRA(rank=1, interval=interval), ALS(), list(SEEDS), [1.0], settings)
    start, left = block.instance.loss(block.weight())[:, 0], []
    for step in range(interval * rounds):
        block.find_gradients(step)
        block.step()
        if (step + 1) % interval == 0:
            left.append(block.instance.loss(block.weight())[:, 0] / start)
    return torch.stack(left, -1)


@claim(
    "greedy",
    "XGBLoRA's boosters of rank 1, each fitted to optimality, are the greedy SVD: K of them leave the spectrum's tail beyond K.",
    source=f"{XGB}; the sentence is the dossier's (C5)",
    matched="16 x 12 targets of condition 10, σ_i falling by equal ratios; 80 steps of least squares a booster; float64",
)
def boosting_is_greedy(evidence: Evidence) -> Finding:
    found, instances = boosted(8), [TALL.draw(seed) for seed in SEEDS]
    figures = []
    for k in (1, 2, 4, 8):
        tails = np.array([float(each.best(k) or 0) / float(each.best(0) or 1) for each in instances])
        figures.append(
            worst(evidence, f"left after {k} boosters over the tail, less 1, absolute", abs(found[:, k - 1].numpy() / tails - 1))
        )
    return by_bound(figures, 1e-3, "Bound: 1e-3, for what the last steps towards each singular vector lack.")


@claim(
    "restarts",
    "K restarts of ReLoRA give the update rank min(K r, m); one LoRA keeps rank r.",
    source=f"{RELORA}, the motive of restarts; the count is the dossier's (C4, of Flora)",
    matched="64 x 64, rank 4, five SGD steps a restart at 0.02; numerical rank in float64; flora.C4 has the same of Flora",
)
def restarts_raise_the_rank(evidence: Evidence) -> Finding:
    figures = [off_by(evidence, ReLoRA, rounds) for rounds in (1, 2, 4, 8, 16, 32)]
    figures.append(worst(evidence, "rank of one LoRA less 4, absolute", abs(rank_after(LoRA(RANK), 80) - RANK)))
    return by_bound(figures, 0, "Counted on every seed.")


@claim(
    "lora_pro-llm",
    "LoRA-Pro beats LoRA with T5-base on GLUE, Llama-2-7B on chat, mathematics and code, and CLIP-B/16 on images.",
    source=f"{LORA_PRO}, its tables, which the dossier did not find (section 3)",
    matched="nothing",
)
def lora_pro_on_language_models(evidence: Evidence) -> Finding:
    return Finding(NOT_RUN, "It needs those models; relatives.lora_pro has a small stand-in.")
