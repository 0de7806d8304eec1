"""One file a method: a map from trainable tensors to a weight.

Every module here without a leading underscore holds one frozen dataclass and is found by walking the folder.
"""

from parameterizations._parameterization import Parameterization, Params, Step
from parameterizations.deep import Deep
from parameterizations.deep_lora import DeepLoRA
from parameterizations.flora import Flora
from parameterizations.full import Full
from parameterizations.lora import LoRA
from parameterizations.op_lora import OPLoRA
from parameterizations.svd import SVD

__all__ = ["SVD", "Deep", "DeepLoRA", "Flora", "Full", "LoRA", "OPLoRA", "Parameterization", "Params", "Step"]
