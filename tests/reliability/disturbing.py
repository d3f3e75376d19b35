"""What can come between the start of a command and its end."""

from __future__ import annotations

import errno
import fcntl
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from breaking import Breaking
from children import Child

STOPPED_CODES = {signal.SIGINT: {130}, signal.SIGTERM: {75, 143}}
DAY = 86_400.0
LINE = 1024
"""Bytes that what a run says has room in: that goes into a file, too."""


@dataclass(frozen=True)
class Undisturbed:
    """What is known of a command's run that nothing disturbed.

    Attributes:
        seconds: how long it took.
        calls: how many of Python's calls changed the disk.
        size: of the artifact's files together, in bytes.
    """

    seconds: float
    calls: int
    size: int


@dataclass(frozen=True)
class Attempt:
    """A run that is to be disturbed.

    Attributes:
        folder: in which it runs.
        words: the whole command.
        usual: what its run is like without disturbance.
        chance: decides when.
    """

    folder: Path
    words: tuple[str, ...]
    usual: Undisturbed
    chance: random.Random

    def start(self, around: Callable[[], AbstractContextManager[object]] | None = None) -> Child:
        return Child(self.folder, self.words, around)

    def call(self) -> int:
        """The number of a call that changes the disk."""
        return self.chance.randint(1, max(1, self.usual.calls))

    @property
    def read_only(self) -> str:
        """What it says of such a disk, and that something follows; `adopt` can write to one place alone."""
        return "Read-only file system" + "; " * (self.words[0] != "adopt")

    def moment(self) -> float:
        """Seconds after the start."""
        return self.chance.uniform(0, self.usual.seconds)


Disturbance = Callable[[Attempt], bool]
"""Starts the attempt, disturbs it, checks what it says; returns whether it was disturbed before its end."""


def killed_at_a_call(attempt: Attempt) -> bool:
    at = attempt.call()
    child = attempt.start(lambda: Breaking(at, kill=True))
    return _killed(child)


def killed_at_a_moment(attempt: Attempt) -> bool:
    child, moment = attempt.start(), attempt.moment()
    code = child.wait(moment)
    if code is None:
        child.send(signal.SIGKILL)
        return _killed(child)
    return _ended(child, code)


def interrupted(attempt: Attempt) -> bool:
    return _signalled(attempt, signal.SIGINT)


def terminated(attempt: Attempt) -> bool:
    return _signalled(attempt, signal.SIGTERM)


def on_a_disk_full_from_a_call_on(attempt: Attempt) -> bool:
    at = attempt.call()
    child = attempt.start(lambda: Breaking(at, kill=False, lasting=True))
    return _refused(child, "is full; free some space")


def on_a_disk_read_only_from_a_call_on(attempt: Attempt) -> bool:
    at = attempt.call()
    child = attempt.start(lambda: Breaking(at, kill=False, lasting=True, error=errno.EROFS))
    return _refused(child, attempt.read_only)


