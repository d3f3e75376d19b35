"""Reading delimited text, JSON lines and Parquet into the engine, with errors that name file and row."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb

from rectool.data.engine import Engine, identifier, literal
from rectool.data.sources.archives import is_gzip, lines, open_text
from rectool.errors import RectoolError

LONGEST_LINE_BYTES = 2_000_000
"""Of delimited text: the parser's buffers are a multiple of it."""
HEADER_CHARACTERS = 1 << 20
JSON_LINES = 100
"""Looked at to learn which fields there are: a field may be absent from some."""
GUESSES = (",", "\t", ";", "|", "::")

TEXT, NUMBER, INTEGER = "VARCHAR", "FLOAT", "BIGINT"


@dataclass(frozen=True)
class Tabular:
    """A table in a file, and how it is written.

    Attributes:
        delimiter: between columns of delimited text; by the file's name where None.
        names: of the columns, for delimited text without a header.
        quoted: whether delimited text quotes values with `"`.
    """

    path: Path
    delimiter: str | None = None
    names: Sequence[str] | None = None
    encoding: str = "utf-8"
    quoted: bool = True

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise RectoolError(f"--encoding {self.encoding} is not known; try utf-8, latin-1 or cp1252") from None

    @property
    def form(self) -> str:
        """parquet, json or csv, by the file's name."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes if suffix.lower() != ".gz"]
        last = suffixes[-1] if suffixes else ""
        if last in (".parquet", ".pq"):
            return "parquet"
        return "json" if last in (".json", ".jsonl", ".ndjson") else "csv"

    def separator(self) -> str:
        if self.delimiter is not None:
            return {"TAB": "\t", "\\t": "\t"}.get(self.delimiter, self.delimiter)
        return "\t" if ".tsv" in (suffix.lower() for suffix in self.path.suffixes) else ","

    def columns(self) -> list[str]:
        """The names of the columns; of JSON lines, those that stand in the first lines.

        Raises:
            RectoolError: the file is missing, empty or damaged.
        """
        if not self.path.is_file():
            what = "is a folder, not a file" if self.path.is_dir() else "does not exist"
            raise RectoolError(f"{self.path} {what}")
        if self.form == "parquet":
            return self._parquet_columns()
        if self.names is not None:
            return list(self.names)
        if self.form == "json":
            return self._json_columns()
        line = self._first_line()
        separator = self.separator()
        if not self.quoted or len(separator) > 1:
            names = line.split(separator)
        else:
            names = next(csv.reader([line], delimiter=separator), [])
        return [name or f"column {index}" for index, name in enumerate(names, 1)]  # pandas leaves its index unnamed

    def require(self, column: str, flag: str) -> None:
        """Raises RectoolError, with a guess at what is wrong, if there is no such column."""
        columns = self.columns()
        if column in columns:
            return
        hint = f"name the right one with {flag}"
        if self.form == "csv" and len(columns) == 1:
            guess = next((mark for mark in GUESSES if mark != self.separator() and mark in columns[0]), None)
            if guess is not None:
                hint = f"is the delimiter {guess!r}? pass --delimiter {'TAB' if guess == chr(9) else repr(guess)}"
        shown = ", ".join(columns[:20])
        raise RectoolError(f"{self.path} has no column {column}; it has: {shown}; {hint}")

    def select(self, engine: Engine, types: Mapping[str, str]) -> str:
        """SQL that reads some columns, in the file's row order.

        Args:
            types: SQL type by column name; a Parquet file's own types are kept.
        """
        name = self._link(engine)
        chosen = ", ".join(identifier(column) for column in types)
        if self.form == "parquet":
            return f"SELECT {chosen} FROM read_parquet({name})"
        compression = "gzip" if is_gzip(self.path) else "none"
        if self.form == "json":
            return (
                f"SELECT {chosen} FROM read_json({name}, format = 'newline_delimited', compression = '{compression}', "
                f"columns = {_struct(types)})"
            )
        # The parser wants every column; those that nobody asked for are dropped as they are read.
        all_types = {column: types.get(column, TEXT) for column in _distinct(self.columns())}
        quote = '"' if self.quoted else ""
        return (
            f"SELECT {chosen} FROM read_csv({name}, auto_detect = false, delim = {literal(self.separator())}, "
            f"header = {str(self.names is None).lower()}, quote = '{quote}', escape = '{quote}', "
            f"compression = '{compression}', columns = {_struct(all_types)})"
        )

    def _link(self, engine: Engine) -> str:
        """A name in the scratch folder for the file: no character of the user's path reaches SQL."""
        link = engine.scratch / f"source-{len(list(engine.scratch.glob('source-*')))}"
        if self.form != "parquet" and codecs.lookup(self.encoding).name not in ("utf-8", "ascii"):
            _to_utf8(self.path, self.encoding, link)
        else:
            link.symlink_to(self.path.absolute())
        return literal(str(link))

    def _first_line(self) -> str:
        with open_text(self.path, self.encoding) as file, explained(self.path):
            line = file.readline(HEADER_CHARACTERS).rstrip("\r\n").removeprefix("\ufeff")
        if not line:
            raise RectoolError(f"{self.path} is empty, or its first line is")
        return line

    def _json_columns(self) -> list[str]:
        names: dict[str, None] = {}
        for number, line in islice(lines(self.path, self.encoding), JSON_LINES):
            try:
                value = json.loads(line or "{}")
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise RectoolError(
                    f"{self.path}, line {number}, is not a JSON object: JSON lines have one on each line"
                )
            names |= dict.fromkeys(value)
        if not names:
            raise RectoolError(f"{self.path} is empty, or its first lines are")
        return list(names)

    def _parquet_columns(self) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(self.path).names)
        except (pa.ArrowException, OSError) as problem:
            raise RectoolError(f"{self.path} is not a whole Parquet file: {problem}") from None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a parser says of a file into one line that names the file and, if known, the line."""
    try:
        yield
    except UnicodeDecodeError as problem:
        raise RectoolError(f"{path} is not {problem.encoding}; pass --encoding latin-1 (or its encoding)") from None
    except (EOFError, OSError) as problem:
        raise RectoolError(f"{path} cannot be read to its end: {problem}") from None
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException) as problem:
        raise RectoolError(_explanation(path, str(problem))) from None


def _explanation(path: Path, text: str) -> str:
    if "GZIP" in text or "gzip" in text or "zlib" in text.lower():
        return f"{path} is damaged or cut short: its gzip stream does not end; get the file again"
    found = re.search(r"(?:CSV Error on Line:|in line) (\d+)", text)
    where = f"{path}, line {found[1]}" if found else str(path)
    if "unicode" in text.lower() or "utf-8 encoding" in text.lower():
        return f"{where}, is not UTF-8; pass --encoding latin-1 (or its encoding)"
    if found_value := re.search(r'converting column "(.*?)"\. Could not convert string "(.*?)" to', text, re.DOTALL):
        column, value = found_value.groups()
        return f"{where}: column {column} holds {value[:80]!r}, which is not a number"
    if found_value := re.search(r'Failed to cast value to numerical: (".*?")', text, re.DOTALL):
        return f"{where}: {found_value[1][:80]} is not a number"
    if found_value := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text):
        expected, number = found_value.groups()
        return f"{where}: {number} columns instead of {expected}; is the delimiter right? see --delimiter"
    if "Maximum line size" in text or "maximum_object_size" in text:
        return f"{where}: longer than {LONGEST_LINE_BYTES // 1_000_000} MB; is a quotation mark left open?"
    if "quote" in text.lower() and "Value with unterminated quote" in text:
        return f"{where}: a quotation mark is left open"
    if "Malformed JSON" in text:
        return f"{where}: not JSON"
    return f"{where} cannot be read: {text.splitlines()[0][:200]}"


def _struct(types: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{literal(name)}: '{kind}'" for name, kind in types.items()) + "}"


def _distinct(columns: Sequence[str]) -> list[str]:
    """Column names made distinct: the first of a name keeps it."""
    seen: set[str] = set()
    names = []
    for index, column in enumerate(columns):
        name = column if column not in seen else f"{column}_{index}"
        seen.add(name)
        names.append(name)
    return names


def _to_utf8(source: Path, encoding: str, target: Path) -> None:
    with open_text(source, encoding) as file, explained(source), target.open("w", encoding="utf-8", newline="") as out:
        while chunk := file.read(1 << 20):
            out.write(chunk)
