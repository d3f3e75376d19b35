"""The clock that every program is measured by: targets, wall time and CPU time between the starts of two steps."""

from __future__ import annotations

import json
import os
import resource
import time


class Over(BaseException):
    """The time is up: thrown out of the program's own loop, past handlers of errors."""


class Clock:
    """Counts from the first step after a warm-up to the first one after `seconds`.

    What happens between steps, the loading of batches and the ends of epochs, counts.
    """

    WARM_STEPS, WARM_SECONDS = 2, 2.0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = time.perf_counter()
        self.steps = self.targets = self.pending = 0
        self.start: tuple[float, float, float] | None = None

    def step(self, targets: int) -> None:
        """To be called as a step begins, with the number of its targets, padding not counted."""
        usage = os.times()
        now = (time.perf_counter(), usage.user, usage.system)
        self.steps += 1
        if self.start is None:
            if self.steps > self.WARM_STEPS and now[0] - self.begun >= self.WARM_SECONDS:
                self.start, self.steps = now, 0
        else:
            self.targets += self.pending
            if now[0] - self.start[0] >= self.seconds:
                self.report(now)
                raise Over
        self.pending = targets

    def report(self, now: tuple[float, float, float]) -> None:
        """The last line of the program's output."""
        assert self.start is not None
        wall, user, system = (end - begin for end, begin in zip(now, self.start, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures = {"targets": self.targets, "steps": self.steps, "wall": wall, "cpu": user + system, "system": system}
        print("\n" + json.dumps({**figures, "peak": peak}), flush=True)
