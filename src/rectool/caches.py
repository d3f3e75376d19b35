"""Where things are kept that can be had again, and how several processes share them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rectool import console


def cache_folder() -> Path:
    """RECTOOL_CACHE, else XDG_CACHE_HOME/rectool, else ~/.cache/rectool."""
    if own := os.environ.get("RECTOOL_CACHE"):
        return Path(own).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has a relative path ignored.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "rectool"


@contextmanager
def locked(destination: Path, doing: str) -> Iterator[None]:
    """Let one process at a time make `destination`; the .lock file stays, as removing it would race.

    Args:
        doing: what the other process does, for those who wait: "waiting for another process to ...".
    """
    with destination.with_name(destination.name + ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"waiting for another process to {doing}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
