"""Commands run in processes that are forked from this one, in which all libraries are imported already: they start
in no time, so that many can be killed.

This process must never compute anything itself: a thread pool of a library does not live on in a forked process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 0.002


def warm_up() -> None:
    """Import all of rectool, and let work stop after a few rows."""
    import rectool

    for module in pkgutil.walk_packages(rectool.__path__, "rectool."):
        if module.name != "rectool.__main__":
            importlib.import_module(module.name)
    from rectool.evaluation import scorer
    from rectool.llm import pieces

    scorer.ROWS, scorer.PAIRS = 10, 10 * 40
    pieces.OPERATIONS["cpu"], pieces.LEAST_TOKENS = 0, 400


def learn(names: Iterable[str]) -> None:
    """Import what a child had imported in the end, so that the next one need not."""
    for name in names:
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else the collector of each child would copy all memory that they share


class Child:
    """`rectool WORDS`, running in a folder, in a process of its own."""

    def __init__(
        self, folder: Path, words: tuple[str, ...], around: Callable[[], AbstractContextManager[object]] | None = None
    ) -> None:
        """`around` is entered in the process before the command begins."""
        self.errors = folder.with_name(f"{folder.name}.stderr")
        self.began = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the command can answer it
        self.pid = os.fork()
        if self.pid == 0:
            _be(folder, words, self.errors, around or contextlib.nullcontext)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def wait(self, seconds: float = PATIENCE_SECONDS, *, stopped: bool = False) -> int | None:
        """How it ended, as subprocess says it: minus the number of a signal. None if it has not, or with `stopped`
        if it has been stopped by SIGSTOP.

        Raises:
            TimeoutError: it hangs.
        """
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | (os.WUNTRACED if stopped else 0))
            if pid and os.WIFSTOPPED(status):
                return None
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                if seconds < PATIENCE_SECONDS:
                    return None
                self.send(signal.SIGKILL)
                raise TimeoutError(f"it hangs: {self.said}")
            time.sleep(PAUSE_SECONDS)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def said(self) -> str:
        """What it wrote to stderr and stdout."""
        return self.errors.read_text(errors="replace") if self.errors.exists() else ""


def _be(
    folder: Path, words: tuple[str, ...], errors: Path, around: Callable[[], AbstractContextManager[object]]
) -> None:
    """Be a process that runs the command."""
    code = 1
    try:
        out = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        beside = {
            "TMPDIR": folder.with_name(f"{folder.name}.tmp"),
            "RECTOOL_CACHE": folder.with_name(f"{folder.name}.cache"),
        }
        for name, path in beside.items():
            path.mkdir(exist_ok=True)
            os.environ[name] = str(path)
        tempfile.tempdir = None
        sys.argv = ["rectool", *words]
        code = _run(around)
    except BaseException as problem:
        os.write(2, f"harness: {type(problem).__name__}: {problem}\n".encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(around: Callable[[], AbstractContextManager[object]]) -> int:
    from rectool import cli

    with around():
        try:
            signal.signal(signal.SIGTERM, cli._terminate)  # as main does first of all
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
