"""Tokens that were made before: one Arrow file for each data set, tokenizer, prompt and choice of rows."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rectool import console
from rectool.caches import cache_folder, locked
from rectool.data.dataset import Dataset
from rectool.errors import disk_errors
from rectool.prompts.prompts import Prompts
from rectool.prompts.tokens import TokenRows

VERSION = 1
"""Of the files, and of the way that prompts are written: raised whenever the same key would give other tokens."""


def cached_rows(prompts: Prompts, dataset: Dataset, rows: NDArray[Any]) -> TokenRows:
    """`prompts.rows`, or `prompts.items` if the prompts are about items, kept in `cache_folder()/tokens`.

    The tokens are mapped from the file, not read into memory. A damaged file is made again; of several
    processes one makes it while the others wait. Of a log that is on no disk nothing is kept.

    Raises:
        RectoolError: as in `Prompts.rows`, or the disk refuses.
    """
    if dataset.digest is None:
        return _written(prompts, dataset, rows)
    key = _key(prompts, dataset, rows)
    path = cache_folder() / "tokens" / f"{key[:40]}.arrow"
    with disk_errors(path, "name another folder for it with RECTOOL_CACHE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, "tokenise the same prompts"):
            found = _read(path, key, len(rows))
            if found is None:
                found = _made(prompts, dataset, rows)
                _write(path, key, found)
                found = _read(path, key, len(rows)) or found
    return found


def _made(prompts: Prompts, dataset: Dataset, rows: NDArray[Any]) -> TokenRows:
    with console.step(f"tokenising {prompts.template.name}") as step:
        made = _written(prompts, dataset, rows)
        step.amount, step.unit = len(rows), "prompts"
    return made


def _written(prompts: Prompts, dataset: Dataset, rows: NDArray[Any]) -> TokenRows:
    return prompts.items(dataset, rows) if prompts.template.task == "item" else prompts.rows(dataset, rows)


def _key(prompts: Prompts, dataset: Dataset, rows: NDArray[Any]) -> str:
    content = {
        "version": VERSION,
        "items": dataset.artifact.manifest.digests["items"],
        "interactions": dataset.digest,
        "tokenizer": prompts.tokenizer.digest,
        "prompts": prompts.record(),
        "rows": hashlib.sha256(np.ascontiguousarray(rows, np.int64).data).hexdigest(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write(path: Path, key: str, rows: TokenRows) -> None:
    ids = pa.LargeListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.ids))
    about = {"key": key, "shortened": str(rows.shortened), "checksum": _checksum(rows)}
    part = path.with_name(path.name + ".part")
    table = pa.table({"ids": ids}).replace_schema_metadata(about)
    try:
        with part.open("wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path, key: str, count: int) -> TokenRows | None:
    """What a file holds; None if there is none, or if it is not what was written."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        about = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        column = table.column("ids").chunk(0) if count else pa.array([], pa.large_list(pa.int32()))
        rows = TokenRows(
            np.asarray(column.values), np.asarray(column.offsets, np.int64), shortened=int(about["shortened"])
        )
        is_sound = about["key"] == key and len(rows) == count and about["checksum"] == _checksum(rows)
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, IndexError, UnicodeDecodeError):
        is_sound = False
    if not is_sound:
        console.say(f"{path} is damaged: making it again")
        return None
    return rows


def _checksum(rows: TokenRows) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(rows.ids).data, zlib.crc32(rows.offsets.data)):08x}"
