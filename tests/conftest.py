"""What every test runs under."""

import sys
from pathlib import Path

import torch

# pytest puts this folder on the path, where tests/linalg would pass for the package linalg; the checkout comes first.
sys.path.insert(0, str(Path(__file__).parent.parent))

torch.set_num_threads(1)  # small matrices stall on several
