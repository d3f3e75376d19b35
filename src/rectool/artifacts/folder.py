"""Replacing a folder as a whole: after a kill at any moment there is the old one or the new one.

A folder `NAME` is written as its sibling `.NAME.partial`. When that is whole and on disk, the
existing `NAME` is renamed to `.NAME.old`, the new one is renamed to `NAME`, and the old one is
removed. `.NAME.old` beside no `NAME` therefore means that a swap was cut short, and `settle`
finishes it. `.NAME.lock` is held by the one process that writes; it dies with that process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rectool.errors import RectoolError, disk_errors

SETTLE_SECONDS = 10.0
"""How long a reader waits for another process that is in the middle of a swap."""
PATIENCE_SECONDS = 0.5
"""How long a writer waits for the lock: a reader that settles a swap holds it for a moment, a writer for longer."""


def partial_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.partial"


def old_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def real(folder: Path) -> Path:
    """The folder itself, symbolic links followed; it need not exist."""
    return Path(os.path.realpath(folder))


class Busy(RectoolError):
    """Another live process is writing the folder."""


def identity(folder: Path) -> int | None:
    """Which folder stands at a path: another number once it has been replaced, None if there is none."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the right to write `folder`.

    Raises:
        Busy: another live process holds it.
        RectoolError: nothing can be written there.
    """
    path = folder.parent / f".{folder.name}.lock"
    deadline = time.monotonic() + PATIENCE_SECONDS
    with disk_errors(folder, "choose another --out"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        while (descriptor := _acquire(path)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
    if descriptor is None:
        raise Busy(f"{folder} is being written by another process{_owner(path)}; wait for it or stop it")
    try:
        with disk_errors(folder, "choose another --out"):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def settle(folder: Path, is_whole: Callable[[Path], bool]) -> None:
    """Finish a swap that a kill cut short; where there is none, do nothing.

    Args:
        is_whole: tells whether a partial folder had been written to its end.

    Raises:
        RectoolError: the swap cannot be finished here.
    """
    folder = real(folder)
    if not old_of(folder).exists():
        return
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        try:
            with lock(folder):
                settle_locked(folder, is_whole)
            return
        except Busy:
            if folder.exists():  # the writer is past the moment in which there is no folder
                return
            time.sleep(0.05)
        except RectoolError as problem:
            if folder.exists():
                return
            raise RectoolError(
                f"the replacement of {folder} was cut short and cannot be finished ({problem}); "
                f"read {old_of(folder)} instead"
            ) from problem
    raise RectoolError(f"{folder} is being replaced by another process; try again when it is done")


def replace(folder: Path, is_whole: Callable[[Path], bool]) -> None:
    """Put the partial folder, whole and on disk, in the place of `folder`. The caller holds the lock."""
    partial, old = partial_of(folder), old_of(folder)
    if folder.exists():
        os.rename(folder, old)
        sync(folder.parent)
    os.rename(partial, folder)
    sync(folder.parent)
    settle_locked(folder, is_whole)


def discard_partial(folder: Path) -> None:
    """Remove what is left of the partial folder, if anything. The caller holds the lock.

    Where an error stopped `replace` between its renames, the old folder goes back first: `settle`
    must never meet a partial folder that is being removed and looks whole.
    """
    if not folder.exists() and old_of(folder).exists():
        os.rename(old_of(folder), folder)
        sync(folder.parent)
    shutil.rmtree(partial_of(folder), ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file or a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make everything under a folder durable, the folder last."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def write_durably(path: Path, text: str) -> None:
    """Write a small file so that it is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def settle_locked(folder: Path, is_whole: Callable[[Path], bool]) -> None:
    """`settle` for the process that holds the lock."""
    partial, old = partial_of(folder), old_of(folder)
    if not old.exists():
        return
    if not folder.exists():
        os.rename(partial if is_whole(partial) else old, folder)
        sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def _acquire(path: Path) -> int | None:
    """The descriptor of the locked file, or None if another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # its holder removed it in between: the lock we have is of a dead name
            pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.close(descriptor)


def _owner(path: Path) -> str:
    try:
        text = path.read_text()
    except OSError:
        return ""
    return f" (pid {text})" if text.isdigit() else ""
