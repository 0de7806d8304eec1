"""The ledger of claims: a file a paper, each with its claims; `python -m bench claims` settles them all."""

import importlib
import pkgutil
from functools import cache

from bench.claims._claim import VERDICTS, Claim, Evidence, Figure, Finding

__all__ = ["VERDICTS", "Claim", "Evidence", "Figure", "Finding", "claims"]


@cache
def claims() -> dict[str, Claim]:
    """Every claim by its name, `<file>.<name>`, in the order of the files and of the lines in them."""
    found: dict[str, Claim] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: (module.name != "general", module.name)):
        if not module.name.startswith("_"):
            members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
            found |= {f"{module.name}.{each.name}": each for each in members if isinstance(each, Claim)}
    return found
