"""The synthetic problems against closed forms, autograd and references of their own."""

import math
import pickle
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from by_hand import gaussian, seeded

from linalg import FactoredMatrix, InputError, effective_rank
from parameterizations import Step
from problems import (
    DeepMatrixCompletion,
    Hilbert,
    IllConditioned,
    LinearRegression,
    MatrixCompletion,
    MatrixFactorization,
    MatrixFile,
)

APPROXIMATIONS = {
    "uniform": MatrixFactorization(shape=(24, 20)),
    "gaussian": MatrixFactorization(shape=(20, 24), kind="gaussian"),
    "low rank": MatrixFactorization(shape=(24, 20), kind="low_rank", rank=3),
    "spectrum": MatrixFactorization(shape=(24, 20), kind="low_rank", rank=3, spectrum=(5.0, 3.0, 0.1)),
    "hilbert": Hilbert(shape=(24, 20)),
    "ill-conditioned": IllConditioned(shape=(20, 24), rank=5, condition=1e4),
}
REGRESSIONS = {
    "regression": LinearRegression(shape=(24, 20), rank=3, noise=0.3),
    "regression of few samples": LinearRegression(shape=(20, 24), rank=3, samples=15),
}
COMPLETIONS = {
    "completion": MatrixCompletion(shape=(24, 20), rank=2, observed=0.37, noise=0.1),  # 177.6 entries
    "completion of few entries": MatrixCompletion(shape=(30, 40), rank=2, observed=0.04, validation=0.5),
    "deep completion": DeepMatrixCompletion(shape=(20, 20)),
}
PROBLEMS = APPROXIMATIONS | REGRESSIONS | COMPLETIONS
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
every_reduction = pytest.mark.parametrize("reduction", ["sum", "mean", "relative"])


def draw(problem, seed=0, **options):
    return replace(problem, **options).draw(seed, dtype=torch.float64)


def thin(shape, *leading, seed=0, base=None):
    """A weight whose parts are a pair."""
    pair = gaussian(*leading, shape[0], 2, seed=seed), gaussian(*leading, 2, shape[1], seed=seed + 1)
    weight = FactoredMatrix(tuple(part.requires_grad_() for part in pair), base, 0.3)
    assert len(weight.parts) == 2
    return weight


def thick(shape, *leading, seed=0, base=None):
    """A weight whose only part is the update."""
    weight = FactoredMatrix((gaussian(*leading, *shape, seed=seed).requires_grad_(),), base, 0.3)
    assert len(weight.parts) == 1
    return weight


# Targets


@pytest.mark.parametrize("problem", [*APPROXIMATIONS.values(), *COMPLETIONS.values()], ids=[*APPROXIMATIONS, *COMPLETIONS])
def test_a_target_has_spectral_norm_one_unless_it_is_left_alone(problem):
    assert np.linalg.norm(draw(problem).truth, 2) == pytest.approx(1)
    plain, scaled = draw(problem, normalize="none").truth, draw(problem).truth
    torch.testing.assert_close(plain / torch.linalg.matrix_norm(plain, 2), scaled)


