"""One file an update rule: in place, on named tensors, for any leading dimensions.

Every module here without a leading underscore holds one frozen dataclass and is found by walking the folder.
"""

from optimizers._optimizer import Optimizer, State
from optimizers._schedule import SCHEDULES, check_schedule, schedule_factor
from optimizers.adagrad import Adagrad
from optimizers.adam import Adam
from optimizers.adamw import AdamW
from optimizers.momentum import Momentum
from optimizers.rmsprop import RMSprop
from optimizers.sgd import SGD
from optimizers.torch import Torch

__all__ = [
    "SCHEDULES",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Momentum",
    "Optimizer",
    "RMSprop",
    "State",
    "Torch",
    "check_schedule",
    "schedule_factor",
]
