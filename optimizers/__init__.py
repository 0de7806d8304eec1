"""One file an update rule: in place, on named tensors, for any leading dimensions.

Every module here without a leading underscore holds one frozen dataclass and is found by walking the folder.
"""

from optimizers._manifold import TangentRule
from optimizers._optimizer import Optimizer
from optimizers._schedule import SCHEDULES, check_schedule, schedule_factor
from optimizers._state import State
from optimizers._torch_optimizer import SLOT, RuleOptimizer, torch_optimizer, unfit
from optimizers.adafactor import Adafactor
from optimizers.adagrad import Adagrad
from optimizers.adam import Adam
from optimizers.adamw import AdamW
from optimizers.als import ALS
from optimizers.flora import Flora
from optimizers.galore import GaLore
from optimizers.geolora import GeoLoRA
from optimizers.lbfgs import LBFGS
from optimizers.lion import Lion
from optimizers.lora_fa import LoRAFA
from optimizers.lora_muon import LoRAMuon
from optimizers.lora_plus import LoRAPlus
from optimizers.lora_pro import LoRAPro
from optimizers.lora_rite import LoRARITE
from optimizers.lorsum import LoRSum
from optimizers.momentum import Momentum
from optimizers.muon import Muon
from optimizers.riemannian_gd import RiemannianGD
from optimizers.rmsprop import RMSprop
from optimizers.scaled_adamw import ScaledAdamW
from optimizers.scaled_gd import ScaledGD
from optimizers.sgd import SGD
from optimizers.shampoo import Shampoo
from optimizers.soap import SOAP
from optimizers.svd_oracle import SVDOracle
from optimizers.torch import Torch

__all__ = [
    "ALS",
    "LBFGS",
    "SCHEDULES",
    "SGD",
    "SLOT",
    "SOAP",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Flora",
    "GaLore",
    "GeoLoRA",
    "Lion",
    "LoRAFA",
    "LoRAMuon",
    "LoRAPlus",
    "LoRAPro",
    "LoRARITE",
    "LoRSum",
    "Momentum",
    "Muon",
    "Optimizer",
    "RMSprop",
    "RiemannianGD",
    "RuleOptimizer",
    "SVDOracle",
    "ScaledAdamW",
    "ScaledGD",
    "Shampoo",
    "State",
    "TangentRule",
    "Torch",
    "check_schedule",
    "schedule_factor",
    "torch_optimizer",
    "unfit",
]
