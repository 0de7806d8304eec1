"""ROUGE against values worked out by hand."""

from itertools import combinations

import pytest

from problems._rouge import common_subsequence, rouge

POLICE = "police killed the gunman"  # Lin 2004, section 3.1


@pytest.mark.parametrize(
    ("summary", "one", "two", "longest"),
    [
        ("police kill the gunman", 3 / 4, 1 / 3, 3 / 4),
        ("the gunman kill police", 3 / 4, 1 / 3, 2 / 4),
        ("the gunman police killed", 4 / 4, 2 / 3, 2 / 4),
        ("police", 2 / 5, 0, 2 / 5),  # precision 1, recall 1/4
        ("police police police police killed", 2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4), 2 / 7, 4 / 9),  # the others are not there
    ],
)
def test_scores_are_those_worked_out_by_hand(summary, one, two, longest):
    expected = {"rouge_1": 100 * one, "rouge_2": 100 * two, "rouge_l": 100 * longest}
    assert rouge([summary], [POLICE]) == pytest.approx(expected)


def test_a_text_is_itself_whatever_its_case_and_its_signs():
    assert rouge(["The CAT's hat -- red!"], ["the cat s hat, red"]) == {"rouge_1": 100, "rouge_2": 100, "rouge_l": 100}


@pytest.mark.parametrize("summary", ["a dog ran", "", "?!"])
def test_texts_without_a_common_word_score_nothing(summary):
    assert rouge([summary], [POLICE]) == rouge([POLICE], [summary]) == {"rouge_1": 0, "rouge_2": 0, "rouge_l": 0}


def test_nothing_is_like_nothing_only_where_there_are_words():
    assert rouge([""], [""]) == {"rouge_1": 0, "rouge_2": 0, "rouge_l": 0}
    assert rouge(["cat"], ["cat"]) == {"rouge_1": 100, "rouge_2": 0, "rouge_l": 100}


def test_summary_and_reference_may_change_places():
    texts = ["a b a c", "a a b", "c b b a a d", "d d a"]
    for first, second in combinations(texts, 2):
        assert rouge([first], [second]) == pytest.approx(rouge([second], [first]))


def test_the_score_of_several_texts_is_their_mean():
    assert rouge([POLICE, "a dog ran"], [POLICE, POLICE]) == {"rouge_1": 50, "rouge_2": 50, "rouge_l": 50}


@pytest.mark.parametrize("turn", range(5))
def test_the_longest_common_subsequence_is_the_longest_of_all_that_are_common(turn):
    first = [*"abcacbabca"][turn : turn + 7]
    second = [*"bacbbacacb"][turn : turn + 6]
    common = [
        kept for k in range(7) for kept in combinations(second, k) if kept in {tuple(each) for each in combinations(first, k)}
    ]
    assert common_subsequence(first, second) == common_subsequence(second, first) == max(map(len, common))
