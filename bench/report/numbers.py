"""Numbers as the page's files hold them: short, and none of them lost."""

import json
import math
from typing import Any

import numpy as np

DIGITS = 5  # significant ones


def plain(value: Any) -> Any:
    """Plain data of nested data: numbers to `DIGITS` digits, NaN (not measured) as None, infinity (diverged, never) as it is."""
    if isinstance(value, (float, np.floating)):
        return short(float(value))
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value.tolist()]
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def short(value: float) -> float | int | None:
    """To `DIGITS` digits, whole where it is a whole number: `300`, not `300.0`."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return value
    value = float(f"{value:.{DIGITS}g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def script(name: str, content: Any) -> str:
    """A file that hands plain data to the page: pages opened from disk may not read files, but they may run scripts.

    Python's JSON spells an infinite number `Infinity`, which JavaScript takes as it stands.
    """
    return f"Report.receive({json.dumps(name)}, {json.dumps(content, separators=(',', ':'))});\n"
