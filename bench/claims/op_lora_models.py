"""OP-LoRA (arXiv 2412.10362) in real models: samples of a new style, half the rank, and windows of learning rates."""

from dataclasses import dataclass

import numpy as np

from bench.claims._claim import CONDITION, FAILS, HOLDS, INCONCLUSIVE, Evidence, Figure, Finding, claim, kept, settled, told
from bench.claims._op_lora import PAPER, sign_of, whole_grid
from bench.claims._scaled import SETTINGS, STUDY, as_good, compared, exact, of_study
from bench.stats import in_window, interval, window_decades
from bench.stored import StoredCell

LEDGER = "op_lora"

ICONS = "scaled_icons"
DIFFUSION = (
    "SDXL is replaced by a U-Net that draws icons, CMMD by the MMD of EfficientNet's features; 128 icons, 300 Adam steps, the rate "
    f"by the denoising loss on others; {STUDY}"
)
REVISED = (
    "icons are compared at half their resolution, since adapted samples, bold to the eye, came out farther from bold ones than the "
    "pretrained model's"
)
WINDOWS: dict[str, dict[str, object]] = SETTINGS | {
    f"icons at rank {rank}": {"problem": "image_style", "parameterization__rank": rank} for rank in (2, 4)
}
HALF_A_STEP = 0.25  # decades, of the grid's 0.5


@claim(
    "icons",
    "After as many steps on a new style at equal rank, OP-LoRA's samples are closer to pictures of that style than LoRA's.",
    source=f"{PAPER}, section 4.1 (CMMD of SDXL, 9.6 against 23.7 and 31.7 against 47.9, at one rate for both)",
    matched=f"rank 2 and rank 4, each method at its own rate; {DIFFUSION}",
    experiments=ICONS,
    revised=REVISED,
)
def draws_closer(evidence: Evidence) -> Finding:
    verdicts, figures = {}, []
    for rank in (2, 4):
        op, lora = (of_study(evidence, parameterization=name, parameterization__rank=rank) for name in ("op_lora", "lora"))
        found, figure = compared(f"MMD, OP-LoRA / LoRA, rank {rank}", (op, lora))
        verdicts[f"rank {rank}"] = found.verdict
        figures.append(figure)
    return Finding(settled(verdicts), told(verdicts), tuple(figures))


@claim(
    "icons/half",
    "With half the parameters at inference OP-LoRA's samples are at least as close to a new style as LoRA's.",
    source=f"{PAPER}, abstract of its second version (LoRA's performance with half the inference parameters)",
    matched=f"OP-LoRA of rank 2, exported, beside LoRA of rank 4; at least as close: at most 5 % farther; {DIFFUSION}",
    experiments=ICONS,
    revised=REVISED,
)
def halves_what_is_exported(evidence: Evidence) -> Finding:
    op, half = (of_study(evidence, parameterization=name, parameterization__rank=2) for name in ("op_lora", "lora"))
    whole = of_study(evidence, parameterization="lora", parameterization__rank=4)
    parity, figure = compared("MMD, OP-LoRA of rank 2 / LoRA of rank 4", (op, whole))
    plain, beside = compared("MMD, LoRA of rank 2 / LoRA of rank 4", (half, whole))
    exported, trained = (each.summary["parameters"] / whole.summary["parameters"] for each in (half, op))
    counts = (
        exact("parameters at inference, rank 2 / rank 4", exported, "parameters", half, whole),
        exact("parameters that train, OP-LoRA of rank 2 / LoRA of rank 4", trained, "parameters", op, whole),
    )
    verdict = {"as good": HOLDS, "worse": FAILS}.get(as_good(parity), INCONCLUSIVE)
    if verdict == HOLDS and as_good(plain) == "as good":
        verdict = CONDITION  # it takes no OP-LoRA to halve the rank here
    said = f"Against LoRA of rank 4, OP-LoRA of rank 2: {as_good(parity)}; LoRA of rank 2: {as_good(plain)}."
    return Finding(verdict, said, (figure, beside, *counts))


@dataclass(frozen=True)
class Window:
    """(k,) by tuning seed, how many decades of rates train well, and whether the rates tried end before the window does."""

    decades: np.ndarray
    is_open: bool


def window(cell: StoredCell) -> Window:
    """Rates as `window_decades` counts them, by seed, around the rate that was chosen."""
    rates, left = whole_grid(cell, "remaining")
    chosen = cell.summary["chosen_lr"]
    if chosen is None:
        return Window(np.zeros(len(left)), False)
    by_seed = [dict(zip(rates.tolist(), row, strict=True)) for row in left]
    ends = {rates[0], rates[-1]}
    is_open = any(ends & set(in_window(row, chosen)) for row in by_seed)
    return Window(np.array([window_decades(row, chosen) for row in by_seed]), is_open)


@claim(
    "windows",
    "In real models OP-LoRA trains well at a wider range of learning rates than LoRA, taken over several.",
    source=f"{PAPER}, section 3.3 and figure 2 a, of a net of two layers; asked here of four models",
    matched=(
        "rates that leave at most ten times what the best one leaves of the validation loss, and half of what it gains; MiniLM, a "
        "ViT, a U-Net and SmolLM2, Adam (LoRA's eps on texts: 1e-6), equal ranks; settled by the mean over all settings, which are "
        f"drawn again with their seeds; the tuning seeds, too few to settle one setting, of {STUDY}"
    ),
    experiments=("scaled_text_arms", "scaled_text_methods", "scaled_digits", ICONS, "scaled_language"),
)
def wider_windows(evidence: Evidence) -> Finding:
    figures, differences = [], []
    opened: dict[str, list[str]] = {"OP-LoRA's": [], "LoRA's": []}
    for where, settings in WINDOWS.items():
        cells = [of_study(evidence, parameterization=name, **settings) for name in ("op_lora", "lora")]
        op, lora = map(window, cells)
        name, keys = f"decades, OP-LoRA less LoRA, {where}", tuple(cell.key for cell in cells)
        difference = kept(evidence, name, op.decades - lora.decades, sorted(cells[0].config["seeds"]["tune"]))
        figures.append(Figure(name, interval([difference]), len(difference), keys, name))
        differences.append(difference)
        for whose, each in zip(opened, (op, lora), strict=True):
            opened[whose] += [where] if each.is_open else []
    over_all = interval(differences, mean, over_problems=True)
    keys = tuple(key for figure in figures for key in figure.cells)
    figures.append(
        Figure("decades, OP-LoRA less LoRA, mean over settings", over_all, min(map(len, differences)), keys, "remaining")
    )
    ends = "; ".join(f"{whose} on {', '.join(places)}" for whose, places in opened.items() if places)
    said = f"Windows that the rates tried end before: {ends or 'none'}."
    found = of_windows(sign_of(over_all, HALF_A_STEP), *(bool(places) for places in opened.values()))
    return Finding({"better": HOLDS, "inconclusive": INCONCLUSIVE}.get(found, FAILS), said, tuple(figures))


def of_windows(measured: str, op_is_open: bool, lora_is_open: bool) -> str:
    """What a difference of windows says, an open one being at least as wide as it was measured."""
    unknown = {"better": lora_is_open, "worse": op_is_open}.get(measured, op_is_open or lora_is_open)
    return "inconclusive" if unknown else measured


def mean(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.mean(-1))
