"""Tokens that were made before: one Arrow file for each data set, tokenizer, prompt and choice of rows."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rectool import console
from rectool.caches import cache_folder, locked
from rectool.data.dataset import Dataset
from rectool.errors import disk_errors
from rectool.prompts.catalogue import Catalogue
from rectool.prompts.prompts import Prompts
from rectool.prompts.spans import refuse_lost_spans
from rectool.prompts.tokens import TokenRows

VERSION = 1
"""Of the files, and of the way that prompts are written: raised whenever the same key would give other tokens."""


def cached_rows(prompts: Prompts, dataset: Dataset, rows: NDArray[Any], *, spans: bool = False) -> TokenRows:
    """`prompts.rows`, or `prompts.items` if the prompts are about items, kept in `cache_folder()/tokens`.

    The tokens are mapped from the file, not read into memory. A damaged file is made again; of several
    processes one makes it while the others wait. Of a log that is on no disk nothing is kept.

    Args:
        spans: say which tokens are whose title, too.

    Raises:
        RectoolError: as in `Prompts.rows`, the disk refuses, or with spans a title has no token of its own.
        ValueError: spans are asked of prompts about items.
    """
    if spans and prompts.template.task == "item":
        raise ValueError(f"prompt {prompts.template.name} is about items and has no spans")
    if dataset.digest is None:
        return _written(prompts, dataset, rows, spans)
    key = _key(prompts, dataset, rows, spans)
    path = cache_folder() / "tokens" / f"{key[:40]}.arrow"
    with disk_errors(path, "name another folder for it with RECTOOL_CACHE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, "tokenise the same prompts"):
            found = _read(path, key, len(rows), spans)
            if found is None:
                found = _made(prompts, dataset, rows, spans)
                _write(path, key, found)
                found = _read(path, key, len(rows), spans) or found
    return found


def _made(prompts: Prompts, dataset: Dataset, rows: NDArray[Any], spans: bool) -> TokenRows:
    with console.step(f"tokenising {prompts.template.name}") as step:
        made = _written(prompts, dataset, rows, spans)
        step.amount, step.unit = len(rows), "prompts"
    return made


def _written(prompts: Prompts, dataset: Dataset, rows: NDArray[Any], spans: bool) -> TokenRows:
    if prompts.template.task == "item":
        return prompts.items(dataset, rows)
    written = prompts.rows(dataset, rows, spans=spans)
    if spans:
        refuse_lost_spans(written, lambda item: str(Catalogue(dataset).titles[item]))
    return written


def _key(prompts: Prompts, dataset: Dataset, rows: NDArray[Any], spans: bool) -> str:
    content = {
        "version": VERSION,
        "items": dataset.artifact.manifest.digests["items"],
        "interactions": dataset.digest,
        "tokenizer": prompts.tokenizer.digest,
        "prompts": prompts.record(),
        "rows": hashlib.sha256(np.ascontiguousarray(rows, np.int64).data).hexdigest(),
        **({"spans": True} if spans else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write(path: Path, key: str, rows: TokenRows) -> None:
    columns = {"ids": pa.LargeListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.ids))}
    if rows.spans is not None and rows.span_offsets is not None:
        each = pa.FixedSizeListArray.from_arrays(pa.array(rows.spans.ravel()), 3)
        columns["spans"] = pa.LargeListArray.from_arrays(pa.array(rows.span_offsets), each)
    about = {"key": key, "shortened": str(rows.shortened), "checksum": _checksum(rows)}
    part = path.with_name(path.name + ".part")
    table = pa.table(columns).replace_schema_metadata(about)
    try:
        with part.open("wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path, key: str, count: int, spans: bool) -> TokenRows | None:
    """What a file holds; None if there is none, or if it is not what was written."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        about = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        ids = _only_chunk(table, "ids", pa.int32())
        rows = TokenRows(np.asarray(ids.values), np.asarray(ids.offsets, np.int64), shortened=int(about["shortened"]))
        if spans:
            found = _only_chunk(table, "spans", pa.list_(pa.int32(), 3))
            triples = np.asarray(found.values.flatten()).reshape(-1, 3)
            rows = replace(rows, spans=triples, span_offsets=np.asarray(found.offsets, np.int64))
        is_sound = about["key"] == key and len(rows) == count and about["checksum"] == _checksum(rows)
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, IndexError, UnicodeDecodeError):
        is_sound = False
    if not is_sound:
        console.say(f"{path} is damaged: making it again")
        return None
    return rows


def _only_chunk(table: pa.Table, name: str, of: pa.DataType) -> pa.LargeListArray:
    """A column of lists, which is written in one piece, or in none where there are no rows."""
    return table.column(name).chunk(0) if len(table) else pa.array([], pa.large_list(of))


def _checksum(rows: TokenRows) -> str:
    found = 0
    for array in (rows.offsets, rows.ids, rows.span_offsets, rows.spans):
        if array is not None:
            found = zlib.crc32(np.ascontiguousarray(array).data, found)
    return f"{found:08x}"
