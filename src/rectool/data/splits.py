"""Who is trained on and who is tested on: how the targets of a log are split.

Time decides, and the original row order where times are equal. No target of an earlier split is
later than one of a later split, except under leave-one-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from typing import TypeAlias

from rectool.artifacts.schemas import SPLITS
from rectool.data.engine import Engine
from rectool.data.log import LATEST
from rectool.data.settings import Split
from rectool.errors import RectoolError

DAY = 86_400

Cut: TypeAlias = tuple[int, int]
"""(timestamp, row) of the first target of a later split."""


def months(engine: Engine, split: Split, since: int | None) -> list[int]:
    """The seconds at which the months of a split begin, and at which the last of them ends.

    Args:
        engine: holds `log`.
        since: where the log is to begin (seconds); its first row where None.
    """
    if since is None:
        since = int(engine.value("SELECT min(timestamp) FROM log"))
    first = datetime.fromtimestamp(since, UTC)
    return [_month(first, number) for number in range(-(-sum(split.parts) // 1) + 1)]


@dataclass(frozen=True)
class Assignment:
    """The split of each row, as parts of a query.

    Attributes:
        rows: the rows of `kept`, with what the expression needs.
        split: an expression over them, to be selected from `rows AS kept`.
    """

    rows: str
    split: str


def assign(engine: Engine, split: Split, months: Sequence[int] = ()) -> Assignment:
    """How each row of `kept` gets its split.

    Args:
        engine: holds `kept` (row, user_id, timestamp, ...).
        months: for the rule `months`, what the function of that name gives.
    """
    if split.rule == "given":
        return Assignment("kept", "kept.split")
    if split.rule == "months":
        return Assignment("kept", _by_time(_month_cuts(engine, split, months)))
    if split.rule == "ratio":
        return Assignment("kept", _by_time(_ratio_cuts(engine, "kept", split)))
    placed = (
        "(SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY timestamp, row) AS place, "
        "count(*) OVER (PARTITION BY user_id) AS length FROM kept)"
    )
    if split.rule == "leave-one-out":
        # A user with fewer than three rows cannot give one to each split, and is trained on.
        return Assignment(
            placed,
            "CASE WHEN kept.length < 3 OR kept.place < kept.length - 1 THEN 'train' "
            "WHEN kept.place < kept.length THEN 'valid' ELSE 'test' END",
        )
    # Each row from the L-th on ends a window of L rows; a shorter history is one window.
    ends_window = f"(place >= {split.window} OR place = length)"
    engine.run(f"CREATE TABLE targets AS SELECT row, timestamp FROM {placed} WHERE {ends_window}")
    by_time = _by_time(_ratio_cuts(engine, "targets", split))
    return Assignment(placed, f"CASE WHEN {ends_window} THEN {by_time} ELSE 'context' END")


def check_given(engine: Engine, name: str) -> None:
    """Raises RectoolError that names the file and row if a ready-made split is none of the four there are."""
    names = ", ".join(f"'{name}'" for name in SPLITS)
    wrong = engine.rows(
        f"SELECT row, split FROM kept WHERE split IS NULL OR split NOT IN ({names}) ORDER BY row LIMIT 1"
    )
    if wrong:
        row, split = wrong[0]
        raise RectoolError(f"{name}, row {row + 1}: split {split!r} is none of {', '.join(SPLITS)}")


def _by_time(cuts: Sequence[Cut]) -> str:
    """SQL: a row before the first cut is train, before the second valid, else test."""
    (valid_time, valid_row), (test_time, test_row) = cuts
    return (
        f"CASE WHEN kept.timestamp < {valid_time} "
        f"OR (kept.timestamp = {valid_time} AND kept.row < {valid_row}) THEN 'train' "
        f"WHEN kept.timestamp < {test_time} "
        f"OR (kept.timestamp = {test_time} AND kept.row < {test_row}) THEN 'valid' ELSE 'test' END"
    )


def _ratio_cuts(engine: Engine, targets: str, split: Split) -> list[Cut]:
    """The first train share of the targets in time order, rounded down, then valid, then test."""
    total = int(engine.value(f"SELECT count(*) FROM {targets}"))
    train, valid, _ = split.parts
    shares = (train / sum(split.parts), (train + valid) / sum(split.parts))
    return [_nth(engine, targets, total * share // 1) for share in shares]


def _month_cuts(engine: Engine, split: Split, months: Sequence[int]) -> list[Cut]:
    """Whole months by the calendar; a fraction of a month by its rows in time order, rounded down."""
    cuts = []
    for position in (split.parts[0], split.parts[0] + split.parts[1]):
        whole = int(position // 1)
        if position == whole:
            cuts.append((months[whole], 0))
            continue
        since, until = months[whole], months[whole + 1]
        inside = f"(SELECT row, timestamp FROM kept WHERE timestamp >= {since} AND timestamp < {until})"
        rows = int(engine.value(f"SELECT count(*) FROM {inside}"))
        cuts.append(_nth(engine, inside, rows * (position - whole) // 1) if rows else (since, 0))
    return cuts


def _nth(engine: Engine, targets: str, n: int) -> Cut:
    """(timestamp, row) of target number n (from 0) in time order; past the last, a cut behind all.

    Finds the day by a count of each, then sorts that day alone: no sort of the whole log.
    """
    before = 0
    for day, rows in engine.rows(
        f"SELECT CAST(floor(timestamp / {DAY}.0) AS BIGINT) AS day, count(*) FROM {targets} GROUP BY day ORDER BY day"
    ):
        if n < before + rows:
            found = engine.row(
                f"SELECT timestamp, row FROM {targets} WHERE timestamp >= {day * DAY} "
                f"AND timestamp < {(day + 1) * DAY} ORDER BY timestamp, row LIMIT 1 OFFSET {n - before}"
            )
            return int(found[0]), int(found[1])
        before += rows
    return (1 << 62, 0)


def _month(start: datetime, months: int) -> int:
    """Seconds at the first of the month that lies so many months after that of `start`."""
    index = start.year * 12 + start.month - 1 + int(months)
    if index // 12 > MAXYEAR:
        return LATEST + 1
    return int(datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC).timestamp())
