"""The raw log as a source hands it over, and the checks that every log must pass.

A source makes these tables in the engine:

- `log`: user_id, item_id (text or integer), timestamp (BIGINT seconds), and where it has them
  rating (FLOAT), label (FLOAT), split (VARCHAR), true_probability (FLOAT). Row order is the file's.
- `catalogue`: item_id, title, text (VARCHAR), and what else is known of items. One row each.
- `people`, if anything is known of users: user_id and what is known. One row each.
"""

from __future__ import annotations

from collections.abc import Sequence

from rectool.data.engine import Engine
from rectool.data.settings import Policy, Untitled
from rectool.errors import RectoolError

EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
"""Seconds of the years 1 and 9999."""
SECONDS_UNTIL_2100 = 4_102_444_800
OPTIONAL = {"rating": "FLOAT", "label": "FLOAT", "split": "VARCHAR", "true_probability": "FLOAT"}


def check(engine: Engine, name: str, policy: Policy) -> list[str]:
    """Refuse, or drop, rows of `log` that say nothing: no user, item or time, no number as a rating.

    Args:
        name: of the file, for messages.
        policy: what to do with such rows.

    Returns:
        What was dropped, for people.

    Raises:
        RectoolError: names the file and the first such row, counted from 1 without the header.
    """
    columns = engine.columns("log")
    for column, kind in OPTIONAL.items():
        if column not in columns:
            engine.run(f"ALTER TABLE log ADD COLUMN {column} {kind}")
    if engine.value("SELECT count(*) FROM log") == 0:
        raise RectoolError(f"{name} has no rows")
    faults = _faults(columns)
    counted = engine.row(
        "SELECT " + ", ".join(f"count(*) FILTER ({condition})" for _, condition in faults) + " FROM log"
    )
    dropped = []
    for (fault, condition), count in zip(faults, counted, strict=True):
        if count and policy == "error":
            row, *values = engine.row(
                "SELECT rowid, user_id, item_id, timestamp, rating, label FROM log "
                f"WHERE {condition} ORDER BY rowid LIMIT 1"
            )
            raise RectoolError(
                f"{name}, row {row + 1}: {fault} (user {values[0]}, item {values[1]}, time {values[2]}, rating "
                f"{values[3]}, label {values[4]}); {count:,} such rows; mend them or pass --invalid-rows drop"
            )
        if count:
            engine.run(f"DELETE FROM log WHERE {condition}")
            dropped.append(f"{count:,} rows of {name} dropped: {fault}")
    _check_times(engine, name)
    return dropped


def check_catalogue(engine: Engine, log_name: str, name: str, untitled: Untitled) -> list[str]:
    """See that every item of `log` has one title.

    Args:
        log_name, name: of the log's and the catalogue's file, for messages.
        untitled: whether items without a title are an error, are dropped, or are called by their id.

    Returns:
        What was done, for people.

    Raises:
        RectoolError: an item stands twice, or has no title where that is an error.
    """
    check_unique(engine, "catalogue", "item_id", name)
    engine.run(
        "CREATE TABLE untitled AS SELECT item_id FROM (SELECT DISTINCT item_id FROM log) "
        "WHERE CAST(item_id AS VARCHAR) NOT IN (SELECT item_id FROM catalogue WHERE trim(title) <> '')"
    )
    items = int(engine.value("SELECT count(*) FROM untitled"))
    if items == 0:
        return []
    concerned = "item_id IN (SELECT item_id FROM untitled)"
    rows, first = engine.row(f"SELECT count(*), min(rowid) FROM log WHERE {concerned}")
    if untitled == "error":
        item = engine.value(f"SELECT item_id FROM log WHERE rowid = {first}")
        raise RectoolError(
            f"{log_name}, row {first + 1}: item {item} has no title in {name}, like {items:,} items in {rows:,} rows; "
            f"pass --untitled drop to leave them out, or --untitled id to call them by their id"
        )
    if untitled == "drop":
        engine.run(f"DELETE FROM log WHERE {concerned}")
        if engine.value("SELECT count(*) FROM log") == 0:
            raise RectoolError(f"no item of {log_name} has a title in {name}: are the ids of both the same?")
        return [f"{items:,} items without a title in {name} dropped, with {rows:,} rows"]
    return [f"{items:,} items without a title in {name} are called by their id"]