def test_an_unscaled_target_is_the_matrix_named():
    rows, columns = np.indices((7, 5))
    torch.testing.assert_close(draw(Hilbert(), shape=(7, 5), normalize="none").target, torch.tensor(1 / (rows + columns + 1)))
    uniform = draw(MatrixFactorization(), normalize="none").target
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 64 * 64))
    normal = draw(MatrixFactorization(kind="gaussian"), normalize="none").target
    assert float(normal.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / 64**2))


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e4, 1e8])
@pytest.mark.parametrize("rank", [1, 2, 5, 8])
@pytest.mark.parametrize(
    ("spectrum", "law"),
    [
        ("geometric", lambda i, k, c: c ** (-(i - 1) / (k - 1)) if k > 1 else 1.0),
        ("polynomial", lambda i, k, c: i ** (-math.log(c) / math.log(k)) if k > 1 else 1.0),
        ("step", lambda i, k, c: 1.0 if i <= k - k // 2 else 1 / c),
    ],
)
def test_an_ill_conditioned_target_has_the_spectrum_asked_for(spectrum, law, rank, condition):
    instance = IllConditioned(shape=(20, 12), rank=rank, condition=condition, spectrum=spectrum).draw(1)
    values = np.linalg.svd(instance.target, compute_uv=False)
    expected = [law(i, rank, condition) for i in range(1, rank + 1)]
    np.testing.assert_allclose(values[:rank], expected, rtol=1e-7 / min(1.0, 1e6 / condition), atol=0)
    assert np.all(values[rank:] < 1e-14)
    if rank > 1:
        assert values[0] / values[rank - 1] == pytest.approx(condition, rel=1e-6)


@pytest.mark.parametrize("condition", [3.0, 700.0])
def test_the_small_values_of_a_step_spectrum_have_every_digit_of_float64(condition):
    values = np.linalg.svd(IllConditioned(rank=4, spectrum="step", condition=condition).draw(1).target, compute_uv=False)
    np.testing.assert_allclose(values[:4], [1, 1, 1 / condition, 1 / condition], rtol=1e-12)


def test_a_low_rank_target_has_the_values_given_or_equal_ones():
    values = np.linalg.svd(draw(PROBLEMS["spectrum"], normalize="none").target, compute_uv=False)
    np.testing.assert_allclose(values[:4], [5, 3, 0.1, 0], rtol=1e-12, atol=1e-14)
    values = np.linalg.svd(draw(PROBLEMS["low rank"]).target, compute_uv=False)
    np.testing.assert_allclose(values[:4], [1, 1, 1, 0], atol=1e-14)


def test_the_uniform_target_has_one_dominant_direction():
    instance = MatrixFactorization(shape=(100, 100)).draw(
        0, dtype=torch.float64
    )  # the dossier: σ1 ≈ 50, σ2 ≈ 5.6, floors .082 and .063
    values = instance.spectrum * torch.linalg.matrix_norm(draw(MatrixFactorization(), shape=(100, 100), normalize="none").target, 2)
    assert float(values[0]) == pytest.approx(50.2, abs=1)
    assert float(values[1]) == pytest.approx(5.6, abs=0.4)
    assert float(effective_rank(values[:8])) == pytest.approx(4.45, abs=0.3)
    mean = draw(MatrixFactorization(), shape=(100, 100), normalize="none", reduction="mean")
    assert mean.best(1) == pytest.approx(0.082, abs=0.003)
    assert mean.best(8) == pytest.approx(0.063, abs=0.003)


# What the best weight of a rank reaches


def alternating_least_squares(x, y, rank, seed, rounds=400):
    """½ ‖L R X - Y‖² at a local minimum over L (m, r) and R (r, n)."""
    left = gaussian(y.shape[0], rank, seed=seed)
    gram = torch.linalg.pinv(x @ x.mT)
    for _ in range(rounds):
        left = torch.linalg.qr(left).Q
        right = left.mT @ y @ x.mT @ gram
        hidden = right @ x
        left = y @ torch.linalg.pinv(hidden)
    return 0.5 * (left @ hidden - y).square().sum()


@pytest.mark.parametrize("samples", [0, 40, 10])
def test_the_best_of_a_regression_is_what_alternating_least_squares_reach(samples):
    instance = LinearRegression(shape=(8, 12), rank=3, noise=0.5, samples=samples).draw(0, dtype=torch.float64)
    x, y = instance.inputs, instance.outputs - instance.pretrained @ instance.inputs
    for rank in (1, 2, 4):
        reached = min(float(alternating_least_squares(x, y, rank, seed)) for seed in range(3))
        assert instance.best(rank) == pytest.approx(reached, rel=1e-6)


def test_the_best_of_a_completion_is_zero_from_the_hidden_rank_on_and_unknown_below_or_with_noise():
    clean = draw(COMPLETIONS["completion of few entries"])
    assert [clean.best(rank) for rank in (1, 2, 9)] == [None, 0.0, 0.0]
    assert float(clean.loss(FactoredMatrix((clean.hidden,)))) < 1e-25
    assert draw(COMPLETIONS["completion"]).best(5) is None


# Regression


def test_a_regression_starts_from_a_pretrained_weight_that_decays_and_hides_a_shift():
    instance = draw(LinearRegression(shape=(14, 10), rank=3, decay=1.5, shift=0.7))
    np.testing.assert_allclose(np.linalg.svd(instance.base, compute_uv=False), np.arange(1, 11) ** -1.5)
    np.testing.assert_allclose(np.linalg.svd(instance.truth, compute_uv=False)[:4], [0.7, 0.7, 0.7, 0], atol=1e-14)
    torch.testing.assert_close(instance.truth, instance.target - instance.base)
    assert np.linalg.norm(instance.inputs, 2) == pytest.approx(1)
    assert instance.inputs.shape == (10, 40)
    torch.testing.assert_close(instance.outputs, instance.target @ instance.inputs)


def test_the_inputs_covariance_has_the_condition_asked_for():
    instance = draw(LinearRegression(shape=(5, 6), rank=2, condition=100.0, samples=40_000))
    values = np.linalg.svd(instance.inputs, compute_uv=False)
    np.testing.assert_allclose(values, 100.0 ** (-np.arange(6) / 10), rtol=0.03)


def test_the_labels_noise_is_relative_to_what_is_to_be_learned():
    instance = draw(LinearRegression(shape=(30, 20), rank=3, noise=0.5, shift=0.01, samples=400))
    signal = (instance.target - instance.base) @ instance.inputs
    noise = instance.outputs - instance.target @ instance.inputs
    assert float(noise.square().mean() / signal.square().mean()) == pytest.approx(0.25, rel=4 * math.sqrt(2 / noise.numel()))


def test_at_no_update_a_regressions_loss_is_that_of_the_hidden_shift():
    instance = draw(LinearRegression(shape=(14, 10), rank=3))
    nothing = FactoredMatrix((torch.zeros(14, 10).double(),), instance.base)
    expected = 0.5 * ((instance.target - instance.base) @ instance.inputs).square().sum()
    torch.testing.assert_close(instance.loss(nothing), expected)
    without_base = instance.loss(FactoredMatrix((torch.zeros(14, 10).double(),)))
    torch.testing.assert_close(without_base, 0.5 * (instance.target @ instance.inputs).square().sum())
    torch.testing.assert_close(instance.measure(nothing)["relative_error"], torch.ones(()).double())


# Completion


@pytest.mark.parametrize(
    ("shape", "observed", "validation"),
    [((24, 20), 0.37, 0.1), ((7, 9), 0.38, 0.3), ((30, 40), 0.04, 0.5), ((10, 10), 0.999 / 3, 0.01)],
)
def test_the_entries_of_a_completion_are_split_without_overlap_or_rest(shape, observed, validation):
    instance = draw(MatrixCompletion(shape=shape, rank=2, observed=observed, validation=validation))
    m, n = shape
    count = int(observed * m * n)
    assert instance.observed.shape == (count,)
    assert instance.validation.shape == (max(1, int(validation * count)),)
    every = torch.cat([instance.observed, instance.validation, instance.test])
    assert sorted(every.tolist()) == list(range(m * n))
    for index, values in (
        (instance.observed, instance.values),
        (instance.validation, instance.validation_values),
        (instance.test, instance.test_values),
    ):
        assert torch.equal(index, index.sort().values)
        assert torch.equal(instance.hidden[index // n, index % n], values)


def test_noise_is_on_the_observed_entries_alone():
    instance = draw(MatrixCompletion(shape=(60, 70), rank=2, noise=0.2))
    flat = instance.hidden.flatten()
    assert torch.equal(flat[instance.validation], instance.validation_values)
    assert torch.equal(flat[instance.test], instance.test_values)
    noise = instance.values - flat[instance.observed]
    assert float(noise.square().mean() / flat.square().mean()) == pytest.approx(0.04, rel=4 * math.sqrt(2 / len(noise)))


def test_the_hidden_matrix_of_a_completion_is_of_the_rank_asked_for():
    values = np.linalg.svd(draw(MatrixCompletion(shape=(20, 30), rank=3)).hidden, compute_uv=False)
    assert values[2] > 0.1
    assert values[3] < 1e-14


def test_a_completion_reports_root_mean_square_errors_on_what_it_held_out():
    instance = draw(COMPLETIONS["completion"])
    w = gaussian(24, 20)
    measures = instance.measure(FactoredMatrix((w,)))
    flat = w.flatten() - instance.hidden.flatten()
    for part, index in (("validation", instance.validation), ("test", instance.test)):
        torch.testing.assert_close(measures[f"{part}_rmse"], flat[index].square().mean().sqrt())
    torch.testing.assert_close(measures["relative_error"], flat.norm() / instance.hidden.norm())


def test_errors_are_reported_in_the_datas_units_and_losses_in_the_scaled_ones():
    scaled = draw(COMPLETIONS["completion"])
    in_units = replace(scaled, unit=torch.tensor(7.0).double())
    weight = FactoredMatrix((gaussian(24, 20),))
    expected, found = scaled.measure(weight), in_units.measure(weight)
    for name, times in {"loss": 1, "validation_rmse": 7, "test_rmse": 7, "relative_error": 1}.items():
        torch.testing.assert_close(found[name], times * expected[name])


def test_without_a_hidden_matrix_the_relative_error_is_that_of_the_test_entries():
    instance = replace(draw(COMPLETIONS["completion"]), hidden=None, unit=torch.tensor(7.0).double())
    w = gaussian(24, 20)
    residual = w.flatten()[instance.test] - instance.test_values
    expected = residual.norm() / instance.test_values.norm()
    torch.testing.assert_close(instance.measure(FactoredMatrix((w,)))["relative_error"], expected)


# Losses


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("sum", lambda residual, start, p: 0.5 * residual.square().sum() / p),
        ("mean", lambda residual, start, p: residual.square().mean()),
        ("relative", lambda residual, start, p: residual.square().sum() / start.square().sum()),
    ],
)
@every_problem
def test_a_reduction_scales_the_sum_of_squares(problem, reduction, expected):
    instance = draw(problem, reduction=reduction)
    w, fraction = gaussian(*instance.shape, seed=3), 1.0
    if isinstance(problem, LinearRegression):
        residual = w @ instance.inputs - instance.outputs
        start = instance.outputs - instance.base @ instance.inputs
    elif isinstance(problem, MatrixCompletion):
        residual, start = w.flatten()[instance.observed] - instance.values, instance.values
        fraction = len(start) / w.numel()
    else:
        residual, start = w - instance.target, instance.target
    torch.testing.assert_close(instance.loss(FactoredMatrix((w,))), expected(residual, start, fraction))


# Batches


def regression_of_batches(samples=6, batch_size=2):
    return draw(LinearRegression(shape=(24, 20), rank=2, samples=samples, batch_size=batch_size, noise=0.2))


@pytest.mark.parametrize("make", [thin, thick])
@every_reduction
def test_the_gradient_and_the_loss_of_all_batches_average_to_those_of_all_samples(make, reduction):
    problem = LinearRegression(shape=(24, 20), rank=2, samples=6, batch_size=2, noise=0.2, reduction=reduction)
    instance = problem.draw(0, dtype=torch.float64)
    weight = make(instance.shape, base=instance.base)
    batches = [torch.tensor(batch) for batch in combinations(range(6), 2)]
    grads = [instance.gradient(weight, batch) for batch in batches]
    for part, full in enumerate(instance.gradient(weight)):
        torch.testing.assert_close(torch.stack([grad[part] for grad in grads]).mean(0), full)
    torch.testing.assert_close(torch.stack([instance.loss(weight, batch) for batch in batches]).mean(), instance.loss(weight))


@pytest.mark.parametrize("make", [thin, thick])
def test_a_batch_of_all_samples_in_any_order_is_the_full_gradient(make):
    instance = regression_of_batches(samples=9, batch_size=9)
    weight = make(instance.shape, base=instance.base)
    batch = instance.batch(Step(0, generators=[seeded()]))
    assert sorted(batch.tolist()) == list(range(9))
    torch.testing.assert_close(instance.gradient(weight, batch), instance.gradient(weight))
    torch.testing.assert_close(instance.loss(weight, batch), instance.loss(weight))


def test_batches_are_drawn_evenly_and_without_repetition():
    instance, generators = regression_of_batches(samples=8, batch_size=3), [seeded()]
    draws = 2000
    batches = torch.stack([instance.batch(Step(step, generators=generators)) for step in range(draws)])
    assert all(len(set(batch)) == 3 for batch in batches.tolist())
    share = torch.bincount(batches.flatten(), minlength=8) / draws
    assert (share - 3 / 8).abs().max() < 4 * math.sqrt(3 / 8 * 5 / 8 / draws)


# Options


@every_problem
def test_a_problem_where_rounding_decides_trains_in_float64(problem):
    double = isinstance(problem, (Hilbert, IllConditioned, DeepMatrixCompletion))
    assert problem.dtype == (torch.float64 if double else torch.float32)


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: MatrixFactorization(kind="low_rank", rank=65), "rank"),
        (lambda: MatrixFactorization(kind="low_rank", rank=2, spectrum=(1.0,)), "spectrum"),
        (lambda: MatrixFactorization(kind="low_rank", rank=2, spectrum=(1.0, -1.0)), "spectrum"),
        (lambda: Hilbert(shape=(0, 4)), "shape"),
        (lambda: IllConditioned(condition=0.5), "condition"),
        (lambda: IllConditioned(condition=1e13), "condition"),
        (lambda: IllConditioned(shape=(4, 4), rank=5), "rank"),
        (lambda: LinearRegression(shift=0), "shift"),
        (lambda: LinearRegression(samples=10, batch_size=11), "samples|batch_size"),
        (lambda: MatrixCompletion(observed=0), "observed"),
        (lambda: MatrixCompletion(shape=(4, 4), rank=1, observed=1).draw(), "observed"),
        (lambda: MatrixCompletion(shape=(4, 4), rank=1, observed=0.01).draw(), "observed"),
        (lambda: MatrixCompletion(validation=0), "validation"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(build, key):
    with pytest.raises(InputError, match=f"^({key})="):
        build()


# Files


def written(folder, matrix, name):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, matrix, allow_pickle=True)
    else:
        scipy.io.mmwrite(path, matrix)
    return str(path)


