"""How fast training goes, and how long it will go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TOLD_AFTER_STEPS, TOLD_AFTER_SECONDS = 10, 20.0
"""After so many steps, or so much time, the time that remains is told."""
WORTH_TELLING_SECONDS = 60.0


class Pace:
    """The pace of this process since it began, or went on from a checkpoint.

    Attributes:
        seconds: of training alone.
        targets: trained on, in all processes together.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds, self.targets, self.steps = 0.0, 0, 0
        self.validations, self.validating_seconds = 0, 0.0
        self.first_seconds, self.first_ended = 0.0, 0.0
        self.validating_since: float | None = None
        self.told = False

    def count(self, seconds: float, targets: int) -> None:
        """Take note of a step that has just ended."""
        self.seconds += seconds
        self.targets += targets
        self.steps += 1
        if self.steps == 1:
            self.first_seconds, self.first_ended = seconds, self.clock()

    @contextmanager
    def validation(self) -> Iterator[None]:
        """Take note of how long a validation takes."""
        started = self.validating_since = self.clock()
        yield
        self.validations += 1
        self.validating_seconds += self.clock() - started
        self.validating_since = None

    @property
    def targets_per_second(self) -> float:
        return self.targets / self.seconds if self.seconds else 0.0

    @property
    def known(self) -> bool:
        """Whether enough has been done to say how long the rest will take."""
        enough = self.steps >= TOLD_AFTER_STEPS or self.seconds - self.first_seconds >= TOLD_AFTER_SECONDS
        return enough and self.steps > 1

    def to_be_told(self) -> bool:
        """Whether the time that remains is to be told now, which is so once."""
        if self.told or not self.known:
            return False
        self.told = True
        return True

    def remaining(self, steps: int, validations: int) -> float:
        """Seconds that so many more steps and validations will take; only where the pace is `known`.

        Checkpoints and whatever else lay between the steps are part of them. What the first step takes once is left
        out, and so are validations before there has been one.
        """
        now = self.clock() if self.validating_since is None else self.validating_since
        stepping = now - self.first_ended - self.validating_seconds
        validating = self.validating_seconds / self.validations if self.validations else 0.0
        return max(0, steps) * stepping / (self.steps - 1) + max(0, validations) * validating


def in_words(seconds: float) -> str:
    """`3 h 20 min`, `12 min`, `45 s`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
