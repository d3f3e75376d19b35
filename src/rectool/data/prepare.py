"""From a raw log to a data set: check, filter, number, label, split, write, count.

Each step is one SQL statement over the tables that `log.py` describes, so that a log of any size
takes the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rectool import console
from rectool.artifacts import Draft, digests, schemas
from rectool.artifacts.schemas import SPLITS
from rectool.data import filters, log, splits, statistics
from rectool.data.engine import Engine, identifier
from rectool.data.settings import Filters, Preparation, Resources, Split
from rectool.data.splits import Assignment


@dataclass(frozen=True)
class Loaded:
    """What a source has put into the engine.

    Attributes:
        log_name, catalogue_name, people_name: of the files, for messages.
        time_unit: what --timestamp-unit said, for a source that has that flag.
    """

    log_name: str
    catalogue_name: str
    people_name: str | None = None
    time_unit: str | None = None


def prepare(
    draft: Draft,
    load: Callable[[Engine], Loaded],
    preparation: Preparation,
    chosen: Filters,
    resources: Resources,
) -> None:
    """Write a data set into a draft, with its digests and statistics.

    Args:
        load: fills the engine's tables (see `log.py`).

    Raises:
        RectoolError: bad input; names file and row.
    """
    split = Split.parse(preparation.split)
    with Engine(draft.scratch, resources) as engine:
        with console.step("reading", fraction=engine.progress) as step:
            loaded = load(engine)
            notes = log.check(engine, loaded.log_name, preparation.invalid_rows, loaded.time_unit)
            if preparation.invalid_rows == "drop":
                notes += log.leave_out_nameless(engine, loaded.catalogue_name)
            notes += log.check_catalogue(engine, loaded.log_name, loaded.catalogue_name, preparation.untitled)
            if loaded.people_name is not None:
                notes += log.notes_on_people(engine, loaded.people_name)
            step.amount = int(engine.value("SELECT count(*) FROM log"))
        with console.step("filtering and splitting", fraction=engine.progress):
            months = splits.months(engine, split, chosen.range()[0]) if split.rule == "months" else ()
            filtered = filters.apply(engine, filters.ending(chosen, months[-1]) if months else chosen)
            if split.rule == "given":
                splits.check_given(engine, loaded.log_name)
            for name in ("user", "item"):
                engine.run(f"CREATE TABLE {name}_numbers AS {filters.numbering(name)}")
            assignment = splits.assign(engine, split, months)
        with console.step("sorting and writing", fraction=engine.progress) as step:
            step.amount = _write(engine, draft, assignment, preparation)
        with console.step("counting", fraction=engine.progress):
            draft.metrics.update(statistics.describe(engine, draft.path))
        notes += [f"no row is in the split {name}" for name in SPLITS[:3] if name not in draft.metrics["splits"]]
        draft.metrics["filters"] = [{"filter": what, "rows": rows} for what, rows in filtered]
        draft.metrics["notes"] = notes
    for note in notes:
        console.say(f"note: {note}")


def _write(engine: Engine, draft: Draft, assignment: Assignment, preparation: Preparation) -> int:
    """Write the three files; returns the number of interactions."""
    schema, extra = schemas.INTERACTIONS, ""
    for field in schemas.TRUTH:
        if field.name in engine.columns("raw"):
            schema, extra = schema.append(field), f"{extra}, kept.{field.name}"
    label = (
        "CASE WHEN kept.label IS NOT NULL THEN kept.label WHEN kept.rating IS NULL THEN NULL "
        f"WHEN kept.rating >= CAST({preparation.like_at_least!r} AS FLOAT) THEN 1 ELSE 0 END"
    )
    interactions = digests.InteractionsDigest()
    rows = engine.write_parquet(
        f"SELECT user, item, kept.timestamp, kept.rating, CAST({label} AS TINYINT) AS label, "
        f"{assignment.split} AS split{extra} FROM {assignment.rows} AS kept "
        "JOIN user_numbers USING (user_id) JOIN item_numbers USING (item_id) "
        "ORDER BY user, kept.timestamp, kept.row",
        draft.path / "interactions.parquet",
        schema,
        interactions.update,
    )
    draft.digests.update(interactions.digests())
    draft.digests["items"] = _write_entities(engine, draft, "item", "catalogue", schemas.ITEMS)
    draft.digests["users"] = _write_entities(engine, draft, "user", "people", schemas.USERS)
    return rows


def _write_entities(engine: Engine, draft: Draft, name: str, table: str, base: pa.Schema) -> str:
    """Write items.parquet or users.parquet, a row for each number; returns its content digest."""
    columns = engine.columns(table)
    chosen = [f"CAST(n.{name}_id AS VARCHAR) AS {name}_id"]
    if name == "item":
        chosen.append("coalesce(nullif(trim(t.title), ''), CAST(n.item_id AS VARCHAR)) AS title")
        chosen.append("nullif(trim(t.text), '') AS text" if "text" in columns else "CAST(NULL AS VARCHAR) AS text")
    extras = [column for column in columns if column not in base.names]
    chosen += [f"t.{identifier(column)}" for column in extras]
    source = f"{name}_numbers AS n"
    if columns:
        source += f" LEFT JOIN {table} AS t ON CAST(n.{name}_id AS VARCHAR) = t.{name}_id"
    schema = base
    for column in extras:
        schema = schema.append(pa.field(column, _arrow_type(columns[column])))
    digest = digests.TableDigest()
    engine.write_parquet(
        f"SELECT {', '.join(chosen)} FROM {source} ORDER BY n.{name}",
        draft.path / f"{name}s.parquet",
        schema,
        digest.update,
    )
    return digest.digest()


def _arrow_type(sql_type: str) -> Any:
    known = {
        "VARCHAR": pa.string(),
        "VARCHAR[]": pa.list_(pa.string()),
        "SMALLINT": pa.int16(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
    }
    return known[sql_type]
