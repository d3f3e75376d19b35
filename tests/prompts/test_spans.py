"""Item spans that a mask can go by, and those that it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from rectool.errors import RectoolError
from rectool.prompts.spans import refuse_lost_spans
from rectool.prompts.tokens import TokenRows


def rows(*spans: tuple[int, int, int, int]) -> TokenRows:
    """Three rows of 6 tokens with spans of (row, first, last, item)."""
    row = np.array([span[0] for span in spans], np.int64)
    counts = np.bincount(row, minlength=3)
    table = np.array([span[1:] for span in spans], np.int32).reshape(-1, 3)
    return TokenRows(np.zeros(18, np.int32), np.arange(0, 19, 6), table, np.concatenate([[0], np.cumsum(counts)]))


def test_sound_spans() -> None:
    refuse_lost_spans(rows())
    refuse_lost_spans(rows((0, 0, 3, 5), (0, 3, 6, 5), (1, 2, 3, 0), (2, 1, 6, 4)))


@pytest.mark.parametrize(
    ("lost", "wrong"),
    [
        ([(0, 0, 3, 5), (2, 3, 3, 4)], "the title of 'four' (item 4) has no token of its own in prompt 2"),
        ([(1, 0, 3, 4), (1, 2, 5, 1)], "the titles of 'four' (item 4) and of 'one' (item 1) share a token in prompt 1"),
        ([(0, 0, 3, 5), (1, 4, 7, 1)], "the title of 'one' (item 1) is not in prompt 1"),
    ],
)
def test_lost_spans(lost: list[tuple[int, int, int, int]], wrong: str) -> None:
    names = {1: "one", 4: "four"}
    with pytest.raises(RectoolError) as error:
        refuse_lost_spans(rows(*lost), names.__getitem__)
    assert wrong in str(error.value)
    with pytest.raises(RectoolError) as error:
        refuse_lost_spans(rows(*lost))
    assert "'" not in str(error.value).split(" in prompt ")[0]


def test_rows_without_spans() -> None:
    with pytest.raises(ValueError, match="without item spans"):
        refuse_lost_spans(TokenRows(np.zeros(3, np.int32), np.array([0, 3])))
