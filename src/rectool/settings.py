"""Settings are frozen dataclasses that check themselves; each field is one flag.

The domain declares a setting once, with its default and its help. The command layer makes the
flag from it (`commands/flags.py`) and the artifact's manifest records its value.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rectool.errors import RectoolError


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    metavar: str | None = None,
    argument: bool = False,
    recorded: bool = True,
) -> Any:
    """Declare a dataclass field that is also a command-line flag.

    Args:
        default: the flag's default; a field without one is required.
        help: one line for `--help`.
        metavar: how the value is shown in `--help`.
        argument: take the value by position rather than by name.
        recorded: False for what cannot change the result (threads, paths of inputs, which are
            recorded as parents): not kept among the manifest's settings, not compared by `--update`.
    """
    metadata = {"help": help, "metavar": metavar, "argument": argument, "recorded": recorded}
    return dataclasses.field(default=default, metadata=metadata)


def flag_name(field: str) -> str:
    """`like_at_least` -> `--like-at-least`, `from_` -> `--from`."""
    return "--" + field.rstrip("_").replace("_", "-")


def byte_count(text: str, flag: str, beside: str = "") -> int:
    """A size such as 2GB or 500MiB in bytes.

    Args:
        beside: what else `flag` may say.

    Raises:
        RectoolError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt])(i?)b", text.strip().lower())
    if found is None:
        raise RectoolError(f"{flag} {text} is not a size; write it like 2GB or 500MB{beside and f', or {beside}'}")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** ("kmgt".index(found[2]) + 1))


def recorded(groups: Iterable[Any]) -> dict[str, Any]:
    """The settings that make the result what it is, as JSON values, from several dataclasses."""
    values: dict[str, Any] = {}
    for group in groups:
        for field in dataclasses.fields(group):
            if not field.metadata["recorded"]:
                continue
            value = getattr(group, field.name)
            if isinstance(value, Path):
                value = value.as_posix()
            values[field.name.rstrip("_")] = list(value) if isinstance(value, tuple) else value
    return values
