"""The parameterizations inside real models, and out again as plain LoRA files.

`attach` trains a model's LoRA pairs, those of peft, diffusers or `wrap`, in any parameterization of the catalogue; `bake` makes
them plain LoRA again, `export` writes a file that peft, diffusers and inference servers load, `save` and `load` keep training.
"""

from adapters._attach import attach, refusal
from adapters._bake import bake, detach
from adapters._export import export
from adapters._report import report, trainable_parameters
from adapters._run_lora import runlora
from adapters._state import load, save
from adapters._wrap import merge, wrap

__all__ = [
    "attach",
    "bake",
    "detach",
    "export",
    "load",
    "merge",
    "refusal",
    "report",
    "runlora",
    "save",
    "trainable_parameters",
    "wrap",
]
