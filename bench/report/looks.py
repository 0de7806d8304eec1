"""Each method's colour, marker and dashes: those of the figures, with enough contrast on a light and on a dark page."""

from typing import Any

from bench.plots.style import DASHES, Look, slots
from bench.study import Study

LIGHT, DARK = "#FFFFFF", "#14181D"  # what charts stand on: --surface in style.css
CONTRAST = 3.0  # of lines beside what they stand on: WCAG 2.2, 1.4.11


def looks(study: Study) -> dict[str, dict[str, Any]]:
    """By method: the parameterization has the colour and the marker, its optimizers and settings have dashes."""
    names = {method: cell.summary["parameterization"] for (_, method), cell in study.cells.items()}
    places = slots(set(names.values()))
    found = {}
    for name in sorted(set(names.values())):
        for variant, method in enumerate(each for each in study.methods if names[each] == name):
            look = Look(places[name], variant)
            found[method] = {
                "light": readable(look.colour, LIGHT),
                "dark": readable(look.colour, DARK),
                "marker": look.marker,
                "dash": [2 * length for length in DASHES[variant % len(DASHES)]],
                "hollow": variant // len(DASHES) % 2 == 1,
            }
    return found


def readable(colour: str, ground: str) -> str:
    """The colour, moved towards black or white as little as `CONTRAST` with the ground demands."""
    towards = 0.0 if luminance(ground) > 0.5 else 1.0
    for share in range(101):
        mixed = tuple((1 - share / 100) * part + share / 100 * towards for part in parts(colour))
        written = "#" + "".join(f"{round(255 * part):02X}" for part in mixed)
        if contrast(written, ground) >= CONTRAST:
            return written
    raise AssertionError("black and white are always readable")


def parts(colour: str) -> tuple[float, float, float]:
    """Red, green and blue from 0 to 1."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def luminance(colour: str) -> float:
    """Relative luminance, from 0 for black to 1 for white. Source: WCAG 2.2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """From 1 to 21. Source: WCAG 2.2."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
