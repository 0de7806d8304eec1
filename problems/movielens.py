"""Complete the film ratings of MovieLens."""

from dataclasses import dataclass
from typing import ClassVar

from problems._ratings import Ratings, read_table


@dataclass(frozen=True)
class MovieLens(Ratings):
    """100 004 ratings, from half a star to five, by 671 users of 9066 films: `ml-latest-small` of 2016, 1.6 % observed.

    The default cut, 128 users by 192 films, is half observed. Options as in `Ratings`.
    """

    reference: ClassVar[str] = "Harper and Konstan 2015, doi 10.1145/2827872; movielens in the R package dslabs"

    def table(self):
        return read_table("movielens", ("dslabs", "movielens"), ("userId", "movieId", "rating"))
