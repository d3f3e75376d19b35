"""How fast training goes, and how long it will go on, by a clock that the test sets."""

from __future__ import annotations

import pytest

from rectool.training.pace import Pace, in_words


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def step(pace: Pace, clock: Clock, seconds: float, targets: int = 1, times: int = 1) -> None:
    for _ in range(times):
        clock.now += seconds
        pace.count(seconds, targets)


def validate(pace: Pace, clock: Clock, seconds: float) -> None:
    with pace.validation():
        clock.now += seconds


def test_targets_per_second(pace: Pace, clock: Clock) -> None:
    assert pace.targets_per_second == 0
    step(pace, clock, 2.0, targets=10)
    validate(pace, clock, 100.0)
    step(pace, clock, 3.0, targets=40)
    assert pace.targets_per_second == 10


@pytest.mark.parametrize(("seconds", "first", "told"), [(0.1, 0.1, 10), (15.0, 15.0, 3), (0.1, 900.0, 10)])
def test_slow_steps_are_told_sooner_and_once(seconds: float, first: float, told: int, pace: Pace, clock: Clock) -> None:
    step(pace, clock, first)
    found = []
    for count in range(2, 30):
        step(pace, clock, seconds)
        if pace.to_be_told():
            found.append(count)
    assert found == [told]


def test_what_the_first_step_takes_once_is_left_out(pace: Pace, clock: Clock) -> None:
    step(pace, clock, 500.0)
    step(pace, clock, 2.0, times=9)
    assert pace.remaining(90, 1) == 180


def test_validations_and_checkpoints_are_part_of_it(pace: Pace, clock: Clock) -> None:
    """Exactly what it then takes: 5 rounds of 20 steps of 2 s, a checkpoint of 10 s and a validation of 30 s."""
    left = []
    for _ in range(5):
        for count in range(20):
            step(pace, clock, 2.0)
            if count == 10:
                clock.now += 10.0
        validate(pace, clock, 30.0)
        left.append((clock.now, pace.remaining(100 - pace.steps, 5 - pace.validations)))
    for now, remaining in left:
        assert remaining == pytest.approx(clock.now - now, rel=0.03)


def test_after_going_on_close_to_a_validation(pace: Pace, clock: Clock) -> None:
    """The one validation is not taken for what each of two steps costs."""
    step(pace, clock, 2.0, times=2)
    validate(pace, clock, 600.0)
    step(pace, clock, 2.0, times=8)
    assert pace.known
    assert pace.remaining(100, 3) == 100 * 2 + 3 * 600


def test_time_stands_still_within_a_validation(pace: Pace, clock: Clock) -> None:
    step(pace, clock, 2.0, times=10)
    before = pace.remaining(50, 2)
    with pace.validation():
        clock.now += 1000.0
        assert pace.remaining(50, 2) == before == 100
    assert pace.remaining(50, 1) == 1100


def test_epochs_with_more_steps_than_the_first_end_at_zero(pace: Pace, clock: Clock) -> None:
    step(pace, clock, 2.0, times=10)
    assert pace.remaining(-3, -1) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (7.2, "7 s"),
        (59.7, "1 min"),
        (89, "1 min"),
        (3570, "1 h 0 min"),
        (3 * 3600 + 12 * 60, "3 h 12 min"),
        (4e6, "1,111 h 7 min"),
    ],
)
def test_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
