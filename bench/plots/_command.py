"""`python -m bench plot`."""

import argparse
import sys
from collections.abc import Sequence

from bench import plots
from bench.plots.files import KINDS
from bench.plots.sheet import LEAST, MOST, SCREEN, WIDTHS
from bench.plots.sweep import Choice
from linalg import InputError
from linalg.checks import check_choice


def main(arguments: list[str]) -> int:
    """Draw a sweep's figures again from what is stored, as PNG, SVG and PDF."""
    from bench.cli import stored_sweep

    parser = argparse.ArgumentParser(prog="python -m bench plot", description=main.__doc__)
    parser.add_argument(
        "figures", nargs="*", metavar="figure=NAME,...", help=f"of {', '.join(plots.FIGURES)}; all if none is named"
    )
    widths = ", ".join(f"{name} ({inches:g} inches)" for name, inches in WIDTHS.items())
    parser.add_argument(
        "--width",
        default=None,
        help=f"for print, this wide in all: {widths}, or inches from {LEAST:g} to {MOST:g} (default: for a screen)",
    )
    parser.add_argument("--problem", action="append", default=[], metavar="NAME", help="only this problem; may be repeated")
    parser.add_argument("--optimizer", action="append", default=[], metavar="NAME", help="only this optimizer; may be repeated")
    name, store, keys = stored_sweep(parser, arguments)
    options = parser.parse_args(arguments)
    sheet = SCREEN if options.width is None else plots.Sheet.printed(options.width)
    choice = Choice(tuple(options.problem), tuple(options.optimizer), sheet, tuple(KINDS))
    figures = named(options.figures)
    paths = plots.draw(store, name, keys, figures, choice=choice)
    for path in paths:
        print(path)
    if said := plots.left_out(store, keys, figures, choice):
        print(said, file=sys.stderr)
    if not paths:
        print(f"nothing was measured that {', '.join(figures)} could show", file=sys.stderr)
    return 0


def named(words: Sequence[str]) -> list[str]:
    """The figures that words such as `profiles` and `figure=profiles,convergence` name; all where there are no words.

    Raises:
        InputError: where one names no figure.
    """
    if not words:
        return list(plots.FIGURES)
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key not in ("figure", "figures"):
            raise InputError(f"{word}: plot takes figure=NAME,... and the options of python -m bench plot --help")
        found += [each.strip() for each in (value if equals else word).strip("[]").split(",")]
    for each in found:
        check_choice("figure", each, plots.FIGURES)
    return list(dict.fromkeys(found))
