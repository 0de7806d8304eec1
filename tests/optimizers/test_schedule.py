import math
from itertools import pairwise

import pytest

from linalg import InputError
from optimizers import SCHEDULES, check_schedule, schedule_factor


@pytest.mark.parametrize(
    ("kind", "step", "steps", "warmup", "expected"),
    [
        ("constant", 0, 10, 0, 1),
        ("constant", 9, 10, 0, 1),
        ("constant", 4, 10, 4, 1),
        ("linear", 0, 10, 0, 1),
        ("linear", 5, 10, 0, 1 / 2),
        ("linear", 9, 10, 0, 1 / 10),
        ("linear", 10, 10, 0, 0),
        ("linear", 4, 10, 4, 1),
        ("linear", 7, 10, 4, 1 / 2),
        ("linear", 9, 10, 4, 1 / 6),
        ("cosine", 0, 10, 0, 1),
        ("cosine", 5, 10, 0, 1 / 2),
        ("cosine", 10, 10, 0, 0),
        ("cosine", 2, 8, 0, (1 + math.sqrt(0.5)) / 2),
        ("cosine", 4, 10, 4, 1),
        ("cosine", 7, 10, 4, 1 / 2),
        ("cosine", 6, 10, 4, 3 / 4),
        ("linear", 0, 1, 0, 1),
        ("cosine", 0, 1, 0, 1),
    ],
)
def test_a_schedule_starts_at_one_and_falls_to_zero_at_the_end(kind, step, steps, warmup, expected):
    assert schedule_factor(kind, step, steps, warmup) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_warmup_rises_in_equal_steps_to_one(kind):
    factors = [schedule_factor(kind, step, 20, 4) for step in range(5)]
    assert factors == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_after_the_warmup_a_schedule_never_rises_and_stays_positive(kind, warmup):
    factors = [schedule_factor(kind, step, 30, warmup) for step in range(warmup, 30)]
    assert all(0 < later <= earlier <= 1 for earlier, later in pairwise(factors))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_what_goes_together_passes(kind):
    check_schedule(kind, 10, 9)
    check_schedule(kind, 1, 0)


@pytest.mark.parametrize(
    ("kind", "steps", "warmup", "key"),
    [
        ("exponential", 10, 0, "schedule"),
        (None, 10, 0, "schedule"),
        ("linear", 0, 0, "steps"),
        ("linear", 2.5, 0, "steps"),
        ("linear", 10, -1, "warmup"),
        ("linear", 10, 10, "warmup"),
        ("linear", 10, "2", "warmup"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(kind, steps, warmup, key):
    with pytest.raises(InputError, match=f"^{key}="):
        check_schedule(kind, steps, warmup)
