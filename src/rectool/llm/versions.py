"""Which version of a library a file needs that the one here cannot read."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Literal


def needed(path: Path, library: Literal["transformers", "peft"]) -> str:
    """What to add to an error about a JSON file that a newer version of a library wrote; nothing if none did.

    Args:
        path: says who wrote it, as `transformers_version` or `peft_version`.
    """
    try:
        written_by = str(json.loads(path.read_bytes())[f"{library}_version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    here = metadata.version(library)
    if not re.fullmatch(r"\d{1,6}(\.\w{1,20}){0,9}", written_by) or _numbers(written_by) <= _numbers(here):
        return ""
    return f"; {library} {written_by} wrote it, here is {here}: upgrade with: pip install -U '{library}>={written_by}'"


def _numbers(version: str) -> list[int]:
    """The release's numbers: those of `5.23.0.dev0` are 5, 23 and 0."""
    return [int(part) for part in re.match(r"[\d.]*\d", version)[0].split(".")]  # type: ignore[index]
