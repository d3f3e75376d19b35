"""What an artifact's files hold, checked: their headers on every opening, every value on request."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from rectool.artifacts import documents, schemas
from rectool.artifacts.kinds import DocumentFile, Kind, TableFile, TensorFile
from rectool.errors import RectoolError

SWELLING, ROWS_PER_BYTE = 1000, 20
"""What a Parquet file may say that its bytes become, and how many rows they are: more is said by bombs alone."""
SWOLLEN_BYTES = 100_000_000
"""Allowed to files of any size."""
TENSOR_ROWS = 65_536
"""Rows of a tensor that are checked at a time."""


def headers(directory: Path, kind: Kind) -> dict[str, int]:
    """Check schemas and shapes, reading only the files' headers.

    Returns:
        The counts that the headers tell, such as `items`.

    Raises:
        RectoolError: a file is missing, damaged, or not of the kind's schema, or two files disagree.
    """
    counts: dict[str, int] = {}
    said_by: dict[str, str] = {}
    for name, expected in kind.files.items():
        path = inside(directory, name)
        if not path.exists():
            if name in kind.optional:
                continue
            raise RectoolError(
                f"{path} is missing: an artifact of kind {kind.name} has it; make it again with: {kind.made_by}"
            )
        for what, count in _header_counts(path, expected).items():
            if counts.setdefault(what, count) != count:
                raise RectoolError(f"{path} has {count:,} {what}, but {said_by[what]} has {counts[what]:,}")
            said_by.setdefault(what, name)
    return counts


def contents(directory: Path, kind: Kind, data_counts: Mapping[str, int] | None = None) -> None:
    """Check every value: ids in range, order, finite embeddings.

    Args:
        data_counts: the counts of the data set that the artifact binds to.

    Raises:
        RectoolError: names the file and the first row that is wrong.
    """
    counts = headers(directory, kind)
    for what in ("users", "items"):
        if data_counts is not None and what in counts and counts[what] != data_counts[what]:
            raise RectoolError(f"{directory} has {counts[what]:,} {what}, but its data set has {data_counts[what]:,}")
    for name, expected in kind.files.items():
        path = directory / name
        if isinstance(expected, TensorFile) and path.exists():
            _check_finite(path, expected)
    if kind.name == "dataset":
        _check_entities(directory / "users.parquet", schemas.USERS, "user_id")
        _check_entities(directory / "items.parquet", schemas.ITEMS, "item_id")
        _check_interactions(directory / "interactions.parquet", counts)
    if kind.name == "result":
        for name in ("predictions.parquet", "topk.parquet"):
            if (directory / name).exists():
                _check_scores(directory / name, data_counts)


def inside(directory: Path, name: str) -> Path:
    """The path of an artifact's file. Raises RectoolError if a link leads out, or a pipe or a folder stands there."""
    path = directory / name
    root = os.path.realpath(directory)
    if os.path.commonpath([root, os.path.realpath(path)]) != root:
        raise RectoolError(f"{path} is a link that leads out of the artifact")
    if path.exists() and not path.is_file():
        raise RectoolError(f"{path} is not a file: nothing can be read of it")
    return path


def _header_counts(path: Path, expected: TableFile | TensorFile | DocumentFile) -> dict[str, int]:
    if isinstance(expected, TableFile):
        return {expected.rows: _table_rows(path, expected)}
    if isinstance(expected, TensorFile):
        return _tensor_axes(path, expected)
    _read_object(path)
    return {}


def _table_rows(path: Path, expected: TableFile) -> int:
    with explained(path), pq.ParquetFile(path) as file:
        found, rows = file.schema_arrow, int(file.metadata.num_rows)
        refuse_bomb(path, file.metadata)
    if len(set(found.names)) < len(found.names):
        twice = next(name for name in found.names if found.names.count(name) > 1)
        raise RectoolError(f"{path} has {found.names.count(twice)} columns called {twice}")
    for field in expected.schema:
        if field.name not in found.names:
            raise RectoolError(f"{path} has no column {field.name} ({field.type}); it has {', '.join(found.names)}")
    for field in (*expected.schema, *expected.side):
        if field.name in found.names and _plain(found.field(field.name).type) != field.type:
            raise RectoolError(
                f"{path}: column {field.name} is {found.field(field.name).type}, but must be {field.type}"
            )
    return rows


def _plain(kind: pa.DataType) -> pa.DataType:
    """A column's type, without regard to how wide its offsets are: pandas and Polars write wide ones."""
    return pa.string() if pa.types.is_large_string(kind) else kind


def _tensor_axes(path: Path, expected: TensorFile) -> dict[str, int]:
    counts: dict[str, int] = {}
    with explained(path), safe_open(path, framework="np") as file:
        names = set(file.keys())
        for name, axes in expected.tensors.items():
            if name not in names:
                raise RectoolError(f"{path} has no tensor {name!r}; it has {', '.join(sorted(names)) or 'none'}")
            tensor = file.get_slice(name)
            shape = tensor.get_shape()
            if len(shape) != len(axes):
                raise RectoolError(f"{path}: tensor {name!r} has shape {tuple(shape)}, but must be ({', '.join(axes)})")
            if 0 in shape:
                raise RectoolError(f"{path}: tensor {name!r} has shape {tuple(shape)}: it is empty")
            if tensor.get_dtype() not in expected.types:
                raise RectoolError(
                    f"{path}: tensor {name!r} is {tensor.get_dtype()}, but must be one of {', '.join(expected.types)}"
                )
            for axis, size in zip(axes, shape, strict=True):
                if counts.setdefault(axis, size) != size:
                    raise RectoolError(f"{path}: tensor {name!r} has {size} as {axis}, but another has {counts[axis]}")
    return counts


