"""JSON documents as a stranger may have written them: bounded in size and depth, and what is made of what they say."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rectool.errors import RectoolError

LIMIT_BYTES = 256 << 20
DEEPEST = 100
"""Levels of lists and objects in each other: more than any document has, less than what reads it can go down."""


def read(path: Path, limit: int = LIMIT_BYTES) -> Any:
    """The value that a JSON file holds.

    Raises:
        FileNotFoundError: there is none.
        RectoolError: it is no file, cannot be read, is larger than `limit` bytes, no JSON, or nested too deeply.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RectoolError(f"{path} is not a file")
        if status.st_size > limit:
            raise RectoolError(f"{path} is larger than {limit >> 20} MiB: not a document of ours")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise RectoolError(f"{path} cannot be read: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise RectoolError(f"{path} is damaged: not JSON ({problem}); make it again") from None
    if _is_deeper(value, DEEPEST):
        raise RectoolError(f"{path} is damaged: more than {DEEPEST} lists and objects in each other; make it again")
    return value


@contextmanager
def understood(path: Path, made_by: str) -> Iterator[None]:
    """Turn what goes wrong where a document says what it cannot mean into one line about it.

    Args:
        made_by: the command to make it again with.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as problem:
        raise RectoolError(f"{path} is not of {made_by} ({repr(problem)[:300]}); make it again") from problem


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
