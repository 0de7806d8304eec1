"""Words broken to a width."""

import re
import textwrap

POINT = 1 / 72
GLYPH, BOLD = 0.53, 1.18  # width of DejaVu Sans's mean character, in font sizes, and how much wider bold ones are, at most


def wrapped(text: str, inches: float, size: float, *, bold: bool = False) -> str:
    """Text broken into as few lines as fit a width; bold ones about equally long."""
    widest = max(12, int(inches / (GLYPH * (BOLD if bold else 1) * size * POINT)))
    text = " ".join(piece for word in text.split(" ") for piece in pieces_of(word, widest))
    lines = textwrap.wrap(text, widest)
    longest = max(map(len, text.split()), default=0)
    while bold and widest > longest and len(textwrap.wrap(text, widest - 1)) == len(lines):
        widest -= 1
        lines = textwrap.wrap(text, widest)
    return "\n".join(lines)


def pieces_of(word: str, widest: int) -> list[str]:
    """A word too long for a line in pieces, behind underscores, as few as fit."""
    pieces = [""]
    for part in re.split("(?<=_)", word):
        if len(word) > widest and len(pieces[-1] + part) > widest and pieces[-1]:
            pieces.append(part)
        else:
            pieces[-1] += part
    return pieces
