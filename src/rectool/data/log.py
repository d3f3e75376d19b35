"""The raw log as a source hands it over, and the checks that every log must pass.

A source makes these tables in the engine:

- `raw`: user_id, item_id (text or integer), timestamp (BIGINT seconds), and where it has them
  rating (FLOAT), label (FLOAT), split (VARCHAR), true_probability (FLOAT). Row order is the file's.
- `catalogue`: item_id, title, text (VARCHAR), and what else is known of items. One row each.
- `people`, if anything is known of users: user_id and what is known. One row each.

The checks make of it the view `log`: the rows that stay, with `row`, their place in the file.
"""

from __future__ import annotations

from collections.abc import Collection

from rectool.data.engine import Engine
from rectool.data.settings import Policy, Untitled
from rectool.errors import RectoolError

EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
"""Seconds of the years 1 and 9999."""
SECONDS_UNTIL_2100 = 4_102_444_800
OPTIONAL = {"rating": "FLOAT", "label": "FLOAT", "split": "VARCHAR", "true_probability": "FLOAT"}


def check(engine: Engine, name: str, policy: Policy) -> list[str]:
    """Make the view `log`. Refuse, or leave out, rows of `raw` that say nothing: no user, item or time, or
    no number as a rating.

    Args:
        name: of the file, for messages.
        policy: what to do with such rows.

    Returns:
        What was left out, for people.

    Raises:
        RectoolError: names the file and the first such row, counted from 1 without the header.
    """
    columns = engine.columns("raw")
    absent = [f"CAST(NULL AS {kind}) AS {column}" for column, kind in OPTIONAL.items() if column not in columns]
    engine.run(f"CREATE VIEW log AS SELECT {', '.join(['rowid AS row', '*', *absent])} FROM raw")
    if _is_empty(engine):
        raise RectoolError(f"{name} has no rows")
    faults = _faults(columns)
    counts = engine.row("SELECT " + ", ".join(f"count(*) FILTER ({fault})" for fault in faults.values()) + " FROM log")
    notes = []
    for (what, fault), count in zip(faults.items(), counts, strict=True):
        if count and policy == "error":
            row, user, item, time, rating, label = engine.row(
                f"SELECT row, user_id, item_id, timestamp, rating, label FROM log WHERE {fault} ORDER BY row LIMIT 1"
            )
            raise RectoolError(
                f"{name}, row {row + 1}: {what} (user {user}, item {item}, time {time}, rating {rating}, "
                f"label {label}); {count:,} such rows; mend them or pass --invalid-rows drop"
            )
        if count:
            _leave_out(engine, fault)
            notes.append(f"{count:,} rows of {name} dropped: {what}")
    if _is_empty(engine):
        raise RectoolError(f"{name} has no valid row: {'; '.join(notes)}")
    _check_times(engine, name)
    return notes


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
    rows, first = engine.row(f"SELECT count(*), min(row) FROM log WHERE {concerned}")
    if untitled == "error":
        item = engine.value(f"SELECT item_id FROM log WHERE row = {first}")
        raise RectoolError(
            f"{log_name}, row {first + 1}: item {item} has no title in {name}, like {items:,} items in {rows:,} rows; "
            f"pass --untitled drop to leave them out, or --untitled id to call them by their id"
        )
    if untitled == "drop":
        _leave_out(engine, concerned)
        if _is_empty(engine):
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


def _faults(columns: Collection[str]) -> dict[str, str]:
    """SQL conditions by what they say is wrong, for the columns that the raw log has."""
    faults = {
        "no user": "user_id IS NULL OR CAST(user_id AS VARCHAR) = ''",
        "no item": "item_id IS NULL OR CAST(item_id AS VARCHAR) = ''",
        "no timestamp": "timestamp IS NULL",
    }
    if "rating" in columns:
        faults["the rating is not a number"] = "rating IS NULL OR isnan(rating) OR isinf(rating)"
    if "label" in columns:
        faults["the label is neither 0 nor 1"] = (
            "label NOT IN (0, 1) OR (label IS NULL AND split IS DISTINCT FROM 'context')"
        )
    return faults


def _is_empty(engine: Engine) -> bool:
    return int(engine.value("SELECT count(*) FROM log")) == 0


def _leave_out(engine: Engine, fault: str) -> None:
    """Take rows out of `log`; a condition that is null is no fault."""
    number = engine.value("SELECT count(*) FROM information_schema.tables WHERE table_name LIKE 'log%'")
    engine.run(
        f"ALTER VIEW log RENAME TO log_{number}; "
        f"CREATE VIEW log AS SELECT * FROM log_{number} WHERE NOT coalesce({fault}, false)"
    )


def _check_times(engine: Engine, name: str) -> None:
    low, high = engine.row("SELECT min(timestamp), max(timestamp) FROM log")
    if low >= EARLIEST and high <= LATEST and not (low > SECONDS_UNTIL_2100 and _looks_scaled(low)):
        return
    row, value = engine.row(
        f"SELECT row, timestamp FROM log WHERE timestamp = {high if high > LATEST or low >= EARLIEST else low} "
        "ORDER BY row LIMIT 1"
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
