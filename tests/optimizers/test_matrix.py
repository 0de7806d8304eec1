"""What rules of matrices take for a matrix, and what becomes of vectors and numbers."""

import pytest
import torch
from by_hand import gaussian

from optimizers import Adafactor, AdamW, GaLore, Muon, Shampoo
from optimizers._matrix import own_dimensions


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"left": (6, 2), "right": (2, 5), "bias": (4,), "gate": ()}, (2, 2, 1, 0)),
        ({"left": (2, 3, 6, 2), "right": (2, 3, 2, 5), "bias": (2, 3, 4), "gate": (2, 3)}, (2, 2, 1, 0)),
        ({"left": (2, 3, 7, 6, 2), "shared": (2, 3, 2, 5), "bias": (2, 3, 7, 4), "gate": (2, 3, 7)}, (2, 2, 1, 0)),
        ({"left": (7, 6, 2), "shared": (2, 5), "bias": (7, 4)}, (2, 2, 1)),
        ({"bias": (2, 3, 4)}, (1,)),
        ({"update": (2, 3, 5, 4)}, (2,)),
        ({"update": (5, 4)}, (2,)),
    ],
)
def test_what_is_a_matrix_is_read_off_the_shapes(shapes, expected):
    assert tuple(own_dimensions({name: torch.zeros(shape) for name, shape in shapes.items()}).values()) == expected


@pytest.mark.parametrize("rule", [Muon(weight_decay=0.1), GaLore(weight_decay=0.1, eps=1e-8)])
def test_vectors_and_numbers_go_by_adamw(rule):
    params = {"left": gaussian(2, 3, 6, 2), "bias": gaussian(2, 3, 4, seed=1), "gate": gaussian(2, 3, seed=2)}
    twin = {name: params[name].clone() for name in ("bias", "gate")}
    plain, lr = AdamW(weight_decay=0.1), torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]).double()
    states = rule.init(params), plain.init(twin)
    for step in range(5):
        grads = {name: gaussian(*tensor.shape, seed=10 * step + i) for i, (name, tensor) in enumerate(params.items())}
        rule.update(params, grads, states[0], lr, step)
        plain.update(twin, {name: grads[name] for name in twin}, states[1], lr, step)
    for name, tensor in twin.items():
        torch.testing.assert_close(params[name], tensor)


@pytest.mark.parametrize("rule", [Adafactor(scale_parameter=False), Shampoo(eps=1e-12)])
def test_a_number_a_lane_is_a_lane_of_its_own(rule):
    params = {"left": gaussian(2, 3, 6, 2), "gate": torch.zeros(2, 3).double()}
    grads = {"left": gaussian(2, 3, 6, 2, seed=1), "gate": gaussian(2, 3, seed=2)}
    rule.update(params, grads, rule.init(params), torch.full((2, 3), 0.1).double(), 0)
    torch.testing.assert_close(params["gate"], -0.1 * grads["gate"].sign())
