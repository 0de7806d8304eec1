"""Data sets of a hub, where one can be reached."""

from pathlib import Path
from typing import Any

from problems._fingerprints import of_folder, of_hub
from problems._task import unknown


def hub_part(problem: str, data: str, name: str, configuration: str | None, part: str, own: str = "reviews") -> Any:
    """The rows of a part of a data set, as the package datasets gives them.

    Args:
        data: as the user gave it.
        own: what needs no hub.

    Raises:
        InputError: where that package is missing, or no hub can be reached.
    """
    try:
        from datasets import load_dataset

        return load_dataset(name, configuration, split=part)
    except ImportError as error:
        raise unknown(problem, "data", data, f"{own}, or a hub's with the package datasets (pip install datasets)") from error
    except Exception as error:  # whatever the network or the hub raise
        raise unknown(problem, "data", data, f"{own}, or a data set where the hub can be reached", error) from error


def split_name(data: str) -> tuple[str, str | None]:
    """A data set's id and its configuration: `owner/name`, or `owner/name/configuration`; a folder has none."""
    if Path(data).is_dir():
        return data, None
    name, _, configuration = data.rpartition("/") if data.count("/") == 2 else (data, "", None)
    return name, configuration


def of_data(data: str) -> str:
    """What decides a data set beside its name: a folder's files, or a hub's revision."""
    return of_folder(Path(data)) if Path(data).is_dir() else of_hub(split_name(data)[0], "dataset")
