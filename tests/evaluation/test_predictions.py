"""Predictions in memory, as a table and read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rectool.artifacts.schemas import PREDICTIONS
from rectool.errors import RectoolError
from rectool.evaluation.predictions import FILE, Predictions

SOME = Predictions(
    row=np.array([3, 5, 8]),
    user=np.array([0, 0, 2], np.int32),
    item=np.array([4, 1, 1], np.int32),
    label=np.array([1, 0, -1], np.int8),
    score=np.array([2.5, -1.0, 0.0], np.float32),
)
PROBABILITY = np.array([0.9, 0.25, 0.5], np.float32)
GROUP = np.array(["warm", "cold-user", "cold-both"])


def read(folder: Path, table: pa.Table) -> Predictions:
    pq.write_table(table, folder / FILE)
    artifact: Any = SimpleNamespace(file=lambda name: folder / name)
    return Predictions.read(artifact)


@pytest.mark.parametrize("probability", [None, PROBABILITY])
@pytest.mark.parametrize("group", [None, GROUP])
@pytest.mark.parametrize("rank", [None, np.array([1, 7, 2])])
def test_what_is_written_is_read(tmp_path: Path, probability: Any, group: Any, rank: Any) -> None:
    predictions = replace(SOME, probability=probability, group=group, rank=rank)
    predictions.write(tmp_path / FILE)

    artifact: Any = SimpleNamespace(file=lambda name: tmp_path / name)
    found = Predictions.read(artifact)

    for name in ("row", "user", "item", "label", "score", "probability", "group", "rank"):
        before, after = getattr(predictions, name), getattr(found, name)
        assert (before is None) == (after is None), name
        if before is not None:
            assert before.tolist() == after.tolist(), name
            assert before.dtype == after.dtype, name


def test_the_file_is_as_the_contract_says(tmp_path: Path) -> None:
    replace(SOME, group=GROUP, rank=np.array([1, 7, 2])).write(tmp_path / FILE)
    table = pq.read_table(tmp_path / FILE)
    assert table.schema.names == [*PREDICTIONS.names, "group", "rank"]
    assert [table.schema.field(name).type for name in PREDICTIONS.names] == PREDICTIONS.types
    assert table.column("label").to_pylist() == [1, 0, None]
    assert table.column("probability").to_pylist() == [None, None, None]
    assert table.column("group").to_pylist() == GROUP.tolist()


def test_a_file_that_polars_wrote(tmp_path: Path) -> None:
    before = replace(SOME, group=GROUP)
    pl.from_arrow(before.table()).write_parquet(tmp_path / "other.parquet")  # type: ignore[union-attr]
    found = read(tmp_path, pq.read_table(tmp_path / "other.parquet"))
    assert found.group is not None
    assert found.group.tolist() == GROUP.tolist()
    assert found.label.tolist() == [1, 0, -1]


def test_groups_of_a_report() -> None:
    predictions = replace(SOME, group=GROUP)
    assert predictions.members("all").all()
    assert predictions.members("warm").tolist() == [True, False, False]
    assert predictions.members("cold").tolist() == [False, True, True]
    assert predictions.members("cold-item").tolist() == [False, False, False]
    assert (SOME.members("all").all(), SOME.members("warm").any(), SOME.members("cold").any()) == (True, False, False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user": np.array([0, 0], np.int32)}, r"user must be int32 \(3,\), not int32 \(2,\)"),
        ({"score": np.zeros(3)}, r"score must be float32 \(3,\), not float64"),
        ({"rank": np.ones((3, 1), int)}, "rank must be int64"),
        ({"group": np.zeros(3, int)}, "group must be strings"),
        ({"row": np.array([3, 3, 4])}, "rows must be rising"),
    ],
)
def test_mistakes_of_the_program(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SOME, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": np.array([0, np.nan, 0], np.float32)}, "the score of row 5 is nan, not a number"),
        ({"probability": np.array([0, 1, 1.5], np.float32)}, "the probability of row 8 is 1.5, not from 0 to 1"),
        ({"probability": np.array([0, np.nan, 1], np.float32)}, "the probability of row 5 is nan"),
        ({"rank": np.array([0, 1, 1])}, "the rank of row 3 is 0, not 1 or more"),
        ({"label": np.array([0, 1, 2], np.int8)}, "the label of row 8 is 2, not 0 or 1"),
    ],
)
def test_values_that_are_refused_with_their_row(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RectoolError, match=message):
        replace(SOME, **changed)
    table = replace(SOME, probability=PROBABILITY, rank=np.array([1, 1, 1])).table()
    for name, column in changed.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(column))
    with pytest.raises(RectoolError, match=f"{FILE}: {message}.*rectool eval"):
        read(tmp_path, table)


def test_infinite_scores_may_be_measured_but_not_written() -> None:
    infinite = replace(SOME, score=np.array([0, -np.inf, 0], np.float32))
    with pytest.raises(RectoolError, match="the score of row 5 is -inf, not finite"):
        infinite.table()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("row", pa.array([3, 5, 5]), "row 2 of the file does not follow in order"),
        ("user", pa.array([1, None, 2], pa.int32()), "row 1 of the file .* has no user"),
        ("probability", pa.array([0.5, None, 0.5], pa.float32()), "row 1 of the file .* has no probability"),
        ("group", pa.array(["warm", "hot", "warm"]), "'hot' is no group; the groups are warm, cold-user"),
        ("group", pa.array(["warm", "warm", None]), "row 2 of the file .* has no group"),
    ],
)
def test_damaged_files(tmp_path: Path, column: str, values: pa.Array, message: str) -> None:
    table = replace(SOME, probability=PROBABILITY, group=GROUP).table()
    table = table.set_column(table.schema.get_field_index(column), column, values)
    with pytest.raises(RectoolError, match=f"{FILE}: {message}"):
        read(tmp_path, table)


def test_no_rows(tmp_path: Path) -> None:
    found = read(tmp_path, SOME.table().slice(0, 0))
    assert len(found.row) == 0
