"""Any table of interactions: delimited text, JSON lines or Parquet, with columns named by flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from rectool.artifacts import Input
from rectool.data.engine import Engine, identifier
from rectool.data.log import UNITS
from rectool.data.prepare import Loaded
from rectool.data.sources.settings import Table
from rectool.data.sources.tabular import DOUBLE, INTEGER, NUMBER, TEXT, Tabular, distinct, explained, not_a_number
from rectool.errors import RectoolError

STANDARD = {
    "rating_column": "rating",
    "label_column": "label",
    "split_column": "split",
}


@dataclass(frozen=True)
class Source:
    """A table of interactions, with its items and users.

    Attributes:
        tolerant: read what is no number as missing, for the checks to drop.
    """

    settings: Table
    tolerant: bool = False

    def plan(self) -> list[str]:
        """What would be read. Raises RectoolError if a file or column is not there."""
        self._types()
        if self.settings.items is not None:
            self._catalogue_columns(self.settings.items)
        if self.settings.users is not None:
            self._people_columns(self.settings.users)
        return [str(item.path) for item in self.inputs()]

    def inputs(self) -> list[Input]:
        files = {"interactions": self.settings.interactions, "items": self.settings.items, "users": self.settings.users}
        return [Input(role, path) for role, path in files.items() if path is not None]

    def has_split(self) -> bool:
        """Whether the interactions bring a split of their own."""
        return "split" in self._types()

    def load(self, engine: Engine) -> Loaded:
        """Fill the engine's tables (see `rectool.data.log`)."""
        self._load_log(engine)
        interactions, items, users = self.settings.interactions, self.settings.items, self.settings.users
        if items is None:
            engine.run(
                "CREATE TABLE catalogue AS SELECT DISTINCT CAST(item_id AS VARCHAR) AS item_id, "
                "CAST(item_id AS VARCHAR) AS title FROM raw WHERE item_id IS NOT NULL"
            )
        else:
            self._load_entities(engine, "catalogue", items, self._catalogue_columns(items))
        if users is not None:
            self._load_entities(engine, "people", users, self._people_columns(users))
        people = users.name if users is not None else None
        return Loaded(interactions.name, (items or interactions).name, people, self.settings.timestamp_unit)

    def _log(self) -> Tabular:
        names = self.settings.columns.split(",") if self.settings.columns is not None else None
        return self._tabular(self.settings.interactions, names)

    def _tabular(self, path: Path, names: list[str] | None = None) -> Tabular:
        return Tabular(path, self.settings.delimiter, names, self.settings.encoding)

    def _types(self) -> dict[str, tuple[str, str]]:
        """(column, SQL type) by our own name, for what the interactions have."""
        table = self._log()
        time_type = TEXT if self.settings.timestamp_unit == "iso" else self._number_of_time()
        wanted = {
            "user_id": (self.settings.user_column, TEXT, "--user-column"),
            "item_id": (self.settings.item_column, TEXT, "--item-column"),
            "timestamp": (self.settings.timestamp_column, time_type, "--timestamp-column"),
        }
        present = table.columns()
        for setting_name, standard in STANDARD.items():
            named = getattr(self.settings, setting_name)
            kind = NUMBER if standard == "rating" else TEXT  # a label may be a word: True
            if named is not None or standard in present:
                wanted[standard] = (named or standard, kind, "--" + setting_name.replace("_", "-"))
        for column, _, flag in wanted.values():
            table.require(column, flag)
        return {name: (column, kind) for name, (column, kind, _) in wanted.items()}

    def _load_log(self, engine: Engine) -> None:
        types = self._types()
        with explained(self.settings.interactions):
            read = {name: (column, TEXT if self.tolerant else kind) for name, (column, kind) in types.items()}
            # A view's casts are done by the reader of the file, which does not attempt but fails.
            relation = "TABLE" if self.tolerant else "VIEW"
            engine.run(f"CREATE {relation} interactions AS {self._log().select(engine, read)}")
            found = engine.columns("interactions")
            values = {name: self._value(name, kind, found[name]) for name, (_, kind) in types.items()}
            if self.tolerant:
                values = {name: _attempt(value) for name, value in values.items()}
            chosen = ", ".join(f"{value} AS {name}" for name, value in values.items())
            try:
                engine.run(f"CREATE TABLE raw AS SELECT {chosen} FROM interactions")
            except duckdb.ConversionException:
                self._name_first_fault(engine, types, values)
                raise

    def _name_first_fault(self, engine: Engine, types: dict[str, tuple[str, str]], values: dict[str, str]) -> None:
        """Raises RectoolError for the first row with a value that is not what its column should hold."""
        engine.run("CREATE TABLE unconverted AS SELECT * FROM interactions")
        for name, value in values.items():
            for row, text in engine.rows(
                f"SELECT rowid, CAST({name} AS VARCHAR) FROM unconverted "
                f"WHERE {name} IS NOT NULL AND {_attempt(value)} IS NULL ORDER BY rowid LIMIT 1"
            ):
                is_time = name == "timestamp" and self.settings.timestamp_unit == "iso"
                wrong = "which is not a time such as 2001-06-30 12:00:00" if is_time else not_a_number(text)
                where = f"{self.settings.interactions.name}, row {row + 1}"
                held = text.removesuffix(".0")  # which a double adds
                raise RectoolError(f"{where}: column {types[name][0]} holds {held[:80]!r}, {wrong}")

    def _value(self, name: str, kind: str, found: str) -> str:
        """SQL for a column, by our name for it, of the type that was found."""
        if name == "timestamp":
            return self._seconds(name, found)
        if name == "label":
            number = f"CAST({name} AS {NUMBER})"
            if found != TEXT:
                return number
            return f"CASE lower(trim({name})) WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE {number} END"
        if kind == TEXT and found.endswith(("INT", "INTEGER")):
            return name  # whole numbers stay: they join faster
        return f"CAST({name} AS {kind})"

    def _number_of_time(self) -> str:
        """As what a time is read: with its fraction, except nanoseconds, of which a double has too few."""
        return INTEGER if self.settings.timestamp_unit == "ns" else DOUBLE

    def _seconds(self, value: str, found: str) -> str:
        """SQL for whole seconds since 1970; a time that names no zone is UTC, as the engine's zone is."""
        if found.startswith(("TIMESTAMP", "DATE")) or self.settings.timestamp_unit == "iso":
            return f"CAST(floor(epoch(CAST({value} AS TIMESTAMPTZ))) AS BIGINT)"
        factor = UNITS[self.settings.timestamp_unit]
        if found == TEXT:
            value = f"CAST({value} AS {self._number_of_time()})"
        fractional = found.startswith(("DECIMAL", DOUBLE, "FLOAT")) or (found == TEXT and factor < UNITS["ns"])
        whole = f"CAST({f'floor({value})' if fractional else value} AS BIGINT)"
        if factor == 1:
            return whole
        return f"{whole} // {factor} - CASE WHEN {whole} % {factor} < 0 THEN 1 ELSE 0 END"  # rounded down, exactly

    def _catalogue_columns(self, path: Path) -> dict[str, str]:
        """The items' column by our name for it; columns that we do not know keep their name."""
        table = self._tabular(path)
        table.require(self.settings.item_id_column, "--item-id-column")
        table.require(self.settings.title_column, "--title-column")
        ours = {"item_id": self.settings.item_id_column, "title": self.settings.title_column}
        if self.settings.text_column is not None or "text" in table.columns():
            ours["text"] = self.settings.text_column or "text"
            table.require(ours["text"], "--text-column")
        return _named(table.columns(), ours)

    def _people_columns(self, path: Path) -> dict[str, str]:
        table = self._tabular(path)
        table.require(self.settings.user_id_column, "--user-id-column")
        return _named(table.columns(), {"user_id": self.settings.user_id_column})

    def _load_entities(self, engine: Engine, name: str, path: Path, columns: dict[str, str]) -> None:
        table = self._tabular(path)
        query = table.select(engine, {ours: (column, TEXT) for ours, column in columns.items()})
        chosen = ", ".join(f"CAST({identifier(ours)} AS VARCHAR) AS {identifier(ours)}" for ours in columns)
        with explained(table.path):
            engine.run(f"CREATE TABLE {name} AS SELECT {chosen} FROM ({query})")


def _attempt(value: str) -> str:
    """The same SQL, null where it would fail."""
    return value.replace("CAST(", "TRY_CAST(")


def _named(columns: list[str], ours: dict[str, str]) -> dict[str, str]:
    """The file's column by our name for it: those we know, then the others, by their own names made distinct."""
    others = [column for column in dict.fromkeys(columns) if column not in ours.values()]
    names = distinct([*ours, *others])
    return dict(zip(names, [*ours.values(), *others], strict=True))
