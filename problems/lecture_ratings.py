"""Complete the ratings that students gave their lecturers."""

from dataclasses import dataclass
from typing import ClassVar

from problems._ratings import Ratings, read_table


@dataclass(frozen=True)
class LectureRatings(Ratings):
    """73 421 ratings, from 1 to 5, by 2972 students of 1128 lecturers at ETH Zürich, 2.2 % observed.

    Almost all there is to learn is the biases: a hard test of whether a method leaves noise alone. The default cut,
    128 students by 192 lecturers, is 24 % observed. Options as in `Ratings`.
    """

    reference: ClassVar[str] = "Bates et al. 2015, doi 10.18637/jss.v067.i01; InstEval in the R package lme4"

    ridge: tuple[float, float] = (12.0, 5.0)

    def table(self):
        return read_table("lecture_ratings", ("lme4", "InstEval"), ("s", "d", "y"))