@pytest.mark.parametrize("kind", ["float64.npy", "float32.npy", "integers.npy", "dense.mtx", "sparse.mtx"])
def test_a_matrix_is_read_from_a_file(tmp_path, kind):
    matrix = np.arange(12.0).reshape(4, 3) + np.eye(4, 3)
    matrix[0, 1] = 0
    stored = {
        "float32.npy": matrix.astype(np.float32),
        "integers.npy": matrix.astype(int),
        "sparse.mtx": scipy.sparse.coo_array(matrix),
    }
    path = written(tmp_path, stored.get(kind, matrix), kind)
    instance = MatrixFile(path=path, normalize="none").draw(0)
    assert instance.target.dtype == torch.float64
    np.testing.assert_array_equal(instance.target, matrix)
    assert np.linalg.norm(MatrixFile(path=path).draw(0).target, 2) == pytest.approx(1)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert instance.best(1) == pytest.approx(0.5 * (values[1:] ** 2).sum())


def test_every_seed_reads_the_same_matrix_and_another_content_is_another_fingerprint(tmp_path):
    path = written(tmp_path, np.eye(3), "matrix.npy")
    assert torch.equal(MatrixFile(path=path).draw(0).target, MatrixFile(path=path).draw(1).target)
    before = MatrixFile(path=path).fingerprint()
    written(tmp_path, 2 * np.eye(3), "matrix.npy")
    assert MatrixFile(path=path).fingerprint() != before


