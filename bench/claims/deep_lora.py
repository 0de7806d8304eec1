"""Deep LoRA (arXiv 2406.04112): what its theorem says of gradient descent on a deep network and of its compression."""

from bench.claims._claim import SEEDS, Evidence, Finding, at_most, by_bound, claim, typical
from bench.claims._deep_lora import PAPER, VERDICT, TruncatedGaussian, all_of, opposite, worst_of
from bench.claims._deep_lora_theorem import Kept, bases, kept_blocks, scaled_difference, step_times, strayed
from optimizers import SGD, AdamW, Momentum

DEPTHS, SCALES = (2, 3, 4), (1e-3, 0.1, 1.0)
RATE, STEPS = 0.2, 600
LONGER = {(3, 1e-3, 0.0): 8000}  # steps that a start so small takes to leave; at depth 4, or with decay, it never does
SQUARE = "60 x 60 of rank 3, singular values 1, 0.75, 0.5, fully observed; gradient descent at 0.2, 600 steps, float64"


@claim(
    "C1",
    "Fully observed, the compressed network never strays from the full one by more than ε^L √(d - 2r̂), which is how far apart "
    "they start.",
    source=f"{PAPER}, the theorem on invariant subspaces; the bound as the dossier states it (sections 1 and 5)",
    matched=f"{SQUARE}, and 8000 from ε = 1e-3 at depth 3 without decay; one start for both networks; r̂ = 3 without weight decay "
    "and with 0.01, r̂ = 6 with 0.01",
)
def never_strays(evidence: Evidence) -> Finding:
    figures, starts, moved = [], [], []
    for depth in DEPTHS:
        for scale in SCALES:
            found = [
                strayed(depth, scale, half, decay, RATE, LONGER.get((depth, scale, decay), STEPS))
                for half, decay in ((3, 0.0), (3, 0.01), (6, 0.01))
            ]
            name = f"largest distance over the bound, less 1, depth {depth}, ε = {scale:g}"
            figures.append(worst_of(evidence, name, [each.largest - 1 for each in found]))
            starts += [(each.first - 1).abs() for each in found]
            moved.append(f"{float(found[0].left.median()):.2g} at depth {depth} from {scale:g}")
    start = worst_of(evidence, "distance at the start over the bound, less 1", starts)
    said = (
        "Bound: 1e-6 above 1, after 1e-12 ‖f‖ for rounding; the figures are the excess over 1. The relative error that the full "
        f"network ends at without decay: {', '.join(moved)}."
    )
    return by_bound([*figures, start], 1e-6, said)


RULES = {"gradient descent": (SGD(), RATE), "weight decay 0.01": (SGD(weight_decay=0.01), RATE), "momentum 0.9": (Momentum(), 0.02)}


@claim(
    "C2",
    "Every factor keeps a block ρ_l I of size d - 2r that follows a scalar recursion, so that the network's first r right singular "
    "vectors never leave 2r directions fixed at the start.",
    source=f"{PAPER}, the theorem; with momentum the dossier's (sections 1 and 5)",
    matched=f"{SQUARE} (momentum: at 0.02), 1500 at depth 4; ε = 0.1 and 1; looked at on every tenth step",
)
def keeps_its_blocks(evidence: Evidence) -> Finding:
    errors, sines = [], []
    for name, (rule, lr) in RULES.items():
        found = [kept_blocks(depth, scale, rule, lr, 1500 if depth == 4 else STEPS) for depth in DEPTHS for scale in (0.1, 1.0)]
        errors.append(worst_of(evidence, f"‖W_l V_2 - ρ_l U_2‖, {name}", [each.error for each in found]))
        sines.append(worst_of(evidence, f"sine of the angle to V_1, {name}", [each.sine for each in found]))
    verdict = VERDICT[all_of([*(at_most(each, 1e-11) for each in errors), *(at_most(each, 1e-12) for each in sines)])]
    return Finding(verdict, "Bounds: 1e-11 for the blocks, 1e-12 for the sines; the worst of depths 2 to 4.", (*errors, *sines))


