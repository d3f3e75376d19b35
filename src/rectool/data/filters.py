"""Which rows of a log stay: the filters, in the order in which they act."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from rectool.data.engine import Engine
from rectool.data.log import LATEST
from rectool.data.settings import Filters
from rectool.errors import RectoolError


def ending(filters: Filters, end: int) -> Filters:
    """The same filters, without rows from the day on that begins at `end` (seconds)."""
    until = filters.range()[1]
    if end > LATEST or (until is not None and until <= end):
        return filters
    return replace(filters, until=datetime.fromtimestamp(end, UTC).date().isoformat())


def apply(engine: Engine, filters: Filters) -> list[tuple[str, int]]:
    """Make the table `kept` from `log`: its rows that pass, with `row` for their original order.

    Args:
        engine: holds `log` (user_id, item_id, timestamp, ... ).

    Returns:
        What acted, in order, with the rows left after it.

    Raises:
        RectoolError: nothing is left; names the filter.
    """
    steps = _Steps(engine)
    since, until = filters.range()
    if since is not None:
        steps.keep(f"from {filters.from_}", f"timestamp >= {since}")
    if until is not None:
        steps.keep(f"until {filters.until}", f"timestamp < {until}")
    if filters.duplicates != "all":
        order = "timestamp, row" if filters.duplicates == "first" else "timestamp DESC, row DESC"
        ranked = f"row_number() OVER (PARTITION BY user_id, item_id ORDER BY {order})"
        steps.select(
            f"duplicates {filters.duplicates}",
            f"SELECT * EXCLUDE (nth) FROM (SELECT *, {ranked} AS nth FROM kept) WHERE nth = 1",
        )
    if filters.max_user_id is not None or filters.max_item_id is not None:
        conditions = []
        for name, cap in (("user", filters.max_user_id), ("item", filters.max_item_id)):
            if cap is not None:
                conditions.append(f"{name}_id IN (SELECT {name}_id FROM ({numbering(name)}) WHERE {name} <= {cap})")
        steps.keep("id caps", " AND ".join(conditions))
    if filters.min_user_count > 1 or filters.min_item_count > 1:
        steps.keep("minimum counts", _counted(filters.min_user_count, filters.min_item_count))
    if filters.k_core > 1:
        steps.until_stable(f"{filters.k_core}-core", _counted(filters.k_core, filters.k_core))
    return steps.done


def numbering(name: str, table: str = "kept") -> str:
    """SQL that numbers users or items from 0 by first appearance in time, ties by raw id as text."""
    return (
        f"SELECT {name}_id, CAST(row_number() OVER (ORDER BY first_time, CAST({name}_id AS VARCHAR)) - 1 AS INTEGER) "
        f"AS {name} FROM (SELECT {name}_id, min(timestamp) AS first_time FROM {table} GROUP BY {name}_id)"
    )


class _Steps:
    """`kept` as it goes from filter to filter: a view of the log at first, then a table."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.done: list[tuple[str, int]] = []
        engine.run("CREATE VIEW kept AS SELECT * FROM log")
        self._is_view = True

    def keep(self, what: str, condition: str) -> None:
        self.select(what, f"SELECT * FROM kept WHERE {condition}")

    def select(self, what: str, query: str) -> None:
        self.engine.run(f"CREATE TABLE kept_next AS {query}")
        self.engine.run(f"DROP {'VIEW' if self._is_view else 'TABLE'} kept; ALTER TABLE kept_next RENAME TO kept")
        self._is_view = False
        left = int(self.engine.value("SELECT count(*) FROM kept"))
        if left == 0:
            raise RectoolError(f"no rows are left after the filter: {what}; loosen it")
        self.done.append((what, left))

    def until_stable(self, what: str, condition: str) -> None:
        before = -1
        while before != (left := int(self.engine.value("SELECT count(*) FROM kept"))):
            before = left
            self.keep(what, condition)
            self.done.pop()
        self.done.append((what, left))


def _counted(users: int, items: int) -> str:
    conditions = []
    for name, least in (("user", users), ("item", items)):
        if least > 1:
            conditions.append(
                f"{name}_id IN (SELECT {name}_id FROM kept GROUP BY {name}_id HAVING count(*) >= {least})"
            )
    return " AND ".join(conditions)
