"""Calls that change the disk, counted; one of them kills its process, or fails."""

from __future__ import annotations

import errno
import io
import os
import signal
from collections.abc import Callable
from typing import Any

CHANGING = ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir", "write", "ftruncate", "open")
NEEDS_NO_SPACE = ("unlink", "rmdir")
OPEN = os.open


class Breaking:
    """Within its block the `at`-th call that changes the disk dies, half done where half a call is possible, or fails.

    Attributes:
        calls: how many there were.
        broken: the name of the call that was the last, or failed.
    """

    def __init__(
        self, at: int, *, kill: bool, error: int = errno.ENOSPC, lasting: bool = False, fail_second_rename: bool = False
    ) -> None:
        """Args:
        kill: kill the process instead of failing the call.
        error: how the call fails.
        lasting: all calls after it fail, too.
        fail_second_rename: the second os.rename fails, as the second of a swap.
        """
        self.at, self.kill, self.error, self.lasting = at, kill, error, lasting
        self.fail_second_rename = fail_second_rename
        self.calls = self.renames = 0
        self.broken = ""
        self.originals: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Breaking:
        for module, name in [*((os, name) for name in CHANGING), (io, "open")]:
            self.originals.append((module, name, getattr(module, name)))
            setattr(module, name, self.counted(name, getattr(module, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for module, name, original in self.originals:
            setattr(module, name, original)

    def counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not self.kill and self.error == errno.ENOSPC and name in NEEDS_NO_SPACE:
                return original(*arguments, **named)
            if name == "open" and not writes(*arguments, **named):
                return original(*arguments, **named)
            if name == "rename" and self.fail_second_rename:
                self.renames += 1
                if self.renames == 2:
                    raise OSError(errno.EIO, "Input/output error")
            self.calls += 1
            if self.calls == self.at or (self.lasting and self.at < self.calls):
                self.broken = name
                self.stop(name, original, arguments, named)
            return original(*arguments, **named)

        return call

    def stop(self, name: str, original: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not self.kill:
            path = arguments[0] if isinstance(arguments[0], str | os.PathLike) else None
            raise OSError(self.error, os.strerror(self.error), path and os.fspath(path))
        if name == "write":
            original(arguments[0], arguments[1][: len(arguments[1]) // 2])
        elif name == "open" and original is not OPEN:
            file = original(*arguments, **named)
            file.write('{"kind": "data' if "b" not in file.mode else b"PAR")
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def writes(_path: object, mode: object = "r", *_: object, **__: object) -> bool:
    """Whether an os.open (flags) or io.open (mode) is for writing."""
    return bool(mode & (os.O_WRONLY | os.O_RDWR)) if isinstance(mode, int) else "r" not in str(mode)
