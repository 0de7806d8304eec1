"""How everything looks: one colour and one marker a method, font sizes, what figures are saved with."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import matplotlib

from bench.catalogue import entries
from bench.plots.sheet import SCREEN, Sheet, drawn_on

# Told apart with normal vision and with red or green blindness: Okabe and Ito's (2008) without black and yellow, then Tol's muted.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#332288", "#882255", "#999933", "#7F5539")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (1.2, 1.2), (7, 1.5, 1.2, 1.5), (3, 1, 1, 1, 1, 1))
PINNED = ("full", "lora", "op_lora", "deep", "deep_lora", "flora")  # a name here keeps its look whatever the catalogue gains

TRUTH, REFERENCE, FAINT = "#000000", "#555555", "#8A8A8A"
NOTE = SCREEN.note
LINE, MARKER = 1.5, 4.6
SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": "figure",  # texts are then measured once
    "svg.fonttype": "none",
    "svg.hashsalt": "lowrank-bench",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
}


@dataclass(frozen=True)
class Look:
    """How a method's line is drawn: the colour and the marker say which method, dashes and hollow markers which settings of it."""

    slot: int
    variant: int = 0

    @property
    def colour(self) -> str:
        return COLOURS[self.slot % len(COLOURS)]

    @property
    def marker(self) -> str:
        """Shifted by one with every round of the colours, so that no two of the first hundred methods share both."""
        return MARKERS[(self.slot + self.slot // len(COLOURS)) % len(MARKERS)]

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of `Axes.plot`."""
        dashes = DASHES[self.variant % len(DASHES)]
        hollow = self.variant // len(DASHES) % 2 == 1
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": (0, dashes) if dashes else "-",
            "markerfacecolor": "white" if hollow else self.colour,
            "markeredgecolor": self.colour if hollow else "white",
            "markeredgewidth": 1.0 if hollow else 0.5,
        }


def slots(names: Collection[str]) -> dict[str, int]:
    """Each method's place in the order of colours, the same in every figure and every sweep.

    Pinned names come first, then the rest of the catalogue by the alphabet. A name that the catalogue lacks has the place
    that its hash gives, or the next free one where another such name of the sweep has that.
    """
    known = {name: i for i, name in enumerate([*PINNED, *sorted(set(entries("parameterization")) - set(PINNED))])}
    looks = len(COLOURS) * len(MARKERS)
    found = {name: known[name] for name in names if name in known}
    for name in sorted(set(names) - set(known)):
        slot = len(known) + int(sha256(name.encode()).hexdigest(), 16) % max(1, looks - len(known))
        while slot in found.values():
            slot += 1
        found[name] = slot
    return found


@contextmanager
def house_style(sheet: Sheet = SCREEN) -> Iterator[None]:
    """Matplotlib's defaults with ours on top, whatever the user's own settings; put back on leaving."""
    with matplotlib.rc_context(), drawn_on(sheet):
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS | sizes(sheet))
        yield


def sizes(sheet: Sheet) -> dict[str, Any]:
    """What a sheet sets of matplotlib's parameters."""
    return {
        "font.size": sheet.text,
        "axes.labelsize": sheet.text,
        "axes.titlesize": sheet.panel,
        "xtick.labelsize": sheet.tick,
        "ytick.labelsize": sheet.tick,
        "legend.fontsize": sheet.text,
        "lines.linewidth": LINE * sheet.stroke,
        "lines.markersize": MARKER * sheet.stroke,
        "figure.dpi": sheet.dots,
    }
