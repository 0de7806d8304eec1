"""GLUE's tasks, from a hub where one can be reached."""

from functools import cache
from typing import Any, NamedTuple

from problems._hub import hub_part


class Columns(NamedTuple):
    """Where a task has its texts, how many classes (1 for a regression), and which part with labels is held out."""

    first: str
    second: str | None
    classes: int
    held_out: str = "validation"


TASKS = {
    "cola": Columns("sentence", None, 2),
    "sst2": Columns("sentence", None, 2),
    "mrpc": Columns("sentence1", "sentence2", 2),
    "stsb": Columns("sentence1", "sentence2", 1),
    "qqp": Columns("question1", "question2", 2),
    "mnli": Columns("premise", "hypothesis", 3, "validation_matched"),
    "qnli": Columns("question", "sentence", 2),
    "rte": Columns("sentence1", "sentence2", 2),
    "wnli": Columns("sentence1", "sentence2", 2),
}


@cache
def glue(task: str, part: str, problem: str) -> tuple[list[Any], list[Any]]:
    """Texts, or pairs of them, and labels: GLUE's training part, or the one that is held out with labels.

    Raises:
        InputError: where the package datasets is missing, or no hub can be reached.
    """
    columns = TASKS[task]
    rows = hub_part(problem, task, "glue", task, "train" if part == "train" else columns.held_out)
    first, labels = list(rows[columns.first]), list(rows["label"])
    return (first if columns.second is None else list(zip(first, rows[columns.second], strict=True))), labels
