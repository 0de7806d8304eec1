"""What decides weights and data beside their names: for keys, so that a cell runs again when any of it has changed."""

import contextlib
import hashlib
from functools import cache
from pathlib import Path

SECONDS = 5.0  # that a hub is waited for


def of_folder(folder: Path) -> str:
    """A digest of all files of a folder by name and content; "" where it is none. What is hidden does not count."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not hidden(file.relative_to(folder)))
    return of_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files), folder) if files else ""


def of_contents(*files: Path) -> str:
    """A digest of what files hold, whatever their names."""
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


def hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@cache  # by size and time, too: a sweep asks once a cell, and a pipeline has gigabytes
def of_files(stamped: tuple[tuple[Path, int, int], ...], folder: Path) -> str:
    found = hashlib.sha256()
    for file, size, _ in stamped:
        found.update(f"{file.relative_to(folder)} {size} ".encode())
        with open(file, "rb") as handle:
            while piece := handle.read(1 << 22):
                found.update(piece)
    return found.hexdigest()


@cache
def of_hub(name: str, kind: str) -> str:
    """The revision of a hub's model or dataset: the hub's present one, or the one that is kept here where no hub is in reach.

    Args:
        kind: model or dataset.
    """
    with contextlib.suppress(Exception):  # whatever a network or a name that is none raise
        from huggingface_hub import HfApi

        api = HfApi()
        asked = api.model_info if kind == "model" else api.dataset_info
        return str(asked(name, timeout=SECONDS).sha)
    with contextlib.suppress(Exception):
        from huggingface_hub import constants

        kept = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}" / "refs" / "main"
        return kept.read_text().strip()
    return ""
