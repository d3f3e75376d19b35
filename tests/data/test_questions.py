"""Questions about pairs that are no rows of the log: what they are told, and what they are told to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.data.questions import Questions, ask

LABELS = [1, 0, 1, 1, -1, 0, 1]


@pytest.fixture
def dataset() -> Dataset:
    artifact: Any = SimpleNamespace(
        manifest=SimpleNamespace(counts={"users": 4, "items": 9}), file=lambda name: Path("data") / name
    )
    dataset = Dataset(artifact)
    dataset.__dict__.update(
        user=np.array([0, 0, 1, 1, 1, 2, 2], np.int32),
        item=np.array([5, 6, 1, 2, 3, 7, 8], np.int32),
        timestamp=np.array([10, 20, 30, 40, 50, 60, 5], np.int64),
        label=np.array(LABELS, np.int8),
        split=np.array([0, 0, 0, 1, 3, 0, 2], np.int8),
    )
    return dataset


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


@pytest.fixture
def questions(dataset: Dataset) -> Questions:
    """User 1 is asked for twice, user 0 once, and of two new users the second twice."""
    return ask(dataset, ints(1, 0, 5, 1, 5, 4), ints(8, 8, 0, 7, 1, 2), [ints(3), ints(4, 6)])


def test_questions_follow_all_that_their_user_did(questions: Questions) -> None:
    assert questions.user.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 4, 4, 5, 5, 5, 5]
    assert questions.item.tolist() == [5, 6, 8, 1, 2, 3, 8, 7, 3, 2, 4, 6, 0, 1]
    assert questions.label.tolist() == [1, 0, -1, 1, 1, -1, -1, -1, 1, -1, 1, 1, -1, -1]
    assert questions.timestamp.tolist() == [10, 20, 60, 30, 40, 50, *[60] * 8]
    assert questions.split.tolist()[3:10] == [0, 1, 3, 2, 2, SPLITS.index("context"), SPLITS.index("test")]
    assert questions.rows.tolist() == [6, 2, 12, 7, 13, 9]
    assert questions.item[questions.rows].tolist() == [8, 8, 0, 7, 1, 2]
    assert [array.dtype for array in (questions.user, questions.item, questions.label)] == [np.int32, np.int32, np.int8]
    assert (questions.users, questions.items, questions.digest) == (4, 9, None)


def test_no_question_is_part_of_a_history(questions: Questions) -> None:
    everything = questions.histories(liked_only=False).padded(questions.rows, 4)
    assert everything.tolist() == [
        [-1, 1, 2, 3],
        [-1, -1, 5, 6],
        [-1, -1, 4, 6],
        [-1, 1, 2, 3],
        [-1, -1, 4, 6],
        [-1, -1, -1, 3],
    ]
    liked = questions.histories(liked_only=True).padded(questions.rows, 2)
    assert liked.tolist() == [[1, 2], [-1, 5], [4, 6], [1, 2], [4, 6], [-1, 3]]


def test_rows_are_called_by_what_they_are(questions: Questions, dataset: Dataset) -> None:
    assert dataset.row_name(3) == "row 3 of data/interactions.parquet"
    assert questions.row_name(6) == "user 1 and item 8"
    assert questions.row_name(3) == "a row of user 1"


def test_a_row_at_the_end_of_the_log_asks_the_same(dataset: Dataset) -> None:
    last = np.array([1, 4, 6])
    same = ask(dataset, dataset.user[last], dataset.item[last])
    told, before = same.histories(liked_only=False), dataset.histories(liked_only=False)
    for row, asked, item in zip(last, same.rows, dataset.item[last], strict=True):
        of_question = told.padded(np.array([asked]), 3)[0].tolist()
        assert of_question == [*before.padded(np.array([row]), 2)[0].tolist(), item]
