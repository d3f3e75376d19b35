"""What people see: messages and progress on stderr, results on stdout, or one JSON object there.

Rich is imported only when something is shown in it. Colours follow `NO_COLOR` and the terminal.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from rectool import following
from rectool.following import Counted, Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live


@dataclass
class _Mode:
    quiet: bool = False
    json: bool = False
    live: Live | None = None
    """The line that is drawn anew on the terminal: others go above it."""


_mode = _Mode()


def configure(*, quiet: bool, json: bool) -> None:
    """Set how this process talks: `--quiet` leaves errors only, `--json` keeps stdout for one object."""
    _mode.quiet = quiet
    _mode.json = json


def say(message: str) -> None:
    """One line for people, on stderr."""
    if _mode.quiet:
        return
    message = printable(message)
    if _mode.live is not None:
        _mode.live.console.print(message, markup=False, emoji=False, highlight=False, soft_wrap=True)
        return
    _write(sys.stderr, message + "\n")


def error(message: str) -> None:
    """One line on stderr, whatever the mode."""
    _write(sys.stderr, f"error: {printable(message)}\n")


def result(value: Mapping[str, Any]) -> None:
    """The one JSON object of `--json`; nothing otherwise."""
    if _mode.json:
        answer(json.dumps(value, ensure_ascii=False) + "\n")


def answer(text: str) -> None:
    """What was asked for, on stdout, whatever the mode."""
    _write(sys.stdout, text)


def show(renderable: Any) -> None:
    """A Rich renderable or a string: the command's answer to people, on stdout (stderr with `--json`)."""
    if isinstance(renderable, str):
        renderable = "\n".join(map(printable, renderable.split("\n")))
    if not _mode.quiet:
        _console(stderr=_mode.json).print(
            renderable, markup=False, emoji=False, highlight=False, soft_wrap=isinstance(renderable, str)
        )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text and whose other columns are figures."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(printable(title)), title_justify="left", title_style="bold", show_header=any(columns))
    for index, column in enumerate(columns):
        grid.add_column(Text(printable(column)), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text("\n".join(map(printable, cell.split("\n")))) for cell in row))
    show(grid)


def printable(text: str) -> str:
    """A text of the data, or a file's name, with nothing in it that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


@contextmanager
def step(doing: str, *, fraction: Callable[[], float | None] | None = None) -> Iterator[Step]:
    """Time one step of work, and say how much it did and how fast when it is done.

    Args:
        doing: what is done, such as "sorting".
        fraction: asked now and then for how much is done, 0 to 1, or None where unknown.
    """
    measured = Step()
    started = time.perf_counter()
    with _followed(Progress(doing, fraction or (lambda: None))):
        yield measured
    seconds = time.perf_counter() - started
    rate = ""
    if measured.amount is not None:
        rate = f": {measured.amount:,} {measured.unit}"
        if seconds >= 0.05:
            rate += f" ({measured.amount / seconds:,.0f} {measured.unit}/s)"
    say(f"{doing}{rate}, {seconds:.1f} s")


@dataclass
class Step:
    """How much a step did; what runs inside `step` fills it in."""

    amount: int | None = None
    unit: str = "rows"


@contextmanager
def transfer(doing: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Progress of bytes with rate and time left; yields a function to call with each chunk's size."""
    counted = Counted(doing, total / 1e6 if total else None, done / 1e6, "MB", digits=1)
    with _followed(counted):
        yield lambda size: counted.count(size / 1e6)
    here, seconds = counted.now - counted.before, max(time.perf_counter() - counted.started, 1e-9)
    say(f"{doing}: {counted.now:,.1f} MB ({here / seconds:,.1f} MB/s), {seconds:.1f} s")


@contextmanager
def progress(
    doing: str, total: int, done: int = 0, unit: str = "steps", left: Callable[[], float | None] | None = None
) -> Iterator[Callable[[int], None]]:
    """Progress of something counted, with rate and time left; yields a function to call with what was done.

    Args:
        left: asked for the seconds that are left; where it is absent or says None, the rate tells.
    """
    counted = Counted(doing, total, done, unit, left=left)
    with _followed(counted):
        yield counted.count


@contextmanager
def _followed(shown: Progress) -> Iterator[None]:
    """Show it: a live line on a terminal, elsewhere a plain line now and then, as `following.pause` says."""
    if _mode.quiet or _mode.live is not None:
        yield
    elif following.can_redraw(sys.stderr):
        from rich.live import Live

        console = _console(stderr=True)
        live = Live(
            console=console,
            get_renderable=lambda: shown.text(console.width - 1, plain=console.options.ascii_only),
            refresh_per_second=following.REDRAWS_PER_SECOND,
            transient=True,
        )
        try:  # rather than `with`: an interrupt may come while it starts
            live.start(refresh=True)
            _mode.live = live
            yield
        finally:
            _mode.live = None
            live.stop()
    else:
        with following.lines(lambda: say(shown.line())):
            yield


def _write(stream: TextIO, text: str) -> None:
    """Write at once. What nobody reads any more must not end hours of work: a closed pipe, a terminal that is gone."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as problem:
        if stream is sys.stdout and problem.errno not in (errno.EPIPE, errno.EIO):
            raise
        _hang_up(stream)


def tolerate() -> None:
    """Let titles in any script be shown where stdout knows less of them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def hang_up() -> None:
    """Let what is still written to stdout go nowhere: its reader has gone."""
    _hang_up(sys.stdout)


def _hang_up(stream: TextIO) -> None:
    """Let what is still written to a stream go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    class Patient(Console):
        def on_broken_pipe(self) -> None:
            _hang_up(sys.stderr if stderr else sys.stdout)

    return Patient(stderr=stderr)
