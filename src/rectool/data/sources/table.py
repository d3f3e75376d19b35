"""Any table of interactions: delimited text, JSON lines or Parquet, with columns named by flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rectool.artifacts import Input
from rectool.data.engine import Engine, identifier
from rectool.data.prepare import Loaded
from rectool.data.sources.settings import Table
from rectool.data.sources.tabular import INTEGER, NUMBER, TEXT, Tabular, explained

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
STANDARD = {
    "rating_column": "rating",
    "label_column": "label",
    "split_column": "split",
}


@dataclass(frozen=True)
class Source:
    """A table of interactions, with its items and users."""

    settings: Table

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
        return Loaded(interactions.name, (items or interactions).name, users.name if users is not None else None)

    def _log(self) -> Tabular:
        names = self.settings.columns.split(",") if self.settings.columns is not None else None
        return self._tabular(self.settings.interactions, names)

    def _tabular(self, path: Path, names: list[str] | None = None) -> Tabular:
        return Tabular(path, self.settings.delimiter, names, self.settings.encoding)

    def _types(self) -> dict[str, tuple[str, str]]:
        """(column, SQL type) by our own name, for what the interactions have."""
        table = self._log()
        time_type = TEXT if self.settings.timestamp_unit == "iso" else INTEGER
        wanted = {
            "user_id": (self.settings.user_column, TEXT, "--user-column"),
            "item_id": (self.settings.item_column, TEXT, "--item-column"),
            "timestamp": (self.settings.timestamp_column, time_type, "--timestamp-column"),
        }
        present = table.columns()
        for setting_name, standard in STANDARD.items():
            named = getattr(self.settings, setting_name)
            kind = {"split": TEXT}.get(standard, NUMBER)
            if named is not None or standard in present:
                wanted[standard] = (named or standard, kind, "--" + setting_name.replace("_", "-"))
        for column, _, flag in wanted.values():
            table.require(column, flag)
        return {name: (column, kind) for name, (column, kind, _) in wanted.items()}

    def _load_log(self, engine: Engine) -> None:
        types = self._types()
        table = self._log()
        query = table.select(engine, dict(types.values()))
        with explained(self.settings.interactions):
            engine.run(f"CREATE VIEW interactions AS {query}")
            found = engine.columns("interactions")
            chosen = []
            for name, (column, kind) in types.items():
                value = identifier(column)
                if name == "timestamp":
                    value = self._seconds(value, found[column])
                elif kind != TEXT or not found[column].endswith("INT"):  # whole numbers stay: they join faster
                    value = f"CAST({value} AS {kind})"
                chosen.append(f"{value} AS {name}")
            engine.run(f"CREATE TABLE raw AS SELECT {', '.join(chosen)} FROM interactions")

    def _seconds(self, value: str, found: str) -> str:
        """SQL for whole seconds since 1970 of a column of the type that was found."""
        if found.startswith(("TIMESTAMP", "DATE")):
            return f"CAST(floor(epoch(CAST({value} AS TIMESTAMP))) AS BIGINT)"
        if self.settings.timestamp_unit == "iso":
            return f"CAST(floor(epoch(CAST({value} AS TIMESTAMP))) AS BIGINT)"
        factor = UNITS[self.settings.timestamp_unit]
        whole = f"CAST({value} AS BIGINT)"
        return whole if factor == 1 else f"CAST(floor({whole} / {factor}.0) AS BIGINT)"

    def _catalogue_columns(self, path: Path) -> dict[str, str]:
        """The items' column by our name for it; columns that we do not know keep their name."""
        table = self._tabular(path)
        table.require(self.settings.item_id_column, "--item-id-column")
        table.require(self.settings.title_column, "--title-column")
        if self.settings.text_column is not None:
            table.require(self.settings.text_column, "--text-column")
        ours = {self.settings.text_column or "text": "text", self.settings.title_column: "title"}
        return _named(table.columns(), {"item_id": self.settings.item_id_column}, ours)

    def _people_columns(self, path: Path) -> dict[str, str]:
        table = self._tabular(path)
        table.require(self.settings.user_id_column, "--user-id-column")
        return _named(table.columns(), {"user_id": self.settings.user_id_column}, {})

    def _load_entities(self, engine: Engine, name: str, path: Path, columns: dict[str, str]) -> None:
        table = self._tabular(path)
        query = table.select(engine, dict.fromkeys(columns.values(), TEXT))
        chosen = ", ".join(
            f"CAST({identifier(column)} AS VARCHAR) AS {identifier(ours)}" for ours, column in columns.items()
        )
        with explained(table.path):
            engine.run(f"CREATE TABLE {name} AS SELECT {chosen} FROM ({query})")


def _named(columns: list[str], ids: dict[str, str], ours: dict[str, str]) -> dict[str, str]:
    """The file's column by the name we give it; the id may be the title, too."""
    named = dict(ids)
    for column in columns:
        name = ours.get(column, column)
        if name not in named and (column not in ids.values() or column in ours):
            named[name] = column
    return named
