import pytest
import torch
from by_hand import gaussian, seeded

from bench.runs import run
from linalg import InputError
from optimizers import Adam
from parameterizations import LoKr
from parameterizations.lokr import kronecker, split
from problems import MatrixFactorization, Stack

CASES = [
    ((12, 10), {"rank": 1}),
    ((10, 12), {"rank": 2}),
    ((30, 24), {"rank": 2}),
    ((24, 30), {"rank": 2, "decompose_both": True}),
    ((36, 49), {"rank": 1, "decompose_both": True, "alpha": 3.0}),
    ((36, 49), {"rank": 3, "decompose_both": True}),  # the small matrix is full: 3 >= 7 / 2
    ((13, 12), {"rank": 2}),  # one side prime
    ((7, 11), {"rank": 3}),  # both prime: C is a number
    ((7, 12), {"rank": 3, "factor": 2}),
    ((48, 8), {"rank": 3, "factor": 1}),
    ((5, 4), {"rank": 4}),
    ((64, 2), {"rank": 2}),  # the factors of the second matrix are wider than it is
]
every_case = pytest.mark.parametrize(("shape", "options"), CASES, ids=str)


def moved(method, shape):
    params = method.init(shape, generator=seeded(), dtype=torch.float64)
    return {name: gaussian(*tensor.shape, seed=i) for i, (name, tensor) in enumerate(params.items())}


def whole(params, name):
    return params[name] if name in params else params[f"{name}_left"] @ params[f"{name}_right"]


@every_case
def test_the_update_is_torchs_kronecker_product(shape, options):
    method = LoKr(**options)
    params = moved(method, shape)
    first, second = whole(params, "first"), whole(params, "second")
    scale = method.alpha / method.rank if method.alpha else 1.0
    torch.testing.assert_close(method.weight(params).dense(), scale * torch.kron(first, second))
    assert method.weight(params).shape == shape


@every_case
def test_the_rank_is_the_product_of_the_ranks_and_the_chain_no_wider(shape, options):
    method = LoKr(**options)
    params = moved(method, shape)
    ranks = [int(torch.linalg.matrix_rank(whole(params, name))) for name in ("first", "second")]
    assert method.reach(shape) == ranks[0] * ranks[1] == method.weight(params).rank
    assert int(torch.linalg.matrix_rank(method.weight(params).dense())) == method.reach(shape)


def test_only_large_enough_matrices_are_products_of_low_rank():
    shapes = {name: tuple(tensor.shape) for name, tensor in moved(LoKr(rank=2), (30, 24)).items()}
    assert shapes == {"first": (5, 4), "second_left": (6, 2), "second_right": (2, 6)}  # 2 < 6 / 2
    shapes = {name: tuple(tensor.shape) for name, tensor in moved(LoKr(rank=3), (30, 24)).items()}
    assert shapes == {"first": (5, 4), "second": (6, 6)}
    both = moved(LoKr(rank=2, decompose_both=True), (30, 24))
    assert set(both) == {"first_left", "first_right", "second_left", "second_right"}  # 2 < 5 / 2


def test_it_needs_far_fewer_numbers_than_lora_of_that_rank():
    params = moved(LoKr(rank=4), (256, 256))
    assert sum(tensor.numel() for tensor in params.values()) == 16 * 16 + 4 * (16 + 16)
    assert LoKr(rank=4).reach((256, 256)) == 64  # for which LoRA takes 64 · 512 numbers


@pytest.mark.parametrize(
    ("side", "factor", "expected"),
    [  # LyCORIS, functional/general.py; its table gives 8, 45 and 12, 30 for 360, where its code finds the last two
        (127, -1, (1, 127)),
        (128, -1, (8, 16)),
        (128, 2, (2, 64)),
        (128, 4, (4, 32)),
        (128, 16, (8, 16)),
        (250, -1, (10, 25)),
        (250, 4, (2, 125)),
        (250, 8, (5, 50)),
        (250, 16, (10, 25)),
        (512, -1, (16, 32)),
        (1024, -1, (32, 32)),
        (64, 32, (2, 32)),
        (1, -1, (1, 1)),
        (360, -1, (18, 20)),
        (360, 16, (15, 24)),
    ],
)
def test_sides_split_as_in_lycoris(side, factor, expected):
    assert split(side, factor) == expected


@pytest.mark.parametrize("factor", [-1, 1, 3, 4, 10])
def test_every_side_splits(factor):
    for side in range(1, 200):
        p, q = split(side, factor)
        assert p * q == side
        assert 1 <= p <= q


def test_the_product_of_batches_is_each_ones_product():
    first, second = gaussian(2, 3, 4, 5, seed=1), gaussian(2, 1, 3, 2, seed=2)
    found = kronecker(first, second)
    assert found.shape == (2, 3, 12, 10)
    torch.testing.assert_close(found[1, 2], torch.kron(first[1, 2], second[1, 0]))


def test_what_is_drawn_is_uniform_within_one_over_the_root_of_its_columns():
    params = LoKr(rank=100, decompose_both=True, factor=256).init((256 * 400, 256 * 300), generator=seeded())
    for name, columns in (("first_left", 100), ("first_right", 256), ("second_left", 100)):
        bound = columns**-0.5
        assert 0.99 * bound < params[name].abs().max() <= bound
        assert float(params[name].var()) == pytest.approx(bound**2 / 3, rel=0.03)
    whole = LoKr(rank=200, factor=256).init((256 * 400, 256 * 300), generator=seeded())
    assert float(whole["first"].var()) == pytest.approx(1 / 256 / 3, rel=0.03)


@every_case
def test_it_starts_at_zero_with_a_gradient(shape, options):
    method = LoKr(**options)
    params = method.init(shape, generator=seeded(), dtype=torch.float64)
    last = "second" if "second" in params else "second_right"
    assert [name for name, tensor in params.items() if not tensor.any()] == [last]
    leaf = params[last].requires_grad_()
    (gradient,) = torch.autograd.grad((method.weight(params).dense() * gaussian(*shape)).sum(), leaf)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", [MatrixFactorization((20, 14)), MatrixFactorization((13, 20)), Stack((12, 10), (1, 3))])
@pytest.mark.parametrize("rank", [1, 4])
def test_it_trains_through_the_engine(problem, dtype, rank):
    lanes = run(problem, LoKr(rank=rank), Adam(), lr=[0.01], seeds=2, steps=300, dtype=dtype, probes="all").lanes
    assert (lanes.final_loss < lanes.initial_loss).all()
    assert (lanes.final_loss >= lanes.floor * (1 - 1e-4)).all()


@pytest.mark.parametrize(
    ("options", "key"),
    [({"alpha": 0}, "alpha"), ({"factor": 0}, "factor"), ({"factor": -2}, "factor"), ({"decompose_both": 1.5}, "decompose_both")],
)
def test_an_option_out_of_range_is_refused_by_name(options, key):
    with pytest.raises(InputError, match=f"^{key}="):
        LoKr(**options)
