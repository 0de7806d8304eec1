"""ROUGE: how much of a summary's wording two texts share (Lin 2004)."""

import re
from collections import Counter
from collections.abc import Sequence


def rouge(summaries: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L in per cent: F-measures, the mean over pairs of a summary and its one reference.

    As the package rouge_score has them by default: no stemming, and a text is one sentence to ROUGE-L. Texts without words,
    or to ROUGE-2 without two, score 0, even where they are the same.
    """
    totals = dict.fromkeys(("rouge_1", "rouge_2", "rouge_l"), 0.0)
    for summary, reference in zip(summaries, references, strict=True):
        found, wanted = words(summary), words(reference)
        totals["rouge_1"] += f_measure(shared(found, wanted, 1), len(found), len(wanted))
        totals["rouge_2"] += f_measure(shared(found, wanted, 2), len(found) - 1, len(wanted) - 1)
        totals["rouge_l"] += f_measure(common_subsequence(found, wanted), len(found), len(wanted))
    return {name: 100 * total / max(len(summaries), 1) for name, total in totals.items()}


def words(text: str) -> list[str]:
    """Runs of a-z and 0-9, in lower case; other letters separate."""
    return re.findall(r"[a-z0-9]+", text.lower())


def shared(first: Sequence[str], second: Sequence[str], n: int) -> int:
    """How many runs of n words are in both, each as often as where it comes less often."""
    counts = [Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (first, second)]
    return (counts[0] & counts[1]).total()


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, in O(len(second)) operations on integers of len(first) bits."""
    places: Counter[str] = Counter()
    for i, word in enumerate(first):
        places[word] |= 1 << i
    # A row of the table of lengths steps up by 0 or 1; `flat` has a bit where it does not (Hyyrö 2004).
    flat = every = (1 << len(first)) - 1
    for word in second:
        matches = flat & places[word]
        flat = ((flat + matches) | (flat - matches)) & every
    return len(first) - flat.bit_count()


def f_measure(hits: int, found: int, wanted: int) -> float:
    """The harmonic mean of hits / found and hits / wanted."""
    return 2 * hits / (found + wanted) if hits else 0.0
