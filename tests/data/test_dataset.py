"""A dataset in memory: its columns and the views of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset


@pytest.fixture
def data(tmp_path: Path, rectool: Callable[..., Any]) -> Dataset:
    rows = ["user_id,item_id,timestamp,label,split"]
    rows += ["u,a,1,1,train", "v,b,2,0,train", "u,b,3,0,valid", "u,c,4,1,test", "v,c,5,,context", "v,a,6,1,test"]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    done = rectool("prep", "table", tmp_path / "log.csv", "--out", tmp_path / "data")
    assert done.code == 0, done.stderr
    return Dataset(open_artifact(tmp_path / "data", "dataset"))


def test_columns(data: Dataset) -> None:
    assert data.user.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.item.tolist() == [0, 1, 2, 1, 2, 0]
    assert data.timestamp.tolist() == [1, 3, 4, 2, 5, 6]
    assert data.label.tolist() == [1, 0, 1, 0, -1, 1]
    assert data.split.tolist() == [0, 1, 2, 0, 3, 2]
    assert [array.dtype for array in (data.user, data.label, data.split)] == [np.int32, np.int8, np.int8]
    assert (data.users, data.items, data.titles().to_pylist()) == (2, 3, ["a", "b", "c"])


def test_targets_and_histories(data: Dataset) -> None:
    targets = data.targets("test")
    assert targets.tolist() == [2, 5]
    assert data.histories(liked_only=True).padded(targets, 2).tolist() == [[-1, 0], [-1, -1]]
    assert data.histories(liked_only=False).padded(targets, 2).tolist() == [[0, 1], [1, 2]]


def test_what_training_knows(data: Dataset, tmp_path: Path, rectool: Callable[..., Any]) -> None:
    assert data.last_train_rows.tolist() == [0, 3]
    assert data.known_rows.tolist() == [0, 3]

    rows = ["user_id,item_id,timestamp,label,split"]
    rows += ["u,a,1,,context", "u,b,2,1,train", "u,c,3,,context", "u,a,4,1,train", "u,b,5,,context", "u,c,6,1,test"]
    rows += ["v,a,1,,context", "v,b,7,1,test", "w,c,8,0,train"]
    (tmp_path / "other.csv").write_text("\n".join(rows) + "\n")
    done = rectool("prep", "table", tmp_path / "other.csv", "--out", tmp_path / "other")
    assert done.code == 0, done.stderr
    other = Dataset(open_artifact(tmp_path / "other", "dataset"))
    assert other.last_train_rows.tolist() == [3, -1, 8]
    assert other.known_rows.tolist() == [0, 1, 2, 3, 8]


def test_a_dataset_that_polars_wrote(data: Dataset, rectool: Callable[..., Any], tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for path in data.artifact.path.glob("*.parquet"):
        pl.read_parquet(path).write_parquet(foreign / path.name)
    assert rectool("adopt", foreign, "--kind", "dataset").code == 0
    other = Dataset(open_artifact(foreign, verify=True))
    assert other.split.tolist() == data.split.tolist()
    names = ("items", "users", "interactions", "training")
    assert [other.artifact.manifest.digests[name] for name in names] == [
        data.artifact.manifest.digests[name] for name in names
    ]
