"""Predictions of a result: one row per target row, in memory and as predictions.parquet.

Shapes: R target rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rectool.artifacts import Artifact
from rectool.artifacts.checking import explained
from rectool.artifacts.schemas import GROUP, PREDICTIONS, RANK, UNKNOWN
from rectool.errors import RectoolError
from rectool.evaluation.groups import GROUPS, members
from rectool.evaluation.targets import Targets

FILE = "predictions.parquet"
SIDE = (GROUP, RANK, *UNKNOWN)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of target rows, and what is true of them.

    Attributes:
        row: (R,) int64, row of interactions.parquet, rising.
        user, item: (R,) int32.
        label: (R,) int8, 1 liked, 0 not, -1 where there is no label.
        score: (R,) float32, what ranks; infinite ones are allowed here, but not on disk.
        probability: (R,) float32 of label 1, or None where the model gives none.
        group: (R,) names of `GROUPS`, or None.
        rank: (R,) int64 from 1 on, of next-item targets, or None.
        unknown_user, unknown_item: (R,) bool, rows scored with the vector of unknown users, or of unknown items, in
            place of one of their own; None of models without soft tokens. They are not read back.

    Raises:
        ValueError: wrong shapes or dtypes, rows that do not rise: a mistake of the program.
        RectoolError: a score is NaN, a probability not from 0 to 1 or the like; names the row.
    """

    row: NDArray[np.int64]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    label: NDArray[np.int8]
    score: NDArray[np.float32]
    probability: NDArray[np.float32] | None = None
    group: NDArray[np.str_] | None = None
    rank: NDArray[np.int64] | None = None
    unknown_user: NDArray[np.bool_] | None = None
    unknown_item: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        for field in (*PREDICTIONS, RANK):
            column = getattr(self, field.name)
            wanted = np.dtype(field.type.to_pandas_dtype())
            if column is not None and (column.dtype != wanted or column.shape != (len(self.row),)):
                raise ValueError(f"{field.name} must be {wanted} ({len(self.row)},), not {column.dtype} {column.shape}")
        if self.group is not None and (self.group.dtype.kind != "U" or self.group.shape != self.row.shape):
            raise ValueError(f"group must be strings ({len(self.row)},), not {self.group.dtype} {self.group.shape}")
        if np.any(self.row[1:] <= self.row[:-1]):
            raise ValueError("rows must be rising")
        self._refuse((self.label < -1) | (self.label > 1), "label", self.label, "0 or 1")
        self._refuse(np.isnan(self.score), "score", self.score, "a number")
        if self.probability is not None:
            inside = (self.probability >= 0) & (self.probability <= 1)
            self._refuse(~inside, "probability", self.probability, "from 0 to 1")
        if self.rank is not None:
            self._refuse(self.rank < 1, "rank", self.rank, "1 or more")

    @classmethod
    def read(cls, artifact: Artifact) -> Predictions:
        """The predictions of a result artifact.

        Raises:
            RectoolError: names the file and the row: a null where there must be a value, a value that
                is none of the kind, rows that do not rise.
        """
        path = artifact.file(FILE)
        with explained(path):
            table = pq.read_table(path)
        try:
            return cls._of(table)
        except RectoolError as problem:
            raise RectoolError(f"{path}: {problem}; make it again with: rectool eval") from problem

    @classmethod
    def _of(cls, table: pa.Table) -> Predictions:
        columns: dict[str, Any] = {}
        for field in (*PREDICTIONS, RANK, GROUP):
            if field.name not in table.column_names:
                continue
            column = table.column(field.name).cast(field.type)
            if field.name == "label":
                column = column.fill_null(-1)
            if column.null_count == len(column) and field.name in ("probability", "rank", "group"):
                continue
            if column.null_count:
                place = int(pc.index(column.is_null(), True).as_py())
                raise RectoolError(f"row {place} of the file (the first is row 0) has no {field.name}")
            columns[field.name] = (
                np.asarray(column) if field is not GROUP else np.asarray(column.to_numpy(), dtype=np.str_)
            )
        columns.setdefault("probability", None)
        row = columns["row"]
        if np.any(row[1:] <= row[:-1]):
            raise RectoolError(f"row {int(np.argmax(row[1:] <= row[:-1])) + 1} of the file does not follow in order")
        predictions = cls(**columns)
        predictions.refuse_infinite()
        for name in () if predictions.group is None else np.unique(predictions.group).tolist():
            if name not in GROUPS:
                raise RectoolError(f"{name!r} is no group; the groups are {', '.join(GROUPS)}")
        return predictions

    def table(self) -> pa.Table:
        """As predictions.parquet has them, with those columns of `SIDE` that there are.

        Raises:
            RectoolError: a score is infinite; names the row.
        """
        self.refuse_infinite()
        schema = PREDICTIONS
        columns = [pa.array(getattr(self, name)) for name in ("row", "user", "item")]
        columns += [pa.array(self.label, mask=self.label < 0), pa.array(self.score)]
        columns += [pa.nulls(len(self.row), pa.float32()) if self.probability is None else pa.array(self.probability)]
        for field in SIDE:
            column = getattr(self, field.name)
            if column is not None:
                schema = schema.append(field)
                columns.append(pa.array(column, field.type))
        return pa.table(columns, schema=schema)

    def write(self, path: Path) -> None:
        """Write a Parquet file. Raises RectoolError as `table` does."""
        pq.write_table(self.table(), path, compression="zstd")

    def members(self, group: str) -> NDArray[np.bool_]:
        """(R,) the rows of one of the groups of a report, see `groups.members`; all without groups are in `all`."""
        if self.group is None:
            return np.full(len(self.row), group == "all")
        return members(self.group, group)

    def targets(self, rows: NDArray[Any] | None = None, *, threshold: float | None = None) -> Targets:
        """What metrics are taken of.

        Args:
            rows: (R,) bool, or positions; None for all.
            threshold: the least probability that is taken for a 1.
        """
        targets = Targets(
            row=self.row,
            user=self.user,
            label=self.label,
            score=self.score,
            probability=self.probability,
            threshold=None if self.probability is None else threshold,
            rank=self.rank,
        )
        return targets if rows is None else targets.part(rows)

    def refuse_infinite(self) -> None:
        """Raises RectoolError that names the first row whose score is infinite."""
        self._refuse(~np.isfinite(self.score), "score", self.score, "finite")

    def _refuse(self, wrong: NDArray[np.bool_], name: str, column: NDArray[Any], what: str) -> None:
        if wrong.any():
            place = int(np.argmax(wrong))
            raise RectoolError(f"the {name} of row {self.row[place]} is {column[place]}, not {what}")
