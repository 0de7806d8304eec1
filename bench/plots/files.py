"""Figures as files whose bytes depend on nothing but what is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

KINDS: dict[str, dict[str, Any]] = {  # without a date
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 4}},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}


def save(figure: Figure, path: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a figure as each of the kinds; the paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in kinds:
        written.append(path.with_name(f"{path.name}.{kind}"))
        figure.savefig(written[-1], **KINDS[kind])
    return written
