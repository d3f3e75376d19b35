"""Small artifacts of every kind, made through the package's own writer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from rectool.artifacts import Artifact, Input, Making, digests, open_artifact, schemas, write

ROWS = [  # user, item, timestamp, rating, label, split
    (0, 0, 10, 5.0, 1, "train"),
    (0, 1, 20, 2.0, 0, "train"),
    (0, 2, 30, 4.0, 1, "test"),
    (1, 0, 11, 3.0, 0, "train"),
    (1, 2, 15, None, None, "context"),
    (1, 1, 21, 4.5, 1, "valid"),
]
TITLES = ["Alien", "Heat", "Up"]


def interactions_table(rows: Sequence[tuple[Any, ...]] = ROWS) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schemas.INTERACTIONS)
    return pa.table(list(map(list, columns)), schema=schemas.INTERACTIONS)


@dataclass(frozen=True)
class Workshop:
    """Makes small data sets and what is trained on them."""

    root: Path

    def interactions(self, rows: Sequence[tuple[Any, ...]] = ROWS) -> pa.Table:
        return interactions_table(rows)

    def items(self, titles: Sequence[str | None] = TITLES) -> pa.Table:
        ids = [f"i{row}" for row in range(len(titles))]
        return pa.table([ids, list(titles), [None] * len(titles)], schema=schemas.ITEMS)

    def users(self, count: int = 2) -> pa.Table:
        return pa.table([[f"u{row}" for row in range(count)]], schema=schemas.USERS)

    def fill_dataset(
        self, folder: Path, rows: Sequence[tuple[Any, ...]] = ROWS, titles: Sequence[str | None] = TITLES
    ) -> Path:
        """The files of a data set, without a manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.interactions(rows), folder / "interactions.parquet")
        pq.write_table(self.items(titles), folder / "items.parquet")
        pq.write_table(self.users(), folder / "users.parquet")
        return folder

    def fill_semantic(self, folder: Path, rows: int = len(TITLES), **tensors: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = tensors or {"item": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)}
        save_file(tensors, folder / "embeddings.safetensors")
        (folder / "config.json").write_text(json.dumps({"pooled": "mean"}))
        return folder

    def fill_cf(self, folder: Path, users: int = 2, items: int = len(TITLES)) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"user": np.ones((users, 4), np.float32), "item": np.ones((items, 4), np.float32)}
        save_file(tables, folder / "embeddings.safetensors")
        save_file({"bias": np.zeros(1, np.float32)}, folder / "weights.safetensors")
        (folder / "config.json").write_text(json.dumps({"model": "mf"}))
        return folder

    def fill_llm(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text(json.dumps({"version": 1}))
        return folder

    def fill_result(
        self,
        folder: Path,
        rows: Sequence[int | None] = (2, 5),
        score: float | None = 0.5,
        side: dict[str, pa.Array] | None = None,
        topk: Sequence[tuple[Any, ...]] | None = None,
    ) -> Path:
        """`side`: more columns of the predictions. `topk`: rows of topk.parquet."""
        folder.mkdir(parents=True, exist_ok=True)
        values = [[0] * len(rows) for _ in range(3)]
        columns = [list(rows), *values, [score] * len(rows), [None] * len(rows)]
        table = pa.table(columns, schema=schemas.PREDICTIONS)
        for name, column in (side or {}).items():
            table = table.append_column(name, column)
        pq.write_table(table, folder / "predictions.parquet")
        if topk is not None:
            pq.write_table(
                pa.table(list(map(list, zip(*topk, strict=True))), schema=schemas.TOPK), folder / "topk.parquet"
            )
        (folder / "metrics.json").write_text(json.dumps({"metrics": []}))
        return folder

    def dataset(self, name: str, *, replace: bool = False, seed: int = 0, **what: Any) -> Path:
        """A data set artifact."""
        out = self.root / name
        with write(out, "dataset", Making(["rectool", "prep"], {}, seed, []), replace=replace) as draft:
            self.fill_dataset(draft.path, **what)
            draft.digests.update(digests.of_dataset(draft.path))
        return out

    def child(self, name: str, kind: str, *parents: Path, seed: int = 0) -> Path:
        """An artifact of a kind that is made from a data set, and perhaps from others."""
        out = self.root / name
        inputs = [self.input(parent) for parent in parents]
        making = Making(["rectool", "made"], {}, seed, [item.parent(out, kind) for item in inputs])
        with write(out, kind, making) as draft:
            getattr(self, f"fill_{kind}")(draft.path)
        return out

    def input(self, path: Path) -> Input:
        artifact = open_artifact(path)
        return Input(artifact.manifest.kind, path, artifact=artifact)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def edit() -> Callable[..., None]:
    """Change an artifact's manifest as JSON: `edit(path, lambda manifest: ...)`."""

    def change(path: Path, how: Callable[[Any], Any]) -> None:
        manifest = json.loads((path / "rectool.json").read_text())
        how(manifest)
        (path / "rectool.json").write_text(json.dumps(manifest))

    return change


@pytest.fixture
def whole() -> Callable[[Path], Artifact]:
    """Open an artifact and check every byte and value of it."""
    return lambda path: open_artifact(path, verify=True)
