"""The embedded SQL engine that prepares logs of any size: DuckDB, bounded in memory, spilling to disk.

Everything above this module speaks standard SQL; what is special to DuckDB (reading files, limits,
progress, streaming out) stands here and in `tabular.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rectool.data.settings import Resources
from rectool.errors import RectoolError

T = TypeVar("T")
ROW_GROUP = 1 << 20
"""Rows per row group of the Parquet files we write; fixed, so that the bytes repeat."""

REFUSALS = (errno.EROFS, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EACCES)
"""What a disk may say to the engine, which passes it on in words."""


class Engine:
    """One DuckDB database in a scratch folder.

    Statements run in a thread of their own, so that an interrupt stops them at once.
    """

    def __init__(self, scratch: Path, resources: Resources) -> None:
        config: dict[str, Any] = {
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": True,  # row numbers are the file's
            "autoinstall_known_extensions": False,  # no network
            "autoload_known_extensions": False,
        }
        if (limit := resources.memory_bytes()) is not None:
            config["memory_limit"] = f"{limit}B"
        if resources.threads is not None:
            config["threads"] = resources.threads
        if "?" in str(scratch):
            raise RectoolError(
                f"{scratch}: the SQL engine cannot work below a folder with ? in its name; see --temp-dir"
            )
        self.scratch = scratch
        with _explained():
            self._connection = duckdb.connect(str(scratch / "prepare.duckdb"), config=config)
            self._connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
            self._connection.execute("SET TimeZone = 'UTC'")  # else times mean what the machine's zone makes of them
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    def close(self) -> None:
        self._worker.shutdown()
        self._connection.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, sql: str) -> None:
        """Run statements for their effect."""
        self.interruptible(lambda: self._connection.execute(sql))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a small result."""
        return self.interruptible(lambda: self._connection.execute(sql).fetchall())

    def row(self, sql: str) -> tuple[Any, ...]:
        """The only row of a result."""
        (row,) = self.rows(sql)
        return row

    def value(self, sql: str) -> Any:
        """The only value of a result."""
        return self.row(sql)[0]

    def columns(self, table: str) -> dict[str, str]:
        """Names and SQL types of a table's columns; empty where there is no such table."""
        described = self.rows(
            f"SELECT column_name, data_type FROM information_schema.columns "
            f"WHERE table_name = {literal(table)} ORDER BY ordinal_position"
        )
        return dict(described)

    def register(self, name: str, table: pa.Table) -> None:
        """Make a table of Arrow data, in its order."""
        self._connection.register("arrow_source", table)
        self.run(f"CREATE TABLE {name} AS SELECT * FROM arrow_source")
        self._connection.unregister("arrow_source")

    def write_parquet(
        self, sql: str, path: Path, schema: pa.Schema, each: Callable[[pa.RecordBatch], None] | None = None
    ) -> int:
        """Stream a query's rows, in its order, into a Parquet file whose bytes repeat.

        Args:
            schema: the columns to write; the query must give them in this order.
            each: called with each batch as it is written.

        Returns:
            The number of rows.
        """

        def write() -> int:
            rows = 0
            with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=_repeating(schema)) as writer:
                for table in _in_row_groups(self._connection.sql(sql).to_arrow_reader(ROW_GROUP), schema):
                    for batch in table.to_batches():
                        if each is not None:
                            each(batch)
                    writer.write_table(table, row_group_size=ROW_GROUP)
                    rows += table.num_rows
            return rows

        return self.interruptible(write)

    def progress(self) -> float | None:
        """How much of the running statement is done, 0 to 1, or None where that is unknown."""
        percent = self._connection.query_progress()
        return percent / 100 if percent >= 0 else None

    def interruptible(self, work: Callable[[], T]) -> T:
        """Do work with the connection; an interrupt or a signal stops the running statement."""
        future = self._worker.submit(work)
        try:
            with _explained():
                while True:
                    try:
                        return future.result(timeout=0.1)
                    except TimeoutError:
                        if future.done():
                            raise
        except (KeyboardInterrupt, SystemExit):
            self._connection.interrupt()
            future.exception()
            raise


def literal(text: str) -> str:
    """A string as an SQL literal. Standard SQL has no escapes but the doubled quote."""
    if "\0" in text:
        raise RectoolError(f"{text!r} has a NUL character")
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A column name as an SQL identifier."""
    if "\0" in name:
        raise RectoolError(f"{name!r} has a NUL character")
    return '"' + name.replace('"', '""') + '"'


def _repeating(schema: pa.Schema) -> list[str]:
    """Columns with few values, for which Parquet's dictionaries pay."""
    return [field.name for field in schema if field.name in ("rating", "label", "split")]


def _in_row_groups(reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of exactly ROW_GROUP rows (the last may be shorter), whatever the reader's batches are."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        while rows + batch.num_rows >= ROW_GROUP:
            waiting.append(batch.slice(0, ROW_GROUP - rows))
            batch = batch.slice(ROW_GROUP - rows)
            yield pa.Table.from_batches(waiting).cast(schema).combine_chunks()
            waiting, rows = [], 0
        if batch.num_rows:
            waiting.append(batch)
            rows += batch.num_rows
    if waiting:
        yield pa.Table.from_batches(waiting).cast(schema).combine_chunks()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the engine's complaints about the machine into one line."""
    try:
        yield
    except duckdb.OutOfMemoryException as problem:
        text = str(problem)
        if "disk" in text.lower() or ("temp" in text.lower() and "directory" in text.lower()):
            raise RectoolError(
                "the disk for temporary files is full; free some space or give another --temp-dir"
            ) from problem
        raise RectoolError(f"the memory limit is too small: {_first_line(text)}; raise --memory-limit") from problem
    except duckdb.InterruptException as problem:
        raise KeyboardInterrupt from problem
    except duckdb.Error as problem:  # an IOException, or a TransactionException where a commit could not be written
        text = str(problem)
        if "no space left" in text.lower():
            raise RectoolError(
                "the disk for temporary files is full; free some space or give another --temp-dir"
            ) from problem
        for number in REFUSALS:
            if text.rstrip().endswith(os.strerror(number)):
                raise RectoolError(
                    f"temporary files cannot be written: {os.strerror(number)}; give another --temp-dir"
                ) from problem
        raise


def _first_line(text: str) -> str:
    return text.splitlines()[0]