def _read_object(path: Path) -> dict[str, Any]:
    value = documents.read(path)
    if not isinstance(value, dict):
        raise RectoolError(f"{path} must hold one JSON object")
    return value


def _check_finite(path: Path, expected: TensorFile) -> None:
    with explained(path), safe_open(path, framework="np") as file:
        for name in expected.tensors:
            tensor = file.get_slice(name)
            rows = tensor.get_shape()[0]
            for start in range(0, rows, TENSOR_ROWS):
                finite = np.isfinite(tensor[start : min(start + TENSOR_ROWS, rows)]).all(axis=1)
                if not finite.all():
                    raise RectoolError(f"{path}: row {start + int(np.argmin(finite))} of {name!r} is not finite")


def _check_entities(path: Path, schema: pa.Schema, column: str) -> None:
    """Ids distinct, and no nulls where the schema has none."""
    required = [field.name for field in schema if not field.nullable]
    with explained(path):
        table = pq.read_table(path, columns=required)
    for name in required:
        if table.column(name).null_count:
            raise RectoolError(f"{path}: {name} is null in row {table.column(name).to_pylist().index(None)}")
    ids = table.column(column)
    if len(ids.unique()) != len(ids):
        seen: set[str] = set()
        for row, value in enumerate(ids.to_pylist()):
            if value in seen:
                raise RectoolError(f"{path}: {column} {value!r} stands twice, again in row {row}")
            seen.add(value)


def _check_interactions(path: Path, counts: Mapping[str, int]) -> None:
    """Ids in range, order by (user, timestamp), labels 0 or 1, known splits."""
    start, last = 0, (-1, 0)
    with explained(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=schemas.INTERACTIONS.names):
            nulls = [name for name in ("user", "item", "timestamp", "split") if batch.column(name).null_count]
            if nulls:
                raise RectoolError(f"{path}: column {nulls[0]} has nulls")
            user, item, time = (np.asarray(batch.column(name)) for name in ("user", "item", "timestamp"))
            label = np.asarray(batch.column("label").fill_null(0))
            split = np.asarray(pc.is_in(batch.column("split"), value_set=pa.array(schemas.SPLITS)))
            before_user = np.concatenate(([last[0]], user[:-1]))
            before_time = np.concatenate(([last[1]], time[:-1]))
            sorted_ = (user > before_user) | ((user == before_user) & (time >= before_time))
            for bad, what in (
                ((user < 0) | (user >= counts["users"]), "a user that users.parquet does not have"),
                ((item < 0) | (item >= counts["items"]), "an item that items.parquet does not have"),
                ((label < 0) | (label > 1), "a label other than 0, 1 or null"),
                (~split, f"a split other than {', '.join(schemas.SPLITS)}"),
                (~sorted_, "an earlier place than the row before it: sort by (user, timestamp)"),
            ):
                if bad.any():
                    raise RectoolError(f"{path}: row {start + int(np.argmax(bad))} has {what}")
            if len(user):
                start, last = start + len(user), (int(user[-1]), int(time[-1]))


def _check_scores(path: Path, data_counts: Mapping[str, int] | None) -> None:
    """Rows and items that the data set has, finite scores, ranks from 1 on."""
    limit = np.iinfo(np.int64).max
    rows, items = (limit if data_counts is None else data_counts[name] for name in ("interactions", "items"))
    start = 0
    with explained(path), pq.ParquetFile(path) as file:
        names = [name for name in ("row", "item", "score", "rank") if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=names):
            row, item = (np.asarray(batch.column(name).fill_null(-1)) for name in ("row", "item"))
            score = np.asarray(batch.column("score").fill_null(np.nan))
            rank = np.asarray(batch.column("rank").fill_null(1)) if "rank" in names else np.ones(1)
            for bad, what in (
                (~np.isfinite(score), "a score that is not finite"),
                ((row < 0) | (row >= rows), "a row number that the data set does not have"),
                ((item < 0) | (item >= items), "an item that the data set does not have"),
                (rank < 1, "a rank below 1"),
            ):
                if bad.any():
                    raise RectoolError(f"{path}: row {start + int(np.argmax(bad))} has {what}")
            start += len(row)


def refuse_bomb(path: Path, said: pq.FileMetaData) -> None:
    """Raises RectoolError if a Parquet file says that it becomes far more than its bytes can honestly be."""
    size = path.stat().st_size
    swollen = sum(said.row_group(group).total_byte_size for group in range(said.num_row_groups))
    if said.num_rows > ROWS_PER_BYTE * size or swollen > max(SWOLLEN_BYTES, SWELLING * size):
        raise RectoolError(
            f"{path} is refused: {size:,} bytes that say they hold {said.num_rows:,} rows and swell to {swollen:,} "
            "bytes, as a bomb does"
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what reading a Parquet or safetensors file raises into one line that names the file."""
    try:
        yield
    except (pa.ArrowException, SafetensorError, OSError, ValueError, MemoryError) as problem:
        raise RectoolError(f"{path} is damaged: {problem}") from problem
