"""What people see: messages and progress on stderr, results on stdout, or one JSON object there.

Rich is imported only when something is shown in it. Colours follow `NO_COLOR` and the terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@dataclass
class _Mode:
    quiet: bool = False
    json: bool = False
    live: Progress | None = None
    """The bar that is on the terminal: lines go above it."""


_mode = _Mode()


def configure(*, quiet: bool, json: bool) -> None:
    """Set how this process talks: `--quiet` leaves errors only, `--json` keeps stdout for one object."""
    _mode.quiet = quiet
    _mode.json = json


def say(message: str) -> None:
    """One line for people, on stderr."""
    if _mode.quiet:
        return
    if _mode.live is not None:
        _mode.live.console.print(message, markup=False, emoji=False, highlight=False, soft_wrap=True)
        return
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def error(message: str) -> None:
    """One line on stderr, whatever the mode."""
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()


def result(value: Mapping[str, Any]) -> None:
    """The one JSON object of `--json`; nothing otherwise."""
    if _mode.json:
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def show(renderable: Any) -> None:
    """A Rich renderable or a string: the command's answer to people, on stdout (stderr with `--json`)."""
    if not _mode.quiet:
        _console(stderr=_mode.json).print(
            renderable, markup=False, emoji=False, highlight=False, soft_wrap=isinstance(renderable, str)
        )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text and whose other columns are figures."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(title), title_justify="left", title_style="bold", show_header=any(columns))
    for index, column in enumerate(columns):
        grid.add_column(Text(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    show(grid)


def printable(text: str) -> str:
    """A text of the data, or a file's name, with nothing in it that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


@contextmanager
def step(doing: str, *, fraction: Callable[[], float | None] | None = None) -> Iterator[Step]:
    """Time one step of work: a live line on a terminal, one plain line with the rate when done.

    Args:
        doing: what is done, such as "sorting".
        fraction: asked a few times a second for how much is done, 0 to 1, or None where unknown.
    """
    measured = Step()
    started = time.perf_counter()
    if _mode.quiet or not sys.stderr.isatty():
        yield measured
    else:
        with _live(doing, fraction):
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
    started = time.perf_counter()
    received = done

    def count(size: int) -> None:
        nonlocal received
        received += size

    if _mode.quiet or not sys.stderr.isatty():
        yield count
    else:
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=_console(stderr=True), transient=True) as bar:
            task = bar.add_task(doing, total=total, completed=done)

            def advance(size: int) -> None:
                count(size)
                bar.advance(task, size)

            yield advance
    seconds = max(time.perf_counter() - started, 1e-9)
    say(f"{doing}: {received / 1e6:,.1f} MB ({(received - done) / 1e6 / seconds:,.1f} MB/s), {seconds:.1f} s")


@contextmanager
def progress(doing: str, total: int, done: int = 0, unit: str = "steps") -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on a terminal, nothing elsewhere; yields a function to call with what was done."""
    if _mode.quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> str:
            return "" if task.speed is None else f"{task.speed:,.1f} {unit}/s"

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=total, completed=done)
        _mode.live = bar
        try:
            yield lambda count: bar.advance(task, count)
        finally:
            _mode.live = None


@contextmanager
def _live(doing: str, fraction: Callable[[], float | None] | None) -> Iterator[None]:
    from rich import progress

    class Fraction(progress.ProgressColumn):
        def render(self, task: progress.Task) -> str:
            done = fraction() if fraction else None
            return "" if done is None else f"{done:4.0%}"

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        Fraction(),
        progress.TimeElapsedColumn(),
    )
    bar: Progress
    with progress.Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        bar.add_task(doing, total=None)
        yield


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)
