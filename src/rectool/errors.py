"""The one error a user sees: a single line that says what is wrong and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RectoolError(Exception):
    """The user's mistake, or a fact of their machine such as a full disk.

    The message is one line. It names the file, row or flag, and the next step. The command line
    prints it as `error: ...` and exits with code 2; nothing is lost and nothing half written.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class WrongKind(RectoolError):
    """An artifact of another kind than the one that is `needed`."""

    def __init__(self, message: str, needed: str) -> None:
        super().__init__(message)
        self.needed = needed


class Stopped(RectoolError):
    """Training that stopped before its end with a checkpoint, so that `--resume` continues it.

    Exits with code 75 (stopped in time, or terminated), or 130 where it was interrupted.
    """

    def __init__(self, message: str, *, interrupted: bool = False) -> None:
        super().__init__(message)
        self.exit_code = 130 if interrupted else 75


@contextmanager
def disk_errors(path: Path, then: str = "") -> Iterator[None]:
    """Turn what the operating system refuses into a RectoolError about `path`, or the file elsewhere that it names.

    Args:
        then: what to do about it; a full disk has its own advice.
    """
    try:
        yield
    except OSError as problem:
        named = Path(os.fsdecode(problem.filename)) if isinstance(problem.filename, str | bytes) else path
        where = path if path.parent in named.parents else named  # what we put beside `path` tells nobody anything
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RectoolError(
                f"the disk of {where} is full; free some space, or write elsewhere (--out, --temp-dir)"
            ) from problem
        advice = f"; {then}" if then else ""
        raise RectoolError(f"{where}: {problem.strerror or problem}{advice}") from problem
