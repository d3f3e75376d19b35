"""How fast training goes."""

from __future__ import annotations

import pytest

from rectool.training.pace import Pace, in_words


def test_targets_per_second() -> None:
    pace = Pace()
    assert pace.targets_per_second == 0
    pace.count(2.0, 10)
    pace.count(3.0, 40)
    assert pace.targets_per_second == 10


def test_slow_steps_are_told_sooner() -> None:
    quick, slow = Pace(), Pace()
    told = []
    for pace, seconds in ((quick, 0.1), (slow, 15.0)):
        step = 1
        while not pace.to_be_told():
            pace.count(seconds, 1)
            step += 1
        told.append(step)
    assert told == [10, 4]


def test_it_is_told_once_and_only_if_long() -> None:
    pace = Pace()
    for seconds in (100.0, *[3.0] * 9):
        pace.count(seconds, 1)
    assert pace.to_be_told()
    assert pace.remaining(19) is None
    assert not pace.to_be_told()
    assert pace.remaining(20) == "1 min"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(7.2, "7 s"), (89, "1 min"), (3570, "1 h 0 min"), (3 * 3600 + 12 * 60, "3 h 12 min"), (4e6, "1,111 h 7 min")],
)
def test_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
