"""One file a method: a map from trainable tensors to a weight.

Every module here without a leading underscore holds one frozen dataclass and is found by walking the folder.
"""

from parameterizations._parameterization import Parameterization
from parameterizations._step import Params, Step
from parameterizations.adalora import AdaLoRA
from parameterizations.color import CoLoR
from parameterizations.deep import Deep
from parameterizations.deep_lora import DeepLoRA
from parameterizations.dora import DoRA
from parameterizations.fed_lora import FedLoRA
from parameterizations.flat_lora import FlatLoRA
from parameterizations.flora import Flora
from parameterizations.full import Full
from parameterizations.loha import LoHa
from parameterizations.lokr import LoKr
from parameterizations.lora import LoRA
from parameterizations.lora_fa import LoRAFA
from parameterizations.lorta import LoRTA
from parameterizations.op import OP
from parameterizations.op_dora import OPDoRA
from parameterizations.op_lora import OPLoRA
from parameterizations.polar import PoLAR
from parameterizations.relora import ReLoRA
from parameterizations.sora import SoRA
from parameterizations.stella import StelLA
from parameterizations.svd import SVD
from parameterizations.vera import VeRA
from parameterizations.xgblora import XGBLoRA

__all__ = [
    "OP",
    "SVD",
    "AdaLoRA",
    "CoLoR",
    "Deep",
    "DeepLoRA",
    "DoRA",
    "FedLoRA",
    "FlatLoRA",
    "Flora",
    "Full",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRAFA",
    "LoRTA",
    "OPDoRA",
    "OPLoRA",
    "Parameterization",
    "Params",
    "PoLAR",
    "ReLoRA",
    "SoRA",
    "StelLA",
    "Step",
    "VeRA",
    "XGBLoRA",
]