def with_too_small_files(attempt: Attempt) -> bool:
    """Whoever writes, libraries too, can write so many bytes into a file."""
    size = attempt.chance.randint(1, max(2, attempt.usual.size // 2))

    def limit() -> AbstractContextManager[object]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return contextmanager(lambda: iter([None]))()

    return _refused(attempt.start(limit), "File too large" if size >= LINE else None)


def on_a_small_disk(attempt: Attempt) -> bool:
    """A real one, of a random size that what stands there fits into."""
    standing = sum(path.stat().st_size + 4096 for path in attempt.folder.rglob("*"))
    size = standing + attempt.chance.randint(8192, max(16_384, 2 * attempt.usual.size))
    with _disk(attempt.folder, f"size={size}"):
        return _refused(attempt.start(), "is full; free some space")


def on_a_disk_that_becomes_read_only(attempt: Attempt) -> bool:
    """A real one; as long as a file is open for writing, it does not."""
    with _disk(attempt.folder, "size=1g"):
        child, moment = attempt.start(), attempt.moment()
        code = child.wait(moment)
        while code is None and not _remount(attempt.folder, "ro"):
            code = child.wait(0.001)
        return _refused(child, attempt.read_only, code)


def beside_another(attempt: Attempt) -> bool:
    """The first run stands still at a call; a second one is refused; then the first is killed."""
    at = attempt.call()
    child = attempt.start(lambda: _Pausing(at))
    code = child.wait(stopped=True)
    if code is not None:
        return _ended(child, code)
    try:
        if _is_locked(attempt.folder):
            second = Child(attempt.folder, attempt.words)
            code = second.wait()
            if code == 0:  # the first has made all that there is, and only not gone yet
                assert "x: is up to date" in second.said, second.said
            else:
                assert code == 2, f"the second ended with {code}: {second.said}"
                assert re.search("/x is being |^x has a manifest already", _error(second)), second.said
    finally:
        child.send(signal.SIGKILL)
    return _killed(child)


def while_the_clock_goes_back(attempt: Attempt) -> bool:
    """A day at first, and an hour whenever somebody looks; killed at some moment."""
    child, moment = attempt.start(lambda: _clock_going_back()), attempt.moment()
    code = child.wait(moment)
    if code is None:
        child.send(signal.SIGKILL)
        return _killed(child)
    return _ended(child, code)


def available(folder: Path) -> dict[str, Disturbance]:
    """All that can be done here, by name: only root may mount a disk."""
    found: dict[str, Disturbance] = {
        "kill at a call": killed_at_a_call,
        "kill at a moment": killed_at_a_moment,
        "SIGINT": interrupted,
        "SIGTERM": terminated,
        "full from a call on": on_a_disk_full_from_a_call_on,
        "read-only from a call on": on_a_disk_read_only_from_a_call_on,
        "file size limit": with_too_small_files,
        "a second run": beside_another,
        "clock going back": while_the_clock_goes_back,
    }
    if _can_mount(folder):
        found |= {"small disk": on_a_small_disk, "disk becomes read-only": on_a_disk_that_becomes_read_only}
    return found


class _Pausing(Breaking):
    """The process stands still at a call."""

    def __init__(self, at: int) -> None:
        super().__init__(at, kill=True)

    def stop(self, *_: object) -> None:
        signal.raise_signal(signal.SIGSTOP)


def _clock_going_back() -> AbstractContextManager[object]:
    real, calls = time.time, iter(range(10**9))

    @contextmanager
    def patched() -> Iterator[None]:
        time.time = lambda: real() - DAY - 3600 * next(calls)
        yield

    return patched()


def _killed(child: Child) -> bool:
    code = child.wait()
    assert code in (0, -signal.SIGKILL), f"it ended with {code}: {child.said}"
    return code != 0


def _ended(child: Child, code: int) -> bool:
    assert code == 0, f"it ended with {code}: {child.said}"
    return False


def _signalled(attempt: Attempt, number: signal.Signals) -> bool:
    child, moment = attempt.start(), attempt.moment()
    code = child.wait(moment)
    if code is None:
        child.send(number)
        code = child.wait()
    if code == 0:
        return False
    assert code in STOPPED_CODES[number], f"{number.name}: it ended with {code}: {child.said}"
    _error(child)
    return True


def _refused(child: Child, expected: str | None, code: int | None = None) -> bool:
    """Whether the disk stopped it: then in one line, if that had room."""
    code = child.wait() if code is None else code
    if code == 0:
        return False
    assert code == 2, f"it ended with {code}: {child.said}"
    assert expected is None or expected in _error(child), child.said
    return True


def _error(child: Child) -> str:
    lines = [line for line in child.said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, f"not one error line: {child.said}"
    for unwanted in ("Traceback", "Exception ignored", "Warning"):
        assert unwanted not in child.said, child.said
    return lines[0].removeprefix("error: ")


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / ".x.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


@contextmanager
def _disk(folder: Path, options: str) -> Iterator[None]:
    """The folder on a disk of its own; what is left there stays when the disk goes."""
    before, after = folder.with_name(f"{folder.name}.before"), folder.with_name(f"{folder.name}.after")
    shutil.copytree(folder, before, symlinks=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    try:
        shutil.copytree(before, folder, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        _remount(folder, "rw,size=1g")
        shutil.copytree(folder, after, symlinks=True)
        subprocess.run(["umount", folder], check=True)
        shutil.rmtree(folder)
        shutil.rmtree(before)
        after.rename(folder)


def _remount(folder: Path, options: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{options}", folder], capture_output=True).returncode == 0


def _can_mount(folder: Path) -> bool:
    if shutil.which("mount") is None or shutil.which("umount") is None:
        return False
    place = folder / "mounted"
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True)
    return done.returncode == 0 and subprocess.run(["umount", place]).returncode == 0