REFUSED = {
    "missing.npy": None,
    "missing.mtx": None,
    "pickle.npy": np.array([[1, "a"], [None, 2]], dtype=object),
    "nan.npy": np.array([[1.0, np.nan]]),
    "infinite.npy": np.array([[1.0, -np.inf]]),
    "vector.npy": np.arange(3.0),
    "number.npy": np.float64(3),
    "three.npy": np.zeros((2, 2, 2)),
    "empty.npy": np.zeros((0, 3)),
    "complex.npy": np.eye(2) * 1j,
    "complex.mtx": np.eye(2) * 1j,
    "text.npy": np.array([["a", "b"]]),
    "cut.npy": b"\x93NUMPY\x01\x00",
    "nonsense.npy": b"nonsense",
    "nothing.npy": b"",
    "nonsense.mtx": b"nonsense\n1 2 3\n",
    "nothing.mtx": b"",
    "matrix.csv": b"1,2\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_holds_no_real_matrix_is_refused_in_one_line_with_its_path(tmp_path, name):
    content = REFUSED[name]
    path = str(tmp_path / name)
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        written(tmp_path, content, name)
    with pytest.raises(InputError, match=r"path=") as caught:
        MatrixFile(path=path).draw(0)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    (tmp_path / "trap.npy").write_bytes(pickle.dumps(Trap()))
    written(tmp_path, np.array([[Trap()]], dtype=object), "object.npy")
    for name in ("trap.npy", "object.npy"):
        with pytest.raises(InputError, match=name):
            MatrixFile(path=str(tmp_path / name)).draw(0)
    assert not (tmp_path / "sprung").exists()


def test_the_fingerprint_of_a_missing_file_names_it(tmp_path):
    with pytest.raises(InputError, match=r"missing\.npy"):
        MatrixFile(path=str(tmp_path / "missing.npy")).fingerprint()
