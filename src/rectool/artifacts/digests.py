"""SHA-256 digests: of a file's bytes, and of a table's content whatever wrote its file.

A content digest depends on column names, types, values and row order alone, not on row groups,
compression or the library's version, so that two machines agree on what a table is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rectool.artifacts.manifest import NAME, FileRecord
from rectool.errors import RectoolError


def of_file(path: Path) -> str:
    """`sha256:...` of a file's bytes. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def of_names(digests: Mapping[str, str]) -> str:
    """`sha256:...` of named digests, whatever their order in the mapping."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def of_artifact(kind: str, files: Mapping[str, FileRecord]) -> str:
    """`sha256:...` that stands for an artifact: its kind and its files' names and bytes.

    Manifests of its parts do not count: they say when it was made, and two that were made alike are the same.
    """
    content = {name: record.sha256 for name, record in files.items() if not name.endswith(f"/{NAME}")}
    return of_names(content | {"": kind})


class TableDigest:
    """Content digest of a table fed batch by batch; where the batches are cut does not matter."""

    def __init__(self) -> None:
        self._streams: dict[str, Any] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        """Feed the next rows. Raises RectoolError for a column of a type that has no digest."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._feed(f"{name}:{_type_name(name, column.type)}", column)

    def digest(self) -> str:
        return of_names({name: stream.hexdigest() for name, stream in self._streams.items()})

    def _feed(self, name: str, column: pa.Array) -> None:
        """Nulls are fed as a validity byte and an empty value, strings and lists as lengths and values."""
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        valid = np.asarray(column.is_valid()).view(np.uint8)
        self._stream(f"{name}/valid").update(valid)
        if pa.types.is_null(column.type):
            return
        if pa.types.is_temporal(column.type):
            column = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths = pc.fill_null(pc.list_value_length(column), 0)
            self._stream(f"{name}/lengths").update(np.asarray(lengths, dtype="<i8"))
            self._feed(f"{name}/values", pc.list_flatten(column))
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            filled = pc.fill_null(column, "").cast(pa.large_string())
            bounds = np.frombuffer(filled.buffers()[1], "<i8")[filled.offset : filled.offset + len(filled) + 1]
            self._stream(f"{name}/lengths").update(np.diff(bounds))
            if filled.buffers()[2] is not None and len(filled):
                self._stream(f"{name}/values").update(memoryview(filled.buffers()[2])[bounds[0] : bounds[-1]])
        else:
            filled = pc.fill_null(column, pa.scalar(0).cast(column.type)) if column.null_count else column
            self._stream(f"{name}/values").update(np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)))

    def _stream(self, name: str) -> Any:
        return self._streams.setdefault(name, hashlib.sha256())


class InteractionsDigest:
    """The digests of `interactions.parquet`: `interactions`, and `training` for its train rows alone.

    Rows are digested split by split, and the split column as a whole: that fixes the order of all
    rows and hashes each value once.
    """

    def __init__(self) -> None:
        self._order = TableDigest()
        self._splits: dict[str, TableDigest] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        split = batch.column("split")
        self._order.update(batch.select(["split"]))
        rest = batch.drop_columns(["split"])
        for name in sorted(pc.unique(split).to_pylist()):
            rows = rest.filter(pc.equal(split, name))
            self._splits.setdefault(name, TableDigest()).update(rows)

    def digests(self) -> dict[str, str]:
        by_split = {name: table.digest() for name, table in self._splits.items()}
        training = by_split.get("train", TableDigest().digest())
        return {"interactions": of_names(by_split | {"": self._order.digest()}), "training": training}


def _type_name(column: str, kind: pa.DataType) -> str:
    """A type's name, the same for all the ways in which writers put the same values down."""
    if pa.types.is_dictionary(kind):
        return _type_name(column, kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_type_name(column, kind.value_type)}>"
    if pa.types.is_large_string(kind):
        return "string"
    if pa.types.is_string(kind) or pa.types.is_null(kind) or (pa.types.is_primitive(kind) and kind.bit_width <= 64):
        return str(kind)
    raise RectoolError(f"column {column} is {kind}, of which rectool takes no digest; write it as text or numbers")


def of_batches(batches: Iterable[pa.RecordBatch]) -> str:
    """Content digest of a table."""
    table = TableDigest()
    for batch in batches:
        table.update(batch)
    return table.digest()


def of_dataset(directory: Path) -> dict[str, str]:
    """The sub-digests of a dataset's files: `items`, `users`, `interactions`, `training`."""
    interactions = InteractionsDigest()
    for batch in _batches(directory / "interactions.parquet"):
        interactions.update(batch)
    return {
        "items": of_batches(_batches(directory / "items.parquet")),
        "users": of_batches(_batches(directory / "users.parquet")),
        **interactions.digests(),
    }


def _batches(path: Path) -> Iterable[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches()
    except (pa.ArrowException, OSError) as problem:
        raise RectoolError(f"{path} is damaged: {problem}") from problem
