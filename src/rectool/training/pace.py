"""How fast training goes, and how long it will go on."""

from __future__ import annotations

TOLD_AFTER_STEPS, TOLD_AFTER_SECONDS = 10, 20.0
"""After so many steps, or so much time, the time that remains is told."""
WORTH_TELLING_SECONDS = 60.0


class Pace:
    """The pace of this process's steps since it began.

    Attributes:
        seconds: of training alone.
        targets: trained on, in all processes together.
    """

    def __init__(self) -> None:
        self.seconds, self.targets, self.steps = 0.0, 0, 0
        self.first_seconds = 0.0
        self.told = False

    def count(self, seconds: float, targets: int) -> None:
        """Take note of a step."""
        self.seconds += seconds
        self.targets += targets
        self.steps += 1
        if self.steps == 1:
            self.first_seconds = seconds

    @property
    def targets_per_second(self) -> float:
        return self.targets / self.seconds if self.seconds else 0.0

    def to_be_told(self) -> bool:
        """Whether the step that is under way is the one after which the time that remains is told."""
        enough = self.steps + 1 >= TOLD_AFTER_STEPS or self.seconds - self.first_seconds >= TOLD_AFTER_SECONDS
        return enough and self.steps > 0 and not self.told

    def remaining(self, steps: int) -> str | None:
        """How long so many more steps will take, for people; None where it is not worth a line.

        What the first step takes once is left out.
        """
        self.told = True
        seconds = steps * (self.seconds - self.first_seconds) / (self.steps - 1)
        return in_words(seconds) if seconds >= WORTH_TELLING_SECONDS else None


def in_words(seconds: float) -> str:
    """`3 h 20 min`, `12 min`, `45 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
