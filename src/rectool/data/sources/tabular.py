"""Reading delimited text, JSON lines and Parquet into the engine, with errors that name file and row."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import duckdb

from rectool.artifacts.checking import refuse_bomb
from rectool.data.engine import Engine, identifier, literal
from rectool.data.sources.archives import check_text, is_gzip, lines, odd_line_end, open_text
from rectool.errors import RectoolError

LONGEST_LINE_BYTES = 2_000_000
"""Of delimited text: the parser's buffers are a multiple of it."""
LONGEST_OBJECT_BYTES = 16_000_000
"""Of JSON lines."""
LONGEST_DELIMITER_BYTES = 4
HEADER_CHARACTERS = 1 << 20
JSON_LINES = 100
"""Looked at to learn which fields there are: a field may be absent from some."""
GUESSES = (",", "\t", ";", "|", "::")

SNIFFED = (",", ";", "\t", "|")
"""Delimiters that need no flag: a header tells them."""

TEXT, NUMBER, INTEGER, DOUBLE = "VARCHAR", "FLOAT", "BIGINT", "DOUBLE"


@dataclass(frozen=True)
class Tabular:
    """A table in a file, and how it is written.

    Attributes:
        delimiter: between columns of delimited text; by the file's name and first line where None.
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
        given = self._given()
        if given is not None and (not 1 <= len(given.encode()) <= LONGEST_DELIMITER_BYTES or set(given) & set('\r\n"')):
            raise RectoolError(f"--delimiter {given!r} must be 1 to 4 characters, no quotation mark or line break")

    @property
    def form(self) -> str:
        """parquet, json or csv, by the file's name."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes if suffix.lower() != ".gz"]
        last = suffixes[-1] if suffixes else ""
        if last in (".parquet", ".pq"):
            return "parquet"
        return "json" if last in (".json", ".jsonl", ".ndjson") else "csv"

    @cached_property
    def separator(self) -> str:
        """As given; else what the file's name suggests, or where its first line lacks that, what stands there most."""
        given = self._given()
        if given is not None:
            return given
        usual = "\t" if ".tsv" in (suffix.lower() for suffix in self.path.suffixes) else ","
        line = re.sub(r'"[^"]*"', "", self._first_line)
        return usual if usual in line else max((usual, *SNIFFED), key=line.count)

    def _given(self) -> str | None:
        return None if self.delimiter is None else {"TAB": "\t", "\\t": "\t"}.get(self.delimiter, self.delimiter)

    def columns(self) -> list[str]:
        """The names of the columns; of JSON lines, those that stand in the first lines.

        Raises:
            RectoolError: the file is missing, empty or damaged.
        """
        if not self.path.is_file():
            what = "is a folder, not a file; name a file in it" if self.path.is_dir() else "does not exist"
            if self.path.exists() and not self.path.is_dir():
                what = "is not a file; write what it gives into one"
            raise RectoolError(f"{self.path} {what}")
        if self.form == "parquet":
            return self._parquet_columns()
        if self.form == "json":
            return self._json_columns()
        names = self.names if self.names is not None else self._header()
        return [name or f"column {index}" for index, name in enumerate(names, 1)]  # pandas leaves its index unnamed

    def require(self, column: str, flag: str) -> None:
        """Raises RectoolError, with a guess at what is wrong, if there is no such column, or more than one."""
        columns = self.columns()
        if columns.count(column) > 1:
            places = " and ".join(str(place) for place, name in enumerate(columns, 1) if name == column)
            raise RectoolError(f"{self.path} has several columns {column} (number {places}); give each its own name")
        if column in columns:
            return
        hint = f"name the right one with {flag}"
        if self.form == "csv" and len(columns) == 1:
            guess = next((mark for mark in GUESSES if mark != self.separator and mark in columns[0]), None)
            if guess is not None:
                hint = f"is the delimiter {guess!r}? {self._way_to(guess)}"
        shown = ", ".join(repr(name) if name != name.strip() else name for name in columns[:20])[:500]
        raise RectoolError(f"{self.path} has no column {column}; it has: {shown}; {hint}")

    def _way_to(self, delimiter: str) -> str:
        """What to do where this is the file's delimiter, and it was not taken for it."""
        if self.delimiter is None:
            return f"pass --delimiter {delimiter!r}"
        if delimiter in SNIFFED:
            return "leave --delimiter out, and each file's own is found"
        return f"--delimiter {self.delimiter!r} holds for every file: write them with the same one"

    def select(self, engine: Engine, wanted: Mapping[str, tuple[str, str]]) -> str:
        """SQL that reads some columns, in the file's row order.

        Args:
            wanted: (column of the file, SQL type) by the name it is to have; names differ by more than case.
                A Parquet file's own types are kept.

        Raises:
            RectoolError: the file is damaged in a way that the engine would not notice.
        """
        names = self.columns()
        places = {ours: names.index(column) for ours, (column, _) in wanted.items()}
        link = self._link(engine)
        name = literal(str(link))
        if self.form == "parquet":
            chosen = ", ".join(f"#{place + 1} AS {identifier(ours)}" for ours, place in places.items())
            return f"SELECT {chosen} FROM read_parquet({name}, hive_partitioning = false)"
        check_text(self.path, LONGEST_LINE_BYTES if self.form == "csv" else LONGEST_OBJECT_BYTES)
        compression = "gzip" if is_gzip(link) else "uncompressed"
        if self.form == "json":
            types = dict(wanted.values())
            if len({column.casefold() for column in types}) < len(types):
                raise RectoolError(f"{self.path}: two of its fields differ by case only: {', '.join(types)}")
            chosen = ", ".join(f"{identifier(column)} AS {identifier(ours)}" for ours, (column, _) in wanted.items())
            return (
                f"SELECT {chosen} FROM read_json({name}, format = 'newline_delimited', compression = '{compression}', "
                f"hive_partitioning = false, columns = {_struct(types)})"
            )
        # The parser wants every column; those that nobody asked for are dropped as they are read.
        unique = distinct(names)
        kinds = {places[ours]: kind for ours, (_, kind) in wanted.items()}
        types = {alias: kinds.get(place, TEXT) for place, alias in enumerate(unique)}
        chosen = ", ".join(f"{identifier(unique[place])} AS {identifier(ours)}" for ours, place in places.items())
        quote = '"' if self.quoted else ""
        return (
            f"SELECT {chosen} FROM read_csv({name}, auto_detect = false, delim = {literal(self.separator)}, "
            f"header = {str(self.names is None).lower()}, quote = '{quote}', escape = '{quote}', "
            f"compression = '{compression}', hive_partitioning = false, columns = {_struct(types)})"
        )

    def _link(self, engine: Engine) -> Path:
        """A name in the scratch folder for the file: no character of the user's path reaches SQL."""
        link = engine.scratch / f"source-{len(list(engine.scratch.glob('source-*')))}"
        if self.form != "parquet" and codecs.lookup(self.encoding).name not in ("utf-8", "ascii"):
            _to_utf8(self.path, self.encoding, link)
        else:
            link.symlink_to(self.path.absolute())
        return link

    @cached_property
    def _first_line(self) -> str:
        with open_text(self.path, self.encoding) as file:
            return file.readline(HEADER_CHARACTERS).rstrip("\r\n").removeprefix("\ufeff")

    def _header(self) -> list[str]:
        line = self._first_line
        if not line:
            raise RectoolError(f"{self.path} is empty, or its first line is")
        separator = self.separator
        if not self.quoted or len(separator) > 1:
            return line.split(separator)
        try:
            return next(csv.reader([line], delimiter=separator))
        except csv.Error as problem:
            raise RectoolError(f"{self.path}, line 1: {problem}") from None

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
            with pq.ParquetFile(self.path) as file:
                refuse_bomb(self.path, file.metadata)
                return list(file.schema_arrow.names)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:  # the last of a column's name
            raise RectoolError(f"{self.path} is not a whole Parquet file: {problem}") from None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a parser says of a file into one line that names the file and, if known, the line."""
    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException):
        raise  # our fault, not the file's
    except duckdb.Error as problem:
        raise RectoolError(_explanation(path, str(problem))) from None


def _explanation(path: Path, text: str) -> str:
    if "GZIP" in text or "gzip" in text or "zlib" in text.lower():
        return f"{path} is damaged or cut short: its gzip stream does not end; get the file again"
    found = re.search(r"(?:CSV Error on Line:|in line) (\d+)", text)
    where = f"{path}, line {found[1]}" if found else str(path)
    if "unicode" in text.lower() or "utf-8 encoding" in text.lower():
        return f"{where}, is not UTF-8; pass --encoding latin-1 (or its encoding), which holds for every file"
    if found_value := re.search(r'converting column "(.*?)"\. Could not convert string "(.*?)" to', text, re.DOTALL):
        column, value = found_value.groups()
        return f"{where}: column {column} holds {value[:80]!r}, {not_a_number(value)}"
    if found_value := re.search(r'Failed to cast value to (?:numerical|decimal): (".*?")', text, re.DOTALL):
        return f"{where}: {found_value[1][:80]} is not a number"
    if found_value := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text):
        expected, number = found_value.groups()
        return f"{where}: {number} columns instead of {expected}; is the delimiter right? see --delimiter"
    if "Maximum line size" in text or "maximum_object_size" in text:
        longest = LONGEST_LINE_BYTES if "Maximum line size" in text else LONGEST_OBJECT_BYTES
        return f"{where}: longer than {longest / 1e6:g} MB; is a quotation mark left open?"
    if "quote" in text.lower() and "Value with unterminated quote" in text:
        return f"{where}: a quotation mark is left open"
    if "state machine reached an invalid state" in text and (number := odd_line_end(path)):
        way = "make all line ends the same, for instance with dos2unix"
        return f"{path}, line {number}: it does not end as those before; {way}"
    if "Malformed JSON" in text:
        return f"{path}, line {_first_not_json(path, int(found[1]) if found else 1)}: not JSON"
    if "Expected OBJECT" in text:
        return f"{where}: not a JSON object"
    return f"{where} cannot be read: {text.splitlines()[0][:200]}"


def _first_not_json(path: Path, near: int) -> int:
    """The number of the line that is not JSON: the engine names that line or the next."""
    for number, line in islice(lines(path, "latin-1"), max(0, near - 2), near):
        try:
            json.loads(line or "{}")
        except (ValueError, RecursionError):
            return number
    return near


def _struct(types: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{literal(name)}: '{kind}'" for name, kind in types.items()) + "}"


def distinct(names: Sequence[str]) -> list[str]:
    """Names made distinct, as SQL sees them, without regard to case: the first of a name keeps it."""
    seen: set[str] = set()
    made = []
    for name in names:
        number, candidate = 1, name
        while candidate.casefold() in seen:
            number += 1
            candidate = f"{name}_{number}"
        seen.add(candidate.casefold())
        made.append(candidate)
    return made


def not_a_number(value: str) -> str:
    """What is wrong with a value where a number is wanted."""
    if re.match(r"\d{4}-\d\d", value):
        return "which is not a number; a time is read with --timestamp-unit iso"
    try:
        float(value)
    except ValueError:
        return "which is not a number"
    return "which is out of range"


def _to_utf8(source: Path, encoding: str, target: Path) -> None:
    with open_text(source, encoding) as file, target.open("w", encoding="utf-8", newline="") as out:
        while chunk := file.read(1 << 20):
            out.write(chunk)
