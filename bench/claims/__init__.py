"""The ledger of claims: a file a paper, or several that name it as `LEDGER`; `python -m bench claims` settles them all."""

import importlib
import pkgutil
import re
from functools import cache

from bench.claims._claim import VERDICTS, Claim, Evidence, Figure, Finding

__all__ = ["VERDICTS", "Claim", "Evidence", "Figure", "Finding", "claims"]


@cache
def claims() -> dict[str, Claim]:
    """Every claim by its name, `<file or LEDGER>.<name>`: those of nobody in particular first, then paper by paper, by number.

    Raises:
        ValueError: where two claims share a name.
    """
    found: dict[str, Claim] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        paper = getattr(module, "LEDGER", info.name)
        for each in vars(module).values():
            if isinstance(each, Claim):
                name = f"{paper}.{each.name}"
                if found.get(name, each) is not each:
                    raise ValueError(f"{name}: two claims have this name")
                found[name] = each
    return {name: found[name] for name in sorted(found, key=_place)}


def _place(name: str) -> tuple[bool, str, list[tuple[str, int]]]:
    """General claims first, papers by the alphabet, C2 before C10."""
    paper, _, own = name.partition(".")
    return paper != "general", paper, [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", own)]