@claim(
    "C3",
    "Adam, which the authors fine-tune with, does not keep the blocks of the theorem: they are off by more than their own size ε.",
    source="the dossier's (section 1), of the paper's theorem and the authors' code",
    matched="60 x 60 of rank 3, depth 3, ε = 1e-3; AdamW as the authors set it (eps 1e-6, no decay), at three rates, theirs first; "
    "1000 steps",
)
def adam_breaks_them(evidence: Evidence) -> Finding:
    errors, others, rule = [], [], AdamW(weight_decay=0.0, eps=1e-6)
    for lr in (1e-4, 1e-3, 1e-2):
        found: Kept = kept_blocks(3, 1e-3, rule, lr, 1000, follow=False)
        errors.append(
            typical(evidence, f"distance of a block from a multiple of the theorem's, over ε, rate {lr:g}", found.error / 1e-3)
        )
        others.append(typical(evidence, f"sine of the angle to V_1 at the end, rate {lr:g}", found.sine))
        others.append(typical(evidence, f"relative error at the end, rate {lr:g}", found.left))
    verdict = VERDICT[all_of(opposite(at_most(each, 1.0)) for each in errors)]
    said = (
        "Bound: above 1; gradient descent stays below 1e-11 (C2). The sines tell whether what was learned lies in the 2r "
        "directions of the theorem all the same."
    )
    return Finding(verdict, said, (*errors, *others))


@claim(
    "C4",
    "A QR decomposition of the first gradient's r̂ leading singular vectors spans what the authors' null spaces span.",
    source="the dossier's (section 1), of the authors' code",
    matched="the same start and the same first gradient; 60 x 60 of rank 3, depths 2 to 4, ε = 1e-3, 0.1 and 1, float64",
)
def same_subspace(evidence: Evidence) -> Finding:
    exact = [bases(depth, scale, 3) for depth in DEPTHS for scale in SCALES]
    wider = [bases(depth, scale, 6) for depth in DEPTHS for scale in SCALES]
    figures = [
        worst_of(evidence, "distance of the projectors, r̂ = r", [each.apart for each in exact]),
        worst_of(evidence, "part of the theorem's V_1 that is missing, r̂ = r", [each.missing for each in exact]),
        worst_of(evidence, "part of the theorem's V_1 that is missing, r̂ = r + 3", [each.missing for each in wider]),
    ]
    said = "Bound: 1e-10. With r̂ above r neither subspace is unique, and ours must only hold the 2r directions of the theorem."
    return by_bound(figures, 1e-10, said)


@claim(
    "C5",
    "On c times the target the same run comes out with ε c^(1/L), η c^(2/L - 2) and γ c^(-2/L): γ means nothing without a scale.",
    source="the dossier's (section 1), of the scales that the authors' code is run at",
    matched="completion of 40 x 40, rank 2, 30 % observed; all factors train; ε = 0.1, η = 0.2, γ = 0.5; 300 steps, float64",
)
def scales_away(evidence: Evidence) -> Finding:
    problem = TruncatedGaussian(shape=(40, 40), rank=2, observed=0.3)
    figures = [
        worst_of(evidence, f"difference of relative errors, depth {depth}, c = {c:g}", [scaled_difference(problem, depth, c, 300)])
        for depth in DEPTHS
        for c in (63.0, 0.1)
    ]
    return by_bound(figures, 1e-6, "Bound: 1e-6 at every step; 63 is the spectral norm of the authors' 1000 x 1000 target.")


@claim(
    "C7",
    "A step of the compressed network takes at most a fifth of the time that one of the full network takes.",
    source=f"{PAPER}, the figure of the authors' code for 1000 x 1000 (about 7 times); threshold and sizes are the dossier's",
    matched="completion of rank 5, 20 % observed, depth 3, width 10 against full; float64, one thread, steps in turn on this "
    "machine; every seed a start of its own",
)
def takes_less_time(evidence: Evidence) -> Finding:
    ratios, others = [], []
    for size in (200, 400):
        found = [step_times(TruncatedGaussian(shape=(size, size), rank=5, observed=0.2), seed) for seed in SEEDS]
        ratios.append(
            typical(evidence, f"time of a step, compressed / full, {size} x {size}", [each.small / each.full for each in found])
        )
        others.append(
            typical(evidence, f"set-up in steps of the full network, {size} x {size}", [each.setup / each.full for each in found])
        )
        others.append(typical(evidence, f"seconds of a step of the full network, {size} x {size}", [each.full for each in found]))
    settled = by_bound(
        ratios, 1 / 5, "Bound: 1/5. The set-up, which decomposes the first gradient, is paid once and stands beside it."
    )
    return Finding(settled.verdict, settled.said, (*settled.figures, *others))
