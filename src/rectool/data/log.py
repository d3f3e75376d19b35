"""The raw log as a source hands it over, and the checks that every log must pass.

A source makes these tables in the engine:

- `raw`: user_id, item_id (text or integer), timestamp (BIGINT seconds), and where it has them
  rating (FLOAT), label (FLOAT), split (VARCHAR), true_probability (FLOAT), true_rank (BIGINT). Row order is the file's.
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
SECONDS_UNTIL_1980, SECONDS_UNTIL_2100 = 315_532_800, 4_102_444_800
"""Logs of people's doings lie between them."""
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Units of a timestamp in a second."""
OPTIONAL = {
    "rating": "FLOAT",
    "label": "FLOAT",
    "split": "VARCHAR",
    "true_probability": "FLOAT",
    "true_rank": "BIGINT",
}


def check(engine: Engine, name: str, policy: Policy, time_unit: str | None = None) -> list[str]:
    """Make the view `log`. Refuse, or leave out, rows of `raw` that say nothing: no user, item or time, or
    no number as a rating.

    Args:
        name: of the file, for messages.
        policy: what to do with such rows.
        time_unit: the unit of the file's timestamps, as its user named it.

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
                f"SELECT row, {_short('user_id')}, {_short('item_id')}, timestamp, rating, label FROM log "
                f"WHERE {fault} ORDER BY row LIMIT 1"
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
    _check_times(engine, name, time_unit)
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
    if untitled != "id":
        _refuse_strangers(engine, log_name, name)
    if untitled == "error":
        item = engine.value(f"SELECT {_short('item_id')} FROM log WHERE row = {first}")
        raise RectoolError(
            f"{log_name}, row {first + 1}: item {item} has no title in {name} ({items:,} such items in {rows:,} rows); "
            f"pass --untitled drop to leave them out, or --untitled id to call them by their id"
        )
    if untitled == "drop":
        _leave_out(engine, concerned)
        if _is_empty(engine):
            raise RectoolError(
                f"no item of {log_name} has a title in {name}; pass --untitled id to call them by their id"
            )
        return [f"{items:,} items without a title in {name} dropped, with {rows:,} rows"]
    return [f"{items:,} items without a title in {name} are called by their id"]


def _refuse_strangers(engine: Engine, log_name: str, name: str) -> None:
    """Raises RectoolError, with two ids that mean the same if there are such, if log and catalogue share none."""
    known = "SELECT item_id FROM catalogue WHERE item_id IS NOT NULL"
    if engine.rows(f"SELECT item_id FROM log WHERE CAST(item_id AS VARCHAR) IN ({known}) LIMIT 1"):
        return
    # 9.0, 009 and 9 are one number; other ids may differ by case and blanks.
    key = "coalesce(CAST(TRY_CAST({0} AS DOUBLE) AS VARCHAR), lower(trim(CAST({0} AS VARCHAR))))"
    alike = engine.rows(
        f"SELECT {_short('ours.item_id')}, {_short('theirs.item_id')} FROM untitled AS ours JOIN catalogue AS theirs "
        f"ON {key.format('ours.item_id')} = {key.format('theirs.item_id')} "
        "ORDER BY length(CAST(ours.item_id AS VARCHAR)), ours.item_id LIMIT 1"
    )
    hint = "".join(f" the log has {ours!r}, the items have {theirs!r}: write them alike" for ours, theirs in alike)
    raise RectoolError(f"no item of {log_name} is in {name}: are the ids of both the same?{hint}")


def leave_out_nameless(engine: Engine, name: str) -> list[str]:
    """Drop catalogue rows without an id; returns how many, for people."""
    rows = int(engine.value("SELECT count(*) FROM catalogue WHERE item_id IS NULL"))
    if rows == 0:
        return []
    engine.run("DELETE FROM catalogue WHERE item_id IS NULL")
    return [f"{rows:,} rows of {name} dropped: no item_id"]


def check_unique(engine: Engine, table: str, column: str, name: str) -> None:
    """Raises RectoolError naming the row if an id is missing or stands twice."""
    missing = engine.rows(f"SELECT min(rowid) FROM {table} WHERE {column} IS NULL HAVING count(*) > 0")
    if missing:
        raise RectoolError(f"{name}, row {missing[0][0] + 1}: it has no {column}")
    twice = engine.rows(
        f"SELECT {_short(column)}, min(rowid), max(rowid) FROM {table} GROUP BY {column} HAVING count(*) > 1 "
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


def _short(column: str) -> str:
    """SQL for the beginning of an id, for messages."""
    return f"left(CAST({column} AS VARCHAR), 60)"


def _is_empty(engine: Engine) -> bool:
    return int(engine.value("SELECT count(*) FROM log")) == 0


def _leave_out(engine: Engine, fault: str) -> None:
    """Take rows out of `log`; a condition that is null is no fault."""
    number = engine.value("SELECT count(*) FROM information_schema.tables WHERE table_name LIKE 'log%'")
    engine.run(
        f"ALTER VIEW log RENAME TO log_{number}; "
        f"CREATE VIEW log AS SELECT * FROM log_{number} WHERE NOT coalesce({fault}, false)"
    )


def _check_times(engine: Engine, name: str, unit: str | None) -> None:
    """Refuse times that no calendar has, and those that make sense in another unit only."""
    low, high = engine.row("SELECT min(timestamp), max(timestamp) FROM log")
    impossible = low < EARLIEST or high > LATEST
    if not impossible and high >= SECONDS_UNTIL_1980 and low <= SECONDS_UNTIL_2100:
        return
    value = high if high > LATEST or not impossible else low
    other = next((other for other in UNITS if _fits(value, unit, other)), None)
    if other is None and not impossible:
        return
    row = engine.value(f"SELECT min(row) FROM log WHERE timestamp = {value}") + 1
    if other is None:
        raise RectoolError(f"{name}, row {row}: timestamp {value} is not a time in seconds since 1970")
    hint = f"; pass --timestamp-unit {other}" if unit is not None else ""
    if unit in (None, "s"):
        raise RectoolError(f"{name}, row {row}: timestamp {value} is in {other}, not in seconds{hint}")
    raise RectoolError(f"{name}, row {row}: the timestamp is in {other}, not in {unit}{hint}")


def _fits(value: int, unit: str | None, other: str) -> bool:
    """Whether a time read in one unit would be likely in another."""
    if unit == "iso" or other == (unit or "s"):
        return False
    return SECONDS_UNTIL_1980 <= value * UNITS[unit or "s"] // UNITS[other] < SECONDS_UNTIL_2100
