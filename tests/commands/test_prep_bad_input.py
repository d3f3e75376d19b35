"""What `rectool prep` says of bad input: one line that names the file and the row, and nothing left behind."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

TIME = 1_000_000_000  # 2001-09-09 01:46:40 UTC
HEADER = "user_id,item_id,rating,timestamp\n"
GOOD = HEADER + "".join(f"u{n % 3},i{n % 4},{n % 5 + 1},{TIME + n}\n" for n in range(12))
"""12 rows, in lines 2 to 13."""
LARGE = HEADER + "".join(f"u{n},i{n},5,{TIME + n}\n" for n in range(20_000))
OBJECT = f'{{"user_id": "u", "item_id": "i", "rating": 4, "timestamp": {TIME}}}\n'

Content = str | bytes | None


@dataclass
class Desk:
    """A folder with files of our making; whatever fails must leave nothing else in it."""

    folder: Path
    rectool: Callable[..., Any]

    def write(self, name: str, content: Content) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def run(self, *arguments: object) -> Any:
        return self.rectool("prep", *arguments, "--out", self.folder / "out")

    def accepted(self, *arguments: object) -> Any:
        outcome = self.run(*arguments, "--json")
        assert outcome.code == 0, outcome.stderr
        return outcome.json

    def refused(self, *arguments: object) -> str:
        """The error line, once nothing but the input is found to be there."""
        before = sorted(self.folder.rglob("*"))
        outcome = self.run(*arguments)
        assert outcome.code == 2, outcome.stderr
        assert outcome.stdout == ""
        assert [path for path in self.folder.rglob("*") if path not in before] == []
        assert len(outcome.error) < 1000
        return str(outcome.error)

    def table(self, content: Content, *flags: object, name: str = "log.csv", items: Content = None) -> tuple[Any, ...]:
        """The arguments of `rectool prep` for a table."""
        extra = () if items is None else ("--items", self.write("items.csv", items))
        return ("table", self.write(name, content), *extra, *flags)


@pytest.fixture
def desk(tmp_path: Path, rectool: Any) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    return Desk(folder, rectool)


def row(*, user: str = "u9", item: str = "i1", rating: str = "3", time: object = TIME) -> str:
    return f"{user},{item},{rating},{time}\n"


CSV: dict[str, tuple[str | bytes, list[str], str]] = {
    # what is wrong: the file, flags, and what the line says after the name of the file
    "wrong delimiter": (
        GOOD.replace(",", ";"),
        ["--delimiter", ","],
        "log.csv has no column user_id; .* is the delimiter ';'. leave --delimiter out, and each file's own is found",
    ),
    "tabs": (
        GOOD.replace(",", "\t"),
        ["--delimiter", "|"],
        r"log.csv has no column user_id; .* is the delimiter '\\t'. leave --delimiter out",
    ),
    "colons": (GOOD.replace(",", "::"), [], "log.csv has no column user_id; .* pass --delimiter '::'"),
    "colons, and another delimiter given": (
        GOOD.replace(",", "::"),
        ["--delimiter", ";"],
        "is the delimiter '::'. --delimiter ';' holds for every file: write them with the same one",
    ),
    "another line end at last": (
        GOOD.replace("\n", "\r\n")[:-2] + "\n",
        [],
        "log.csv, line 13: it does not end as those before; make all line ends the same, for instance with dos2unix",
    ),
    "one other line end": (GOOD.replace("3,1000000002\n", "3,1000000002\r\n"), [], "log.csv, line 4: it does not end"),
    "a line end of old": (
        GOOD.replace("1000000002\n", "1000000002\r"),
        [],
        "log.csv, line 4: it does not end",
    ),
    "half of the line ends": (GOOD + row().replace("\n", "\r\n") * 12, [], "log.csv, line 14: it does not end"),
    "another line end in gzip": (
        gzip.compress((LARGE + row()[:-1] + "\r\n").encode()),
        [],
        "log.csv, line 20002: it does not end",
    ),
    "another line end after a text with lines": (
        GOOD + row(item='"a\r\nb"') + row()[:-1] + "\r\n",
        [],
        "log.csv, line 16: it does not end",
    ),
    "a column that stands twice": (
        GOOD.replace("timestamp\n", "timestamp,rating\n").replace("0\n", "0,1\n"),
        [],
        "log.csv has several columns rating .number 3 and 5.; give each its own name",
    ),
    "missing column": (
        GOOD.replace("item_id", "film"),
        [],
        "log.csv has no column item_id; it has: user_id, film, rating, timestamp; name the right .* --item-column",
    ),
    "named column is missing": (GOOD, ["--rating-column", "stars"], "log.csv has no column stars; .*--rating-column"),
    "blanks in the header": (GOOD.replace(",", ", "), [], "log.csv has no column item_id; it has: user_id, ' item_id'"),
    "rating is a word": (
        GOOD + row(rating="good"),
        [],
        r"log.csv, line 14: column rating holds 'good', which is not a n",
    ),
    "rating is NaN": (GOOD + row(rating="NaN"), [], "log.csv, row 13: the rating is not a number .*rating nan"),
    "rating is infinite": (GOOD + row(rating="-inf"), [], "log.csv, row 13: the rating is not a number"),
    "rating is too large": (GOOD + row(rating="1e39"), [], "log.csv, row 13: the rating is not a number"),
    "no rating": (GOOD + row(rating=""), [], "log.csv, row 13: the rating is not a number"),
    "no item": (GOOD + row(item=""), [], "log.csv, row 13: no item .user u9.*pass --invalid-rows drop"),
    "quoted empty item": (GOOD + row(item='""'), [], "log.csv, row 13: no item"),
    "no user": (GOOD + row(user=""), [], "log.csv, row 13: no user"),
    "no time": (GOOD + row(time=""), [], "log.csv, row 13: no timestamp"),
    "the first of several": (GOOD + row() + row(item="") + row(item=""), [], "log.csv, row 14: no item .*2 such rows"),
    "time is a word": (
        GOOD + row(time="noon"),
        [],
        "log.csv, line 14: column timestamp holds 'noon', which is not a num",
    ),
    "time is a date": (GOOD + row(time="2001-06-30"), [], "line 14: column timestamp .* pass|--timestamp-unit iso"),
    "time overflows": (
        GOOD + row(time=10**20),
        [],
        "log.csv, row 13: column timestamp holds '1.*0', which is out of range",
    ),
    "time is beyond the calendar": (
        GOOD + row(time=2**63 - 1),
        [],
        "log.csv, row 13: column timestamp holds .*, which is out of range",
    ),
    "time is before the calendar": (GOOD + row(time=-(2**62)), [], "log.csv, row 13: timestamp -4.* is not a time"),
    "one time in milliseconds": (GOOD + row(time=TIME * 1000), [], "log.csv, row 13: timestamp 10+ is in ms"),
    "iso time is none": (
        HEADER + row(time="2001-06-30") + row(time="2001-06-31"),
        ["--timestamp-unit", "iso"],
        "log.csv, row 2: column timestamp holds '2001-06-31', which is not a time such as",
    ),
    "empty file": ("", [], "log.csv is empty"),
    "empty first line": ("\n" + GOOD, [], "log.csv is empty, or its first line is"),
    "header only": (HEADER, [], "log.csv has no rows"),
    "a value too few": (GOOD + "u9,i1,3\n", [], "log.csv, line 14: 3 columns instead of 4.*--delimiter"),
    "a value too many": (GOOD + "u9,i1,3,4,5\n", [], "log.csv, line 14: 5 columns instead of 4"),
    "a quote left open": (GOOD + row(item='"i1'), [], "log.csv, line 14: a quotation mark is left open"),
    "an early quote left open": (
        LARGE.replace("u10,i10", 'u10,"i10'),
        [],
        "log.csv, line 12: a quotation mark is left open",
    ),
    "an endless line": (GOOD + row(item="x" * 3_000_000) + row(), [], "log.csv, line 14: longer than 2 MB"),
    "an endless last line": (GOOD + row(item="x" * 40_000_000), [], "log.csv has a line longer than 2 MB"),
    "an endless line in gzip": (
        gzip.compress((GOOD + row(item="x" * 40_000_000)).encode(), 1),
        [],
        "log.csv has a line longer than 2 MB",
    ),
    "an endless line in the middle": (
        GOOD + row(item="x" * 40_000_000) + GOOD,
        [],
        "log.csv has a line longer than 2 MB",
    ),
    "an endless header": ("user_id," + "x" * 3_000_000 + "\n", [], "log.csv, line 1: field larger than"),
    "not UTF-8": (
        (GOOD + "u9,caf\xe9,3,1\n").encode("latin-1"),
        [],
        "log.csv is not UTF-8 at line 14; .*--encoding latin-1",
    ),
    "not UTF-8, late": (
        (LARGE + "u9,caf\xe9,3,1\n").encode("latin-1"),
        [],
        "log.csv, line 20002, is not UTF-8.*latin-1",
    ),
    "not UTF-8 in the header": (("caf\xe9," + GOOD).encode("latin-1"), [], "log.csv is not UTF-8 at line 1"),
    "UTF-16": (GOOD.encode("utf-16"), [], "log.csv is not UTF-8 at line 1"),
    "label is 2": (GOOD.replace("rating", "label"), [], r"log.csv, row 2: the label is neither 0 nor 1 .*label 2.0"),
    "label is 300": (GOOD.replace("rating", "label").replace(",1,1", ",300,1"), [], "log.csv, row 1: the label is nei"),
    "label is a fraction": (
        GOOD.replace("rating", "label").replace(",1,1", ",0.7,1"),
        [],
        "log.csv, row 1: the label is",
    ),
    "label is a word": (
        GOOD.replace("rating", "label").replace(",1,1", ",yes,1"),
        [],
        "log.csv, row 1: column label holds 'yes', which is not a number",
    ),
    "label is absent": (
        GOOD.replace("rating", "label").replace(",1,1", ",,1"),
        [],
        "log.csv, row 1: the label is neither",
    ),
    "split is another": (
        "user_id,item_id,split,timestamp\nu,i,train,1\nu,j,holdout,2\n",
        [],
        "log.csv, row 2: split 'holdout' is none of train, valid, test, context",
    ),
    "split is absent": ("user_id,item_id,split,timestamp\nu,i,train,1\nu,j,,2\n", [], "log.csv, row 2: split None is"),
    "no split to be given": (GOOD, ["--split", "given"], "--split given needs a split column"),
    "nothing in the range": (GOOD, ["--from", "2030"], "no rows are left after the filter: from 2030"),
    "nothing in the core": (GOOD, ["--k-core", "50"], "no rows are left after the filter: 50-core"),
    "nothing frequent": (GOOD, ["--min-item-count", "50"], "no rows are left after the filter: minimum counts"),
    "nothing valid": (HEADER + row(item=""), ["--invalid-rows", "drop"], "log.csv has no valid row: 1 rows .* no item"),
    "nothing in the months": (GOOD, ["--split", "months:1,1,1", "--from", "2005"], "no rows are left .*: from 2005"),
    "cut gzip": (
        gzip.compress(LARGE.encode())[:-50],
        [],
        "log.csv is damaged or cut short: .*download or copy it again",
    ),
    "gzip cut in its head": (gzip.compress(LARGE.encode())[:6], [], "log.csv at line 1: .*ended before"),
    "gzip of another sum": (gzip.compress(LARGE.encode())[:-8] + bytes(8), [], "log.csv is damaged or cut short: CRC"),
    "names for too few columns": (
        row(),
        ["--columns", "user_id,item_id,timestamp"],
        "log.csv, line 1: 4 columns instead",
    ),
}


@pytest.mark.parametrize("case", CSV)
def test_delimited_text(desk: Desk, case: str) -> None:
    content, flags, said = CSV[case]
    error = desk.refused(*desk.table(content, *flags))
    assert_says(error, said)


def assert_says(error: str, said: str) -> None:
    assert re.search(said, error), error


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes(20) + content[at + 20 :]


def parquet(**columns: Any) -> bytes:
    table = {"user_id": ["u", "v", "w"], "item_id": ["i", "j", "k"], "timestamp": [TIME, TIME + 1, TIME + 2], **columns}
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue()


PARQUET: dict[str, tuple[bytes, str]] = {
    "rating is NaN": (parquet(rating=[1.0, float("nan"), 2.0]), "log.parquet, row 2: the rating is not a number"),
    "rating is infinite": (parquet(rating=[1.0, 2.0, float("inf")]), "log.parquet, row 3: the rating is not a number"),
    "rating is null": (parquet(rating=[None, 1.0, 2.0]), "log.parquet, row 1: the rating is not a number"),
    "rating is too large": (
        parquet(rating=[1.0, 1e300, 2.0]),
        "row 2: column rating holds '1e.300', which is out of range",
    ),
    "rating is a word": (
        parquet(rating=["1", "2", "good"]),
        "log.parquet, row 3: column rating holds 'good', which is not",
    ),
    "label is a fraction": (parquet(label=[0, 1, 0.5]), "log.parquet, row 3: the label is neither 0 nor 1"),
    "time is a word": (
        parquet(timestamp=["1", "noon", "3"]),
        "log.parquet, row 2: column timestamp holds 'noon', which is",
    ),
    "time is NaN": (parquet(timestamp=[1.0, float("nan"), 1.0]), "log.parquet, row 2: column timestamp holds 'nan'"),
    "time overflows": (parquet(timestamp=pa.array([1, 2, 2**63], pa.uint64())), "log.parquet, row 3: column timestamp"),
    "time is null": (parquet(timestamp=[None, 1, 2]), "log.parquet, row 1: no timestamp"),
    "item is null": (parquet(item_id=["i", None, "j"]), "log.parquet, row 2: no item"),
    "split is another": (parquet(split=["train", "train", "dev"]), "log.parquet, row 3: split 'dev' is none of"),
    "no column": (parquet().replace(b"item_id", b"item_ix"), "log.parquet has no column item_id.*--item-column"),
    "not Parquet": (GOOD.encode(), "log.parquet is not a whole Parquet file"),
    "empty": (b"", "log.parquet is not a whole Parquet file"),
    "cut": (parquet()[:-100], "log.parquet is not a whole Parquet file"),
    "damaged footer": (damaged(parquet(), len(parquet()) - 60), "log.parquet is not a whole Parquet file"),
    "damaged page": (damaged(parquet(), 40), "log.parquet cannot be read: "),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet(desk: Desk, case: str) -> None:
    content, said = PARQUET[case]
    assert_says(desk.refused(*desk.table(content, name="log.parquet")), said)


JSON: dict[str, tuple[str | bytes, str]] = {
    "garbage at once": ("garbage\n", "log.jsonl, line 1, is not a JSON object"),
    "garbage early": (OBJECT * 3 + "garbage\n" + OBJECT, "log.jsonl, line 4, is not a JSON object"),
    "garbage late": (OBJECT * 3000 + "garbage\n" + OBJECT, "log.jsonl, line 3001: not JSON"),
    "garbage after a blank": (OBJECT * 2999 + "\n" + OBJECT + "garbage\n", "log.jsonl, line 3002: not JSON"),
    "cut": (OBJECT * 3000 + OBJECT[:30], "log.jsonl, line 3001: not JSON"),
    "two in a line": (OBJECT * 200 + OBJECT.strip() + OBJECT, "log.jsonl, line 201: not JSON"),
    "a list": (OBJECT * 200 + "[1, 2]\n", "log.jsonl, line 201: not a JSON object"),
    "deep": ("[" * 100_000, "log.jsonl, line 1, is not a JSON object"),
    "rating is a word": (OBJECT * 200 + OBJECT.replace("4", '"good"'), 'log.jsonl, line 201: "good" is not a number'),
    "rating is NaN": (OBJECT * 2 + OBJECT.replace("4", "NaN"), "log.jsonl, row 3: the rating is not a number"),
    "no item": (OBJECT * 200 + '{"user_id": "u"}\n', "log.jsonl, row 201: no item"),
    "an endless id": (OBJECT + f'{{"user_id": "{"x" * 9_000_000}"}}\n', "log.jsonl, row 2: no item .user x{60},"),
    "not UTF-8": ((OBJECT + OBJECT.replace('"i"', '"\xe9"')).encode("latin-1"), "log.jsonl is not UTF-8 at line 2"),
    "empty": ("", "log.jsonl is empty"),
    "empty objects": ("{}\n{}\n", "log.jsonl is empty"),
    "cut gzip": (gzip.compress((OBJECT * 9999).encode())[:-20], "log.jsonl is damaged or cut short"),
}


@pytest.mark.parametrize("case", JSON)
def test_json_lines(desk: Desk, case: str) -> None:
    content, said = JSON[case]
    assert_says(desk.refused(*desk.table(content, name="log.jsonl")), said)


ITEMS = "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(4))
CATALOGUE: dict[str, tuple[str | bytes, list[str], str]] = {
    "item without metadata": (
        ITEMS.replace("i2,", "i9,"),
        [],
        r"log.csv, row 3: item i2 has no title in items.csv \(1 such items in 3 rows\); pass --untitled drop",
    ),
    "item without title": (ITEMS.replace("Title 1", " "), [], "log.csv, row 2: item i1 has no title in items.csv"),
    "no item has a title": (
        ITEMS.replace("i", "j"),
        ["--item-id-column", "jtem_jd", "--title-column", "tjtle"],
        "no item of log.csv is in items.csv: are the ids of both the same.$",
    ),
    "only blank titles": (
        re.sub("Title .", "", ITEMS),
        ["--untitled", "drop"],
        "no item of log.csv has a title in items.csv; pass --untitled id to call them by their id",
    ),
    "ids as pandas writes them": (
        "item_id,title\n9,Nine\n10,Ten\n",
        [],
        "no item of log.csv is in items.csv: are .* the log has '9.0', the items have '9': write them alike",
    ),
    "ids with zeros": (
        "item_id,title\n000009,Nine\n10,Ten\n",
        [],
        "are the ids of both the same. the log has '9.0', the items have '000009'",
    ),
    "ids of another case": ("item_id,title\nI2 ,Two\n", ["--untitled", "drop"], "log has 'i2', the items have 'I2 '"),
    "none left without titles": (
        "item_id,title\nx,X\n",
        ["--untitled", "drop"],
        "no item of log.csv is in items.csv: are the ids of both the same.$",
    ),
    "duplicate ids": (ITEMS + "i1,Again\n", [], "items.csv, row 5: item_id i1 stands already in row 2"),
    "no id": (ITEMS + ",Nothing\n", [], "items.csv, row 5: it has no item_id"),
    "no title column": (ITEMS.replace("title", "name"), [], "items.csv has no column title; .*--title-column"),
    "no id column": (ITEMS.replace("item_id", "id"), [], "items.csv has no column item_id; .*--item-id-column"),
    "no text column": (ITEMS, ["--text-column", "plot"], "items.csv has no column plot; .*--text-column"),
    "wrong delimiter": (
        ITEMS.replace(",", "|"),
        ["--delimiter", ","],
        "items.csv has no column item_id; .*leave --del",
    ),
    "a title column that stands twice": ("item_id,title,title\ni1,A,B\n", [], "items.csv has several columns title"),
    "another line end": (ITEMS[:-1] + "\r\n", [], "items.csv, line 5: it does not end as those before"),
    "a value too many": (ITEMS + "i7,The Good, the Bad\n", [], "items.csv, line 6: 3 columns instead of 2"),
    "not UTF-8": ((ITEMS + "i7,caf\xe9\n").encode("latin-1"), [], "items.csv is not UTF-8 at line 6"),
    "cut gzip": (gzip.compress(ITEMS.encode() * 999)[:-9], [], "items.csv is damaged or cut short"),
    "empty": ("", [], "items.csv is empty"),
}


@pytest.mark.parametrize("case", CATALOGUE)
def test_items(desk: Desk, case: str) -> None:
    content, flags, said = CATALOGUE[case]
    log = HEADER + row(item="10.0") + row(item="9.0") if "Nine" in str(content) else GOOD
    assert_says(desk.refused(*desk.table(log, *flags, items=content)), said)


def test_users_that_stand_twice(desk: Desk) -> None:
    users = desk.write("users.csv", "user_id,age\nu0,30\nu1,31\nu0,32\n")
    assert desk.refused(*desk.table(GOOD, "--users", users)) == "users.csv, row 3: user_id u0 stands already in row 1"


@pytest.mark.parametrize(("unit", "factor"), [("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_other_units_of_time_are_recognised(desk: Desk, unit: str, factor: int) -> None:
    content = HEADER + "".join(f"u{n},i{n},3,{(TIME + n) * factor}\n" for n in range(9))
    error = desk.refused(*desk.table(content))
    assert error == (
        f"log.csv, row 9: timestamp {(TIME + 8) * factor} is in {unit}, not in seconds; pass --timestamp-unit {unit}"
    )
    metrics = desk.accepted(*desk.table(content, "--timestamp-unit", unit))["metrics"]
    assert (metrics["first"], metrics["last"]) == ("2001-09-09 01:46:40", "2001-09-09 01:46:48")


@pytest.mark.parametrize(("named", "actual", "factor"), [("ms", "us", 10**6), ("us", "ns", 10**9), ("ms", "s", 1)])
def test_a_wrong_unit_of_time_is_recognised(desk: Desk, named: str, actual: str, factor: int) -> None:
    content = HEADER + row(time=TIME * factor)
    error = desk.refused(*desk.table(content, "--timestamp-unit", named))
    assert error == f"log.csv, row 1: the timestamp is in {actual}, not in {named}; pass --timestamp-unit {actual}"


def test_old_times_are_no_mistake(desk: Desk) -> None:
    metrics = desk.accepted(*desk.table(HEADER + row(time=-1) + row(time=-2_000_000_000)))["metrics"]
    assert (metrics["first"], metrics["last"]) == ("1906-08-16 20:26:40", "1969-12-31 23:59:59")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ISO-8859-15"])
def test_other_encodings_are_accepted_by_name(desk: Desk, encoding: str) -> None:
    content = (HEADER + row(item="café")).encode(encoding)
    assert "is not UTF-8" in desk.refused(*desk.table(content))
    desk.accepted(*desk.table(content, "--encoding", encoding))
    assert pq.read_table(desk.folder / "out" / "items.parquet").column("item_id").to_pylist() == ["café"]


def test_a_byte_order_mark_is_no_part_of_a_name(desk: Desk) -> None:
    assert desk.accepted(*desk.table("\ufeff" + GOOD))["counts"]["interactions"] == 12


def test_invalid_rows_can_be_dropped(desk: Desk) -> None:
    content = GOOD + row(item="") + row(rating="nan") + row(time="")
    made = desk.accepted(*desk.table(content, "--invalid-rows", "drop"))
    assert made["counts"]["interactions"] == 12
    assert made["metrics"]["notes"] == [
        "1 rows of log.csv dropped: no item",
        "1 rows of log.csv dropped: no timestamp",
        "1 rows of log.csv dropped: the rating is not a number",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--like-at-least", "nan"], "--like-at-least nan must be a finite number"),
        (["--like-at-least", "inf"], "--like-at-least inf"),
        (["--like-at-least", "much"], "--like-at-least"),
        (["--min-user-count", "-3"], "--min-user-count -3 must be at least 1"),
        (["--k-core", "0"], "--k-core 0 must be at least 1"),
        (["--max-item-id", "-1"], "--max-item-id -1 must not be negative"),
        (["--threads", "-2"], "--threads -2 must be at least 1"),
        (["--memory-limit", "-2GB"], "--memory-limit -2GB is not a size"),
        (["--memory-limit", "2"], "--memory-limit 2 is not a size"),
        (["--memory-limit", "1KB"], "the memory limit is too small"),
        (["--split", "holdout"], "--split holdout is none of the forms"),
        (["--split", "ratio:-1,1,1"], "--split ratio:-1,1,1 needs three sizes"),
        (["--encoding", "klingon"], "--encoding klingon is not known"),
        (["--encoding", "utf-16"], "--encoding utf-16 is not one that can be read by line"),
        (["--encoding", "rot13"], "--encoding rot13"),
        (["--delimiter", ""], "--delimiter '' must be 1 to 4 characters"),
        (["--delimiter", '"'], "--delimiter '\"' must be 1 to 4 characters"),
        (["--delimiter", "\n"], "--delimiter"),
        (["--timestamp-unit", "weeks"], "--timestamp-unit"),
        (["--from", "June"], "--from June is not a date"),
        (["--items", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--users", "nowhere.csv"], "nowhere.csv does not exist"),
    ],
)
def test_flags(desk: Desk, flags: list[str], said: str) -> None:
    assert said in desk.refused(*desk.table(GOOD, *flags))


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet", "log.csv.gz"])
def test_files_that_are_none(desk: Desk, name: str) -> None:
    path = desk.folder / name
    assert desk.refused("table", path) == f"{path} does not exist"
    path.mkdir()
    assert desk.refused("table", path) == f"{path} is a folder, not a file; name a file in it"


def test_an_artifact_that_is_there_stays_after_an_error(desk: Desk) -> None:
    desk.accepted(*desk.table(GOOD))
    before = {path: path.read_bytes() for path in (desk.folder / "out").iterdir()}
    for flags in ([], ["--overwrite"], ["--update"]):
        assert desk.refused(*desk.table(GOOD + row(item=""), *flags))
        assert {path: path.read_bytes() for path in (desk.folder / "out").iterdir()} == before


def test_dry_run_checks_and_writes_nothing(desk: Desk) -> None:
    assert "has no column user_id" in desk.refused(*desk.table(GOOD.replace("user_id", "u"), "--dry-run"))
    before = sorted(desk.folder.rglob("*"))
    outcome = desk.run(*desk.table(GOOD, "--dry-run"))
    assert (outcome.code, sorted(desk.folder.rglob("*"))) == (0, before)
    assert "not checked: the rows, which are read when the data set is made" in outcome.stderr


def test_a_dry_run_of_made_data_grows_with_it(desk: Desk) -> None:
    small, large = (
        desk.run("synthetic", "--users", users, "--items", users // 5, "--dry-run", "--json")
        for users in (2_000, 200_000)
    )
    assert "not checked" not in small.stderr + large.stderr
    for what, least, most in (("disk_bytes", 9e4, 1.1e8), ("scratch_bytes", 5e5, 2e8), ("memory_bytes", 2e8, 3e9)):
        assert least < small.json[what] < large.json[what] / 4 < most / 4


# MovieLens

RELEASE = {
    "ratings.dat": "".join(f"{n % 3 + 1}::{n % 4 + 1}::{n % 5 + 1}::{TIME + n}\n" for n in range(12)),
    "movies.dat": "".join(f"{n}::Movie {n} (199{n})::Drama|War\n" for n in range(1, 5)),
    "users.dat": "".join(f"{n}::F::25::3::12345\n" for n in range(1, 4)),
}


def release(desk: Desk, **changed: Content) -> tuple[Any, ...]:
    """The arguments for a release of 1m, some of its files changed or left out."""
    for name, content in RELEASE.items():
        stem = name.removesuffix(".dat")
        desk.write(f"ml/{name}", changed.get(stem, content))
    return ("movielens", "--variant", "1m", "--source", desk.folder / "ml")


def test_the_release_itself_is_accepted(desk: Desk) -> None:
    assert desk.accepted(*release(desk))["counts"] == {"interactions": 12, "items": 4, "users": 3}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"ratings": None},
            r"ml has no ratings.dat \(nor ratings.dat.gz\), which MovieLens 1m has; is it another --variant",
        ),
        ({"movies": None}, r"ml has no movies.dat"),
        ({"ratings": RELEASE["ratings.dat"] + "1::2::three::4\n"}, "ratings.dat, line 13: column rating holds 'three'"),
        ({"ratings": RELEASE["ratings.dat"] + "1::2::3\n"}, "ratings.dat, line 13: 3 columns instead of 4"),
        ({"ratings": RELEASE["ratings.dat"] + "1::2::nan::4\n"}, "ratings.dat, row 13: the rating is not a number"),
        ({"ratings": RELEASE["ratings.dat"] + "1::::3::4\n"}, "ratings.dat, row 13: no item"),
        (
            {"ratings": RELEASE["ratings.dat"].replace("::", ",")},
            "ratings.dat, line 1: column user_id holds '1,1,1,1000000000', which is not a number",
        ),
        ({"ratings": f"1::1::3::{TIME}000\n"}, "ratings.dat, row 1: timestamp 10+ is in ms, not in seconds$"),
        ({"ratings": ""}, "ratings.dat has no rows"),
        ({"ratings": gzip.compress(RELEASE["ratings.dat"].encode())[:-9]}, "ratings.dat is damaged or cut short"),
        (
            {"movies": RELEASE["movies.dat"] + "1::Again (1999)::War\n"},
            "movies.dat, row 5: item_id 1 stands already in row 1",
        ),
        ({"movies": "1::Movie (1991)::War\n"}, r"ratings.dat, row 2: item 2 has no title in movies.dat"),
        ({"movies": RELEASE["movies.dat"] + "7::Half\n"}, "movies.dat, line 5: 2 columns instead of 3"),
        ({"users": RELEASE["users.dat"] + "7::F::25::3\n"}, "users.dat, line 4: 4 columns instead of 5"),
        ({"users": RELEASE["users.dat"] + "7::F::old::3::1\n"}, "users.dat, line 4: the age is not a number"),
        ({"users": RELEASE["users.dat"] * 2}, "users.dat, row .: user_id . stands already in row ."),
    ],
)
def test_a_release_with_a_bad_file(desk: Desk, changed: dict[str, Content], said: str) -> None:
    assert_says(desk.refused(*release(desk, **changed)), said)


def test_a_source_that_is_not_there(desk: Desk) -> None:
    path = desk.folder / "nothing"
    assert desk.refused("movielens", "--variant", "1m", "--source", path) == f"--source {path} does not exist"


def packed(desk: Desk, *more: tuple[str, bytes]) -> Path:
    path = desk.folder / "ml.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in [*((f"ml-1m/{name}", text.encode()) for name, text in RELEASE.items()), *more]:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("keep", [0, 100, -1, -40])
def test_a_cut_zip(desk: Desk, keep: int) -> None:
    path = packed(desk)
    path.write_bytes(path.read_bytes()[:keep])
    error = desk.refused("movielens", "--variant", "1m", "--source", path)
    assert error.startswith(f"{path} is not a whole zip file")


@pytest.mark.parametrize(
    "name", ["../evil.txt", "ml-1m/../../evil.txt", "/tmp/evil.txt", "C:\\evil.txt", "C:/evil.txt"]
)
def test_a_zip_that_leads_elsewhere(desk: Desk, name: str) -> None:
    path = packed(desk, (name, b"evil"))
    error = desk.refused("movielens", "--variant", "1m", "--source", path)
    assert error.startswith(f"{path} is refused: its member")
    assert not list(desk.folder.parent.rglob("evil.txt"))


def test_a_zip_without_the_files(desk: Desk) -> None:
    path = packed(desk)
    error = desk.refused("movielens", "--variant", "20m", "--source", path)
    assert error == (
        f"{path} has no ratings.csv (nor ratings.csv.gz), which MovieLens 20m has; is it another --variant?"
    )


def test_a_download_with_a_wrong_checksum(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cache holds of an old version is not taken for the release, and nothing can be downloaded here."""
    from rectool.caches import cache_folder
    from rectool.data.sources import download, movielens

    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(movielens, "URL", "http://127.0.0.1:9/")
    cached = cache_folder() / "ml-1m.zip"
    cached.parent.mkdir(parents=True)
    shutil.copy(packed(desk), cached)
    error = desk.refused("movielens", "--variant", "1m")
    assert error.startswith("cannot download http://127.0.0.1:9/ml-1m.zip")
    assert error.endswith("--source")