def check_unique(engine: Engine, table: str, column: str, name: str) -> None:
    """Raises RectoolError naming the row if an id is missing or stands twice."""
    missing = engine.rows(f"SELECT min(rowid) FROM {table} WHERE {column} IS NULL HAVING count(*) > 0")
    if missing:
        raise RectoolError(f"{name}, row {missing[0][0] + 1}: it has no {column}")
    twice = engine.rows(
        f"SELECT {column}, min(rowid), max(rowid) FROM {table} GROUP BY {column} HAVING count(*) > 1 "
        "ORDER BY max(rowid) LIMIT 1"
    )
    if twice:
        value, first, again = twice[0]
        raise RectoolError(f"{name}, row {again + 1}: {column} {value} stands already in row {first + 1}")


def notes_on_people(engine: Engine, name: str) -> list[str]:
    """Users of which nothing is known, and known users who did nothing, for people."""
    check_unique(engine, "people", "user_id", name)
    users = "SELECT CAST(user_id AS VARCHAR) AS user_id FROM (SELECT DISTINCT user_id FROM log)"
    idle = engine.value(f"SELECT count(*) FROM people WHERE user_id NOT IN ({users})")
    unknown = engine.value(f"SELECT count(*) FROM ({users}) WHERE user_id NOT IN (SELECT user_id FROM people)")
    notes = []
    if idle:
        notes.append(f"{idle:,} users of {name} have no interactions: not stored")
    if unknown:
        notes.append(f"{unknown:,} users are not in {name}: their attributes are null")
    return notes


def _faults(columns: Sequence[str] | dict[str, str]) -> list[tuple[str, str]]:
    """(what is wrong, SQL condition) for the columns that the log has."""
    faults = [
        ("no user", "user_id IS NULL OR CAST(user_id AS VARCHAR) = ''"),
        ("no item", "item_id IS NULL OR CAST(item_id AS VARCHAR) = ''"),
        ("no timestamp", "timestamp IS NULL"),
    ]
    if "rating" in columns:
        faults.append(("the rating is not a number", "rating IS NULL OR isnan(rating) OR isinf(rating)"))
    if "label" in columns:
        context = "split IS DISTINCT FROM 'context'" if "split" in columns else "true"
        faults.append(("the label is neither 0 nor 1", f"label NOT IN (0, 1) OR (label IS NULL AND {context})"))
    return faults


def _check_times(engine: Engine, name: str) -> None:
    low, high = engine.row("SELECT min(timestamp), max(timestamp) FROM log")
    if low >= EARLIEST and high <= LATEST and not (low > SECONDS_UNTIL_2100 and _looks_scaled(low)):
        return
    row, value = engine.row(
        f"SELECT rowid, timestamp FROM log WHERE timestamp = {high if high > LATEST or low >= EARLIEST else low} "
        "ORDER BY rowid LIMIT 1"
    )
    unit = next(
        (unit for unit, factor in (("ms", 10**3), ("us", 10**6), ("ns", 10**9)) if _is_time(value // factor)), None
    )
    if unit is not None:
        raise RectoolError(
            f"{name}, row {row + 1}: timestamp {value} is in {unit}, not in seconds; pass --timestamp-unit {unit}"
        )
    raise RectoolError(f"{name}, row {row + 1}: timestamp {value} is not a time in seconds since 1970")


def _looks_scaled(value: int) -> bool:
    return any(_is_time(value // factor) for factor in (10**3, 10**6, 10**9))


def _is_time(value: int) -> bool:
    """Between 1980 and 2100, where logs of people's doings lie."""
    return 315_532_800 <= value < SECONDS_UNTIL_2100
