import math

import pytest
import torch
from by_hand import seeded

from linalg import InputError
from parameterizations import Flora, LoRA, OPLoRA, Parameterization


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (LoRA(rank=4), 1.0),
        (LoRA(rank=4, alpha=32), 8.0),
        (LoRA(rank=4, alpha=2), 0.5),
        (LoRA(rank=4, rslora=True), 2.0),
        (LoRA(rank=4, alpha=32, rslora=True), 16.0),
        (OPLoRA(rank=4, alpha=32), 8.0),
        (OPLoRA(rank=4), 1.0),
        (Flora(rank=4, alpha=32), 8.0),
        (Flora(rank=4), 1.0),
    ],
    ids=repr,
)
def test_the_scale_is_alpha_over_the_rank_or_its_root(method, expected):
    assert method.scaling == expected
    assert method.weight(method.init((5, 6))).scale == expected


def drawn(m, n, **options):
    return LoRA(**options).init((m, n), generator=seeded(), dtype=torch.float64)


@pytest.mark.parametrize("init", ["kaiming", "gaussian", "orthogonal"])
def test_b_starts_at_zero_so_that_the_update_does_bitwise(init):
    params = drawn(30, 40, rank=4, init=init)
    assert not params["left"].any()
    assert not LoRA(rank=4, init=init).weight(params).dense().any()


@pytest.mark.parametrize("init", ["kaiming", "gaussian", "orthogonal"])
@pytest.mark.parametrize(("m", "n", "r"), [(9, 5, 2), (5, 9, 5), (6, 6, 1)])
def test_it_trains_r_times_both_sides(m, n, r, init):
    method = LoRA(rank=r, init=init)
    for layers in (None, 3):
        params = Parameterization.init(method, (m, n), base=torch.zeros(*([] if layers is None else [layers]), m, n), layers=layers)
        trained = sum(tensor.numel() for name, tensor in params.items() if name not in method.frozen)
        assert trained == (layers or 1) * r * (m + n)


def test_kaiming_is_uniform_within_one_over_the_root_of_the_inputs():
    right = drawn(50, 400, rank=50)["right"]
    bound = 1 / math.sqrt(400)
    assert right.shape == (50, 400)
    assert 0.999 * bound < right.abs().max() <= bound
    assert float(right.var()) == pytest.approx(bound**2 / 3, rel=0.02)
    assert abs(float(right.mean())) < 4 * bound / math.sqrt(3 * right.numel())


def test_gaussian_has_variance_one_over_the_rank_so_that_a_transposed_a_is_the_identity_on_average():
    right = drawn(50, 400, rank=50, init="gaussian")["right"]
    assert float(right.var()) == pytest.approx(1 / 50, rel=4 * math.sqrt(2 / right.numel()))


def test_orthogonal_has_orthonormal_rows():
    right = drawn(50, 60, rank=5, init="orthogonal")["right"]
    torch.testing.assert_close(right @ right.mT, torch.eye(5).double())


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"alpha": 0}, "alpha"),
        ({"alpha": -1}, "alpha"),
        ({"alpha": "8"}, "alpha"),
        ({"init": "zeros"}, "init"),
        ({"init": None}, "init"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        LoRA(**options)
