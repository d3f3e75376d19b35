"""The settings of data preparation: what each flag of `rectool prep` means, and its checks.

Nothing heavy is imported here, so that help and completion answer at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from rectool.errors import RectoolError
from rectool.settings import byte_count, setting

Policy: TypeAlias = Literal["error", "drop"]
Untitled: TypeAlias = Literal["error", "drop", "id"]

SPLIT_FORMS = "ratio:8,1,1, months:10,5,5, leave-one-out, windows:11:8,1,1 or given"
LARGEST_SUM = 10_000
"""Of the parts of a split; months beyond it would leave the calendar."""


@dataclass(frozen=True)
class Resources:
    """What the preparation may use. None of it changes the result."""

    panel: ClassVar[str] = "Resources"

    memory_limit: str | None = setting(
        None, metavar="SIZE", recorded=False, help="Memory for the SQL engine, such as 2GB; the rest goes to disk."
    )
    threads: int | None = setting(None, metavar="N", recorded=False, help="Threads; all cores by default.")
    temp_dir: Path | None = setting(
        None, metavar="DIR", recorded=False, help="Where temporary files go; beside the artifact by default."
    )

    def __post_init__(self) -> None:
        self.memory_bytes()
        if self.threads is not None and self.threads < 1:
            raise RectoolError(f"--threads {self.threads} must be at least 1")

    def memory_bytes(self) -> int | None:
        """The memory limit in bytes. Raises RectoolError for what is not a size."""
        if self.memory_limit is None:
            return None
        return byte_count(self.memory_limit, "--memory-limit")


@dataclass(frozen=True)
class Filters:
    """Filters, applied in this order: dates, duplicates, id caps, minimum counts, k-core."""

    panel: ClassVar[str] = "Filters"

    from_: str | None = setting(None, metavar="DATE", help="First day, UTC: 2001, 2001-06 or 2001-06-30.")
    until: str | None = setting(None, metavar="DATE", help="Day after the last, UTC, in the same forms.")
    duplicates: Literal["all", "first", "last"] = setting("all", help="Which rows of the same user and item to keep.")
    max_user_id: int | None = setting(
        None, metavar="N", help="Keep users numbered 0 to N (by first appearance), then number anew (SASRecLLM)."
    )
    max_item_id: int | None = setting(None, metavar="N", help="The same for items.")
    min_user_count: int = setting(1, metavar="N", help="Users with fewer rows go; counted once, together with items.")
    min_item_count: int = setting(1, metavar="N", help="Items with fewer rows go; counted once, together with users.")
    k_core: int = setting(1, metavar="K", help="Users and items with fewer than K rows go, until none is left.")

    def __post_init__(self) -> None:
        since, until = self.range()
        if since is not None and until is not None and since >= until:
            raise RectoolError(f"--from {self.from_} is not before --until {self.until}")
        for name in ("min_user_count", "min_item_count", "k_core"):
            if getattr(self, name) < 1:
                raise RectoolError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        for name in ("max_user_id", "max_item_id"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise RectoolError(f"--{name.replace('_', '-')} {getattr(self, name)} must not be negative")

    def range(self) -> tuple[int | None, int | None]:
        """The dates as seconds since 1970: from the first, up to and without the second."""
        return seconds("--from", self.from_), seconds("--until", self.until)


@dataclass(frozen=True)
class Preparation:
    """What becomes of a log, whatever its source."""

    panel: ClassVar[str] = "Labels and splits"

    split: str = setting(
        "ratio:8,1,1", metavar="RULE", help=f"How targets are split: {SPLIT_FORMS}; ties in time by the rows' order."
    )
    like_at_least: float = setting(4.0, metavar="RATING", help="A rating from here on is a like (label 1).")
    untitled: Untitled = setting(
        "error", help="Items without a title: refuse them, drop them, or call them by their id."
    )
    invalid_rows: Policy = setting(
        "error", help="Rows without user, item, time or a numeric rating: refuse them, or drop them."
    )

    def __post_init__(self) -> None:
        self._check_split()
        if not math.isfinite(self.like_at_least):
            raise RectoolError(f"--like-at-least {self.like_at_least} must be a finite number")

    def _check_split(self) -> None:
        Split.parse(self.split)


@dataclass(frozen=True)
class Split:
    """A parsed `--split`.

    Attributes:
        rule: ratio, months, leave-one-out, windows or given.
        parts: sizes of train, valid and test: shares, or calendar months (which may be fractions).
        window: length of a window, its target included.
    """

    rule: str
    parts: tuple[Fraction, Fraction, Fraction] = (Fraction(8), Fraction(1), Fraction(1))
    window: int = 0

    @classmethod
    def parse(cls, text: str) -> Split:
        """Raises RectoolError that says which forms there are."""
        rule, _, rest = text.partition(":")
        if rule in ("leave-one-out", "given") and not rest:
            return cls(rule)
        if rule in ("ratio", "months") and rest:
            return cls(rule, _parts(text, rest))
        length, _, rest = rest.partition(":")
        if rule == "windows" and rest and re.fullmatch("[0-9]{1,9}", length) and int(length) >= 2:
            return cls(rule, _parts(text, rest), int(length))
        raise RectoolError(f"--split {text} is none of the forms {SPLIT_FORMS}")


def _parts(text: str, rest: str) -> tuple[Fraction, Fraction, Fraction]:
    try:  # no exponents: 1e999999999 would take all memory
        parts = [Fraction(part) for part in rest.split(",") if re.fullmatch("[0-9./ ]+", part)]
    except (ValueError, ZeroDivisionError):
        parts = []
    if len(parts) != 3 or rest.count(",") != 2 or parts[0] == 0 or sum(parts) > LARGEST_SUM:
        raise RectoolError(
            f"--split {text} needs three sizes, for train, valid and test, such as 8,1,1; sum <= {LARGEST_SUM:,}"
        )
    return parts[0], parts[1], parts[2]


def seconds(flag: str, date: str | None) -> int | None:
    """The first second, UTC, of a year, month or day. Raises RectoolError that names the flag."""
    if date is None:
        return None
    for form in ("%Y", "%Y-%m", "%Y-%m-%d"):
        try:
            return int(datetime.strptime(date, form).replace(tzinfo=UTC).timestamp())
        except ValueError:
            continue
    raise RectoolError(f"{flag} {date} is not a date; write it like 2001, 2001-06 or 2001-06-30")
