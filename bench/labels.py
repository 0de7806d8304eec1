"""Settings as labels: what tells apart cells that share their names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.catalogue import AXES

Settings = Mapping[str, Any]  # by dotted path
QUIET = ("probes", "device", "timeout")  # decide what is measured, where and for how long, not what the method is
SAID = ("name", "_target_")  # by the names already


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting of a cell's configuration by its dotted path, but for the names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= settings(value, f"{prefix}{name}.")
        elif name not in SAID:
            flat[f"{prefix}{name}"] = value
    return flat


def of_problem(path: str) -> bool:
    return path.startswith("problem.")


def of_method(path: str) -> bool:
    return not of_problem(path) and path not in QUIET


def of_anything(path: str) -> bool:
    return True


def differences(cells: Sequence[Settings], wanted: Callable[[str], bool]) -> list[tuple[str, ...]]:
    """For each cell the wanted settings that differ between the cells, as `rank=4`."""
    return [tuple(f"{name}={text}" for name, text in found) for found in _differing(cells, wanted)]


def order(cell: Settings, wanted: Callable[[str], bool]) -> list[tuple[str, list[tuple[int, float, str]]]]:
    """A sort key for cells: their wanted settings, numbers by size and the rest by the alphabet."""
    return [(path, ranked(value)) for path, value in sorted(cell.items()) if wanted(path)]


def ranked(value: Any) -> list[tuple[int, float, str]]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [(0, float(each), "") if isinstance(each, (int, float)) else (1, 0.0, written("", each)) for each in values]


def _differing(cells: Sequence[Settings], wanted: Callable[[str], bool]) -> list[list[tuple[str, str]]]:
    known = dict.fromkeys(path for cell in cells for path in cell if wanted(path))
    paths = [path for path in known if len({written(path, cell[path]) if path in cell else "" for cell in cells}) > 1]
    leaves = [short(path) for path in paths]
    names = {path: leaf if leaves.count(leaf) == 1 else path for path, leaf in zip(paths, leaves, strict=True)}
    return [[(names[path], written(path, cell[path])) for path in paths if path in cell] for cell in cells]


def short(path: str) -> str:
    """A path without its axis: `rank` for `parameterization.rank`, but `lr.max`."""
    axis, _, rest = path.partition(".")
    return rest if axis in AXES else path


def written(path: str, value: Any) -> str:
    """A setting's value as a label has it."""
    if isinstance(value, (list, tuple)):
        return ("×" if path.endswith("shape") else ",").join(written("", each) for each in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)
