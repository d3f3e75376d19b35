"""How far a piece of work is, how fast it goes and how long it will take: in a live line, or in lines of a log."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.text import Text

REDRAWS_PER_SECOND = 4
SHORTEST_PAUSE, LONGEST_PAUSE, PAUSE_SHARE = 30.0, 600.0, 0.05
"""Seconds between two lines of a log: this share of the time so far, within these bounds."""
LEAST_SHARE = 0.001
"""Of the whole, done here, before the time left is told: less says nothing of the pace."""
BAR, LEAST_BAR, LEAST_NAME = 40, 5, 8
"""Columns."""
KEEPERS = ("CI", "JPY_PARENT_PID")
"""Set where a terminal keeps all that is drawn: by CI services, and by Jupyter for what a notebook starts."""


class Progress:
    """Work of which at best the share that is done is known.

    Attributes:
        doing: what is done, such as "sorting".
        started: when, by `time.perf_counter`.
    """

    def __init__(
        self, doing: str, fraction: Callable[[], float | None], left: Callable[[], float | None] | None = None
    ) -> None:
        """Args:
        fraction: tells how much is done, 0 to 1, or None where unknown; what earlier runs did counts.
        left: tells the seconds that are left; where it is absent or says None, the pace so far does.
        """
        self.doing = "".join(character if character.isprintable() else "?" for character in doing)
        self.started = time.perf_counter()
        self._fraction, self._left = fraction, left
        self._first = fraction()

    def figures(self, seconds: float) -> list[str]:
        """How far and how fast it is after so many seconds."""
        done = self._fraction()
        return [] if done is None else [f"{done:.0%}"]

    def left(self, seconds: float) -> float | None:
        """Seconds that are left after so many; None while that cannot be told."""
        told = self._left() if self._left else None
        if told is not None:
            return told
        done = self._fraction()
        here = 0.0 if done is None else done - (self._first or 0.0)
        return None if done is None or here < LEAST_SHARE else seconds * max(0.0, 1 - done) / here

    def line(self) -> str:
        """One line of a log."""
        seconds = time.perf_counter() - self.started
        left = self.left(seconds)
        time_left = "" if left is None else f", about {_clock(left)} left"
        return f"{self.doing}: {', '.join([*self.figures(seconds), f'{_clock(seconds)} so far'])}{time_left}"

    def text(self, width: int, *, plain: bool = False) -> Text:
        """A line of so many columns at most: the bar gives way first, then figures and what is done, never the pace.

        Args:
            plain: ASCII alone.
        """
        from rich.text import Text

        figures = self._fitting(width)
        line = Text(self.doing, no_wrap=True)
        line.truncate(max(0, width - len(figures) - 1), overflow="crop" if plain else "ellipsis")
        done, columns = self._fraction(), min(BAR, width - line.cell_len - len(figures) - 2)
        if done is not None and columns >= LEAST_BAR:
            full = round(columns * min(1.0, max(0.0, done)))
            line.append(" ").append(("#" if plain else "━") * full, "bar.complete")
            line.append(("-" if plain else "─") * (columns - full), "bar.back")
        line.append(f" {figures}")
        line.truncate(width)
        return line

    def _fitting(self, width: int) -> str:
        """The most figures that leave room for what is done."""
        seconds, done = time.perf_counter() - self.started, self._fraction()
        left = self.left(seconds)
        amount, *rate = [*self.figures(seconds), ""]
        share = amount if done is None else f"{done:.0%}"
        pace = [*filter(None, rate), _clock(seconds if left is None else left)]
        forms = ([amount, *pace, "so far" if left is None else "left"], [amount, *pace], [share, *pace])
        lines = [" ".join(filter(None, form)) for form in forms]
        return next((line for line in lines if width - len(line) > min(len(self.doing), LEAST_NAME)), lines[-1])


class Counted(Progress):
    """Work that is counted.

    Attributes:
        now: how much is done.
        before: how much of that was done by earlier runs.
    """

    def __init__(
        self,
        doing: str,
        total: float | None,
        done: float,
        unit: str,
        *,
        digits: int = 0,
        left: Callable[[], float | None] | None = None,
    ) -> None:
        """Args:
        total: how much there is to do, None where unknown.
        digits: of amounts, after the point.
        """
        self.total, self.now, self.before, self.unit, self.digits = total, done, done, unit, digits
        super().__init__(doing, lambda: self.now / self.total if self.total else None, left)

    def count(self, more: float) -> None:
        self.now += more

    def figures(self, seconds: float) -> list[str]:
        amount = f"{self.now:,.{self.digits}f}"
        if self.total is not None:
            amount += f"/{self.total:,.{self.digits}f}"
        rate = (self.now - self.before) / seconds if seconds > 0 else 0.0
        return [amount, f"{rate:,.1f} {self.unit}/s"] if rate else [f"{amount} {self.unit}"]


def can_redraw(stream: TextIO) -> bool:
    """Whether a line on a stream can be drawn anew.

    Not in a file or a pipe, nor on a terminal that is dumb, or that of a notebook or a CI service.
    """
    kept = os.environ.get("TERM") in ("dumb", "unknown") or any(name in os.environ for name in KEEPERS)
    return stream.isatty() and not kept


def pause(seconds: float) -> float:
    """Seconds to the next line of a log after so many: a run of nine hours writes about a hundred lines."""
    return min(LONGEST_PAUSE, max(SHORTEST_PAUSE, PAUSE_SHARE * seconds))


@contextmanager
def lines(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` now and then, as `pause` says, until the block ends."""
    over = threading.Event()
    started = time.monotonic()

    def run() -> None:
        while not over.wait(pause(time.monotonic() - started)):
            tell()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
