"""The wish to stop: a signal, or the time is up. Work heeds it after the piece it is in."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class StopRequests:
    """Within its block SIGINT and SIGTERM are wishes rather than ends; a second SIGINT is an end.

    Attributes:
        reason: why to stop, empty while there is no reason.
        interrupted: whether the reason is SIGINT.
    """

    def __init__(self, max_seconds: float | None) -> None:
        self.reason = ""
        self.interrupted = False
        self._deadline = time.monotonic() + max_seconds if max_seconds is not None else None
        self._limit = max_seconds
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wanted(self) -> bool:
        """Whether to stop."""
        if not self.reason and self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason = f"--max-time: {self._limit:g} s have passed"
        return bool(self.reason)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = SIGNALS[signal.Signals(number)]
        self.interrupted = number == signal.SIGINT


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within its block SIGINT and SIGTERM are ignored: for what a run that ends anyway still puts in order."""
    if threading.current_thread() is not threading.main_thread():  # which alone is disturbed
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
