"""A log made of a few tuples, prepared without the command line, and read back."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rectool.artifacts import Draft
from rectool.data.engine import Engine
from rectool.data.prepare import Loaded, prepare
from rectool.data.settings import Filters, Preparation, Resources

Event = tuple[str, str, int]
"""(user, item, timestamp); its place in the list is its row, and its rating, by which it is found again."""


@dataclass(frozen=True)
class Prepared:
    """The files of a data set."""

    path: Path
    metrics: dict[str, Any]
    digests: dict[str, str]

    @cached_property
    def interactions(self) -> list[dict[str, Any]]:
        return pq.read_table(self.path / "interactions.parquet").to_pylist()

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        return pq.read_table(self.path / "items.parquet").to_pylist()

    @cached_property
    def users(self) -> list[dict[str, Any]]:
        return pq.read_table(self.path / "users.parquet").to_pylist()

    @property
    def order(self) -> list[int]:
        """The raw row of each row."""
        return [int(row["rating"]) for row in self.interactions]

    @property
    def splits(self) -> dict[int, str]:
        """The split of each raw row that stayed."""
        return {int(row["rating"]): row["split"] for row in self.interactions}

    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.path.glob("*.parquet"))}


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare a log of events, or a whole table of them."""
    numbers = itertools.count()

    def run(
        events: Sequence[Event] | pa.Table,
        split: str = "ratio:8,1,1",
        filters: Filters | None = None,
        resources: Resources | None = None,
        catalogue: pa.Table | None = None,
        people: pa.Table | None = None,
        **preparation: Any,
    ) -> Prepared:
        folder = tmp_path / f"prepared-{next(numbers)}"
        draft = Draft(folder / "data", folder / "scratch")
        draft.path.mkdir(parents=True)
        draft.scratch.mkdir()
        table = events if isinstance(events, pa.Table) else as_table(events)
        if catalogue is None:
            ids = table.column("item_id").unique().cast(pa.string()).drop_null()
            catalogue = pa.table({"item_id": ids, "title": ids})

        def load(engine: Engine) -> Loaded:
            engine.register("raw", table)
            engine.register("catalogue", catalogue)
            if people is not None:
                engine.register("people", people)
            return Loaded("log", "catalogue", None if people is None else "people")

        chosen = Preparation(split=split, **preparation)
        prepare(draft, load, chosen, filters or Filters(), resources or Resources(threads=2))
        return Prepared(draft.path, draft.metrics, draft.digests)

    return run


def as_table(events: Sequence[Event]) -> pa.Table:
    users, items, times = zip(*events, strict=True) if events else ((), (), ())
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "timestamp": pa.array(times, pa.int64()),
            "rating": pa.array(range(len(events)), pa.float32()),
        }
    )


@pytest.fixture
def random_events() -> Callable[..., list[Event]]:
    """Events in no order, of users from one row to many, with many ties in time."""

    def make(
        seed: int, rows: int = 150, users: int = 12, items: int = 10, since: int = 978_307_200, days: int = 200
    ) -> list[Event]:
        chance = random.Random(seed)
        moments = [since + chance.randrange(days) * 86_400 + chance.choice((0, 0, 1, 86_399)) for _ in range(rows // 3)]
        weights = [1 / (1 + user) for user in range(users)]
        return [
            (f"u{chance.choices(range(users), weights)[0]}", f"i{chance.randrange(items)}", chance.choice(moments))
            for _ in range(rows)
        ]

    return make
