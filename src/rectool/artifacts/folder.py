"""Replacing a folder as a whole: after a kill at any moment there is the old one or the new one.

A folder `NAME` is written as its sibling `.NAME.partial`. When that is whole and on disk, its
checkpoints are removed, the existing `NAME` is renamed to `.NAME.old`, the new one is renamed to
`NAME`, and the old one is removed. `.NAME.old`, or a whole `.NAME.partial`, beside no `NAME` therefore
means that this was cut short, and `settle` finishes it. `.NAME.lock` is held by the one process that
writes; it dies with that process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rectool.errors import RectoolError, disk_errors

CHECKPOINTS = "checkpoints"
"""What a partial folder has to be continued from; it never becomes part of the folder."""
SETTLE_SECONDS = 10.0
"""How long a reader waits for another process that is in the middle of a swap."""
PATIENCE_SECONDS = 0.5
"""How long a writer waits for the lock: a reader that settles a swap holds it for a moment, a writer for longer."""


def no_uri(path: Path) -> Path:
    """The same place, as an absolute path where Arrow would take a relative one for a URI: `in:8/items.parquet`."""
    return path.absolute() if ":" in next(iter(path.parts), "") else path


def partial_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.partial"


def old_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def real(folder: Path) -> Path:
    """The folder itself, symbolic links followed; it need not exist."""
    return Path(os.path.realpath(folder))


class Busy(RectoolError):
    """Another live process is writing the folder."""


def identity(folder: Path) -> tuple[int, int] | None:
    """Which folder stands at a path: another answer once it has been replaced, None if there is none."""
    try:
        found = folder.stat()
        return found.st_ino, found.st_ctime_ns  # the number of a folder that is gone is soon another's
    except OSError:
        return None


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the right to write `folder`.

    Raises:
        Busy: another live process holds it.
        RectoolError: nothing can be written there.
    """
    path = _lock_of(folder)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with disk_errors(folder, "choose another --out"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        while (descriptor := _acquire(path)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
    if descriptor is None:
        raise _busy(folder)
    try:
        with disk_errors(folder, "choose another --out"):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        with suppress(OSError):  # it is given back all the same, and what went wrong before counts
            path.unlink()
        os.close(descriptor)


def refuse_busy(folder: Path) -> None:
    """Raises Busy if another live process is writing `folder`. It changes nothing, and promises nothing for later."""
    folder = real(folder)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _is_held(_lock_of(folder)):
        if time.monotonic() >= deadline:
            raise _busy(folder)
        time.sleep(0.02)


def settle(folder: Path, is_whole: Callable[[Path], bool], *, replace: bool = False) -> None:
    """Finish what a kill cut short: a swap, or a partial folder that is whole but not in its place.

    Args:
        is_whole: tells whether a partial folder had been written to its end.
        replace: put a whole partial folder in the place of one that stands, too.

    Raises:
        RectoolError: it cannot be finished here.
    """
    folder = real(folder)
    if not is_cut_short(folder, is_whole, replace=replace):
        return
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        try:
            with lock(folder):
                settle_locked(folder, is_whole, replace=replace)
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


def is_cut_short(folder: Path, is_whole: Callable[[Path], bool], *, replace: bool = False) -> bool:
    """Whether there is something to settle, or another process is in the middle of a swap."""
    folder = real(folder)
    return old_of(folder).exists() or _is_due(folder, is_whole, replace=replace)


def put_in_place(folder: Path) -> None:
    """Put the partial folder, whole and on disk, in the place of `folder`. The caller holds the lock."""
    partial, old = partial_of(folder), old_of(folder)
    if (partial / CHECKPOINTS).exists():
        shutil.rmtree(partial / CHECKPOINTS)
    if _stands(folder):
        os.rename(folder, old)
        sync(folder.parent)
    os.rename(partial, folder)
    sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def put_back(folder: Path) -> None:
    """Where an error stopped a swap between its renames, put the old folder back. The caller holds the lock."""
    if not folder.exists() and old_of(folder).exists():
        os.rename(old_of(folder), folder)
        sync(folder.parent)


def discard_partial(folder: Path, mark: str) -> None:
    """Remove the partial folder, if there is one. The caller holds the lock.

    Args:
        mark: the file that makes it whole. It goes first: `settle` must never meet a partial folder
            that is being removed and looks whole.
    """
    partial = partial_of(folder)
    (partial / mark).unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)


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


def settle_locked(folder: Path, is_whole: Callable[[Path], bool], *, replace: bool = False) -> None:
    """`settle` for the process that holds the lock."""
    old = old_of(folder)
    if old.exists() and folder.exists():
        shutil.rmtree(old)
    if _is_due(folder, is_whole, replace=replace):
        put_in_place(folder)
    elif old.exists():
        os.rename(old, folder)
        sync(folder.parent)


def _is_due(folder: Path, is_whole: Callable[[Path], bool], *, replace: bool) -> bool:
    """Whether the partial folder is to be put in its place: what stands there must be whole to be replaced."""
    return is_whole(partial_of(folder)) and (not _stands(folder) or (replace and is_whole(folder)))


def _stands(folder: Path) -> bool:
    """Whether there is something, be it a file, other than an empty folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _lock_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


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


def _busy(folder: Path) -> Busy:
    try:
        owner = _lock_of(folder).read_text()
    except OSError:
        owner = ""
    named = f" (pid {owner})" if owner.isdigit() else ""
    return Busy(f"{folder} is being written by another process{named}; wait for it or stop it")
