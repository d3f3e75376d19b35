"""A dataset artifact in memory: columns as arrays, and the views that tasks take of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rectool.artifacts import Artifact, checking
from rectool.artifacts.schemas import SPLITS
from rectool.data.histories import Histories


@dataclass(frozen=True)
class Dataset:
    """The columns of a dataset, read when they are first asked for.

    R rows in the log's order (user, timestamp, original row), U users, I items.
    """

    artifact: Artifact

    @cached_property
    def user(self) -> NDArray[np.int32]:
        """(R,) row of users.parquet."""
        return self._column("user")

    @cached_property
    def item(self) -> NDArray[np.int32]:
        """(R,) row of items.parquet."""
        return self._column("item")

    @cached_property
    def timestamp(self) -> NDArray[np.int64]:
        """(R,) seconds since 1970, UTC."""
        return self._column("timestamp")

    @cached_property
    def label(self) -> NDArray[np.int8]:
        """(R,) 1 liked, 0 not, -1 where there is no label (implicit events, context)."""
        column: NDArray[np.int8] = np.asarray(self._read("label").fill_null(-1))
        return column

    @cached_property
    def split(self) -> NDArray[np.int8]:
        """(R,) position in `SPLITS`."""
        names = self._read("split").cast(pa.string())
        codes: NDArray[np.int8] = np.asarray(pc.index_in(names, value_set=pa.array(SPLITS)), np.int8)
        return codes

    @property
    def digest(self) -> str | None:
        """What stands for the log; None for a log that is on no disk."""
        return self.artifact.manifest.digests["interactions"]

    @property
    def happened(self) -> NDArray[np.bool_] | None:
        """(R,) rows that can be part of a history; None if all can."""
        return None

    def row_name(self, row: int) -> str:
        """What a row is called in messages."""
        return f"row {row} of {self.artifact.file('interactions.parquet')}"

    @property
    def users(self) -> int:
        return self.artifact.manifest.counts["users"]

    @property
    def items(self) -> int:
        return self.artifact.manifest.counts["items"]

    def targets(self, split: str) -> NDArray[np.int64]:
        """The rows of a split."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    @property
    def last_train_rows(self) -> NDArray[np.int64]:
        """(U,) each user's last train row, -1 where there is none."""
        last = np.full(self.users, -1, np.int64)
        train = self.targets("train")
        last[self.user[train]] = train  # rows rise, and of several assignments the last one stays
        return last

    @property
    def known_rows(self) -> NDArray[np.int64]:
        """The rows that training knows, ascending: train rows, and the context before a user's last one."""
        rows = np.flatnonzero(np.isin(self.split, [SPLITS.index("train"), SPLITS.index("context")]))
        return rows[rows <= self.last_train_rows[self.user[rows]]]

    def histories(self, *, liked_only: bool) -> Histories:
        """The view of each row's earlier items of the same user: those that were liked, or all."""
        return Histories(self.user, self.item, self.label == 1 if liked_only else self.happened)

    def titles(self) -> pa.Array:
        """(I,) title of each item."""
        return self._of_items("title")

    def texts(self) -> pa.Array:
        """(I,) description of each item, or null."""
        return self._of_items("text")

    def item_ids(self) -> pa.Array:
        """(I,) raw id of each item."""
        return self._of_items("item_id")

    def user_ids(self) -> pa.Array:
        """(U,) raw id of each user."""
        return self._whole("users.parquet", "user_id")

    def _of_items(self, name: str) -> pa.Array:
        return self._whole("items.parquet", name)

    def _column(self, name: str) -> NDArray[Any]:
        return np.asarray(self._read(name))

    def _read(self, name: str) -> pa.ChunkedArray:
        return self._table("interactions.parquet", name)

    def _whole(self, file: str, column: str) -> pa.Array:
        with checking.explained(self.artifact.file(file)):
            return self._table(file, column).combine_chunks()

    def _table(self, file: str, column: str) -> pa.ChunkedArray:
        path = self.artifact.file(file)
        with checking.explained(path):
            return pq.read_table(path, columns=[column]).column(0)
