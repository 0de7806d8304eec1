import math

import numpy as np
import pytest

from linalg import InputError
from linalg.checks import check, check_choice, check_integer, check_number, check_rank, check_shape


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_integers_from_the_least_on_pass(value):
    check_integer("steps", value)


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, "3", None, True, math.nan, [1], np.float64(2)])
def test_anything_else_is_no_positive_integer(value):
    with pytest.raises(InputError, match=r"^steps=.*must be an integer of at least 1$"):
        check_integer("steps", value)


def test_the_least_integer_can_be_moved():
    check_integer("warmup", 0, least=0)
    with pytest.raises(InputError, match="at least 2"):
        check_integer("depth", 1, least=2)


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (0.5, {}),
        (-3, {}),
        (0, {"least": 0}),
        (1e-300, {"above": 0}),
        (1, {"least": 0, "most": 1}),
        (np.float32(0.5), {}),
        (np.int64(2), {}),
    ],
)
def test_finite_numbers_within_their_bounds_pass(value, bounds):
    check_number("scale", value, **bounds)


@pytest.mark.parametrize(
    ("value", "bounds", "allowed"),
    [
        (0, {"above": 0}, "a number above 0"),
        (-1e-9, {"least": 0}, "a number at least 0"),
        (1.1, {"least": 0, "most": 1}, "a number at least 0 and at most 1"),
        (math.nan, {}, "a number"),
        (math.inf, {}, "a number"),
        (-math.inf, {"most": 1}, "a number at most 1"),
        ("0.1", {}, "a number"),
        (None, {"least": 0}, "a number at least 0"),
        (True, {}, "a number"),
        (1j, {}, "a number"),
    ],
)
def test_numbers_out_of_bounds_are_refused_with_the_bounds(value, bounds, allowed):
    with pytest.raises(InputError) as caught:
        check_number("scale", value, **bounds)
    assert str(caught.value) == f"scale={value!r}: must be {allowed}"


def test_a_choice_names_every_choice():
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(InputError, match=r"^kind='c': must be one of a, b$"):
        check_choice("kind", "c", ("a", "b"))


@pytest.mark.parametrize("value", [(1, 1), (3, 9), (np.int64(2), 5)])
def test_two_positive_integers_are_a_shape(value):
    check_shape("shape", value)


@pytest.mark.parametrize("value", [(True, 3), (3,), (3, 0), (3, -1), (3.0, 2), [3, 2], "32", 3, (1, 2, 3), None, ("a", "b")])
def test_anything_else_is_no_shape(value):
    with pytest.raises(InputError, match=r"^shape=.*two positive integers, rows then columns$"):
        check_shape("shape", value)


@pytest.mark.parametrize(("rank", "shape"), [(1, (1, 1)), (4, (4, 9)), (4, (9, 4))])
def test_a_rank_up_to_the_smaller_side_passes(rank, shape):
    check_rank("rank", rank, shape)


@pytest.mark.parametrize(("rank", "shape"), [(5, (4, 9)), (5, (9, 4))])
def test_a_rank_above_the_smaller_side_is_refused_with_the_shape(rank, shape):
    with pytest.raises(InputError, match=rf"^rank=5: must be at most 4, the smaller side of the {shape[0]} x {shape[1]} matrix$"):
        check_rank("rank", rank, shape)


@pytest.mark.parametrize("rank", [0, -3, "2", 2.0, None])
def test_what_is_no_positive_integer_is_no_rank(rank):
    with pytest.raises(InputError, match=r"^rank="):
        check_rank("rank", rank, (9, 9))


def test_an_input_error_is_one_line_and_a_value_error():
    with pytest.raises(ValueError, match=r"^key=1: must be other$") as caught:
        check(False, "key", 1, "other")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)
