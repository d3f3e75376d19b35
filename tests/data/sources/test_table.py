"""Tables of every form, with columns and files of every name; what is in them stays text."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rectool.errors import RectoolError

TIME = 1_000_000_000  # 2001-09-09 01:46:40 UTC
NAMES = ("user_id", "item_id", "rating", "timestamp")
ROWS = [
    ("u1", "i1", 5.0, TIME),
    ("u1", "i, 2", 3.0, TIME + 1),
    ("é", "i1", 4.0, TIME + 2),
    ("u2", 'i"3"', 1.0, TIME + 3),
]

Rows = Sequence[Sequence[Any]]


def delimited(rows: Rows, names: Sequence[str] | None = NAMES, delimiter: str = ",") -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator="\n")
    if names is not None:
        writer.writerow(names)
    writer.writerows(rows)
    return sink.getvalue().encode()


def json_lines(rows: Rows, names: Sequence[str] = NAMES) -> bytes:
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()


def parquet(rows: Rows, names: Sequence[str] = NAMES) -> bytes:
    return packed(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))))


def packed(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=2)
    return sink.getvalue()


FORMS: dict[str, tuple[str, bytes, list[str]]] = {
    "csv": ("log.csv", delimited(ROWS), []),
    "csv with \\r\\n": ("log.csv", delimited(ROWS).replace(b"\n", b"\r\n"), []),
    "csv without a last line end": ("log.csv", delimited(ROWS).rstrip(b"\n"), []),
    "csv with a byte-order mark": ("log.csv", b"\xef\xbb\xbf" + delimited(ROWS), []),
    "csv with blank lines": ("log.csv", delimited(ROWS[:2]) + b"\n\n" + delimited(ROWS[2:], None), []),
    "gzipped csv": ("log.csv.gz", gzip.compress(delimited(ROWS)), []),
    "gzipped csv in two members": (
        "log.csv.gz",
        gzip.compress(delimited(ROWS[:2])) + gzip.compress(delimited(ROWS[2:], None)),
        [],
    ),
    "csv that is not gzipped": ("log.csv.gz", delimited(ROWS), []),
    "gzipped csv of another name": ("log.csv", gzip.compress(delimited(ROWS)), []),
    "tsv": ("log.tsv", delimited(ROWS, delimiter="\t"), []),
    "gzipped tsv": ("log.tsv.gz", gzip.compress(delimited(ROWS, delimiter="\t")), []),
    "tabs": ("log.dat", delimited(ROWS, delimiter="\t"), ["--delimiter", "TAB"]),
    "tabs by the header": ("log.dat", delimited(ROWS, delimiter="\t"), []),
    "semicolons": ("log.csv", delimited(ROWS, delimiter=";"), ["--delimiter", ";"]),
    "semicolons by the header": ("log.csv", delimited(ROWS, delimiter=";"), []),
    "semicolons by the header, one name with commas": (
        "log.csv",
        delimited([(*row, "x") for row in ROWS], (*NAMES, "a, b"), ";").replace(b"a, b", b'"a, b, c, d, e"'),
        [],
    ),
    "semicolons without a header": ("log.tsv", delimited(ROWS, None, ";"), ["--columns", ",".join(NAMES)]),
    "bars by the header": ("log.tsv.gz", gzip.compress(delimited(ROWS, delimiter="|")), []),
    "commas by the header": ("log.tsv", delimited(ROWS), []),
    "commas, though bars are more": (
        "log.csv",
        delimited([(*row, "x") for row in ROWS], (*NAMES, "a|b|c|d|e|f")),
        [],
    ),
    "bars": ("log.txt", delimited(ROWS, delimiter="|"), ["--delimiter", "|"]),
    "quotes in SQL": ("log.csv", delimited(ROWS, delimiter="'"), ["--delimiter", "'"]),
    "two characters": ("log.csv", delimited(ROWS, delimiter="|").replace(b"|", b"::"), ["--delimiter", "::"]),
    "a wide character": ("log.csv", delimited(ROWS, delimiter="|").replace(b"|", "§".encode()), ["--delimiter", "§"]),
    "no header": ("log.csv", delimited(ROWS, None), ["--columns", ",".join(NAMES)]),
    "latin-1": ("log.csv", delimited(ROWS).decode().encode("latin-1"), ["--encoding", "latin-1"]),
    "gzipped latin-1": (
        "log.csv.gz",
        gzip.compress(delimited(ROWS).decode().encode("latin-1")),
        ["--encoding", "latin-1"],
    ),
    "json lines": ("log.jsonl", json_lines(ROWS), []),
    "json lines in utf-8": (
        "log.jsonl",
        json_lines(ROWS).decode("unicode-escape").replace('i"3"', r"i\"3\"").encode(),
        [],
    ),
    "gzipped json lines": ("log.jsonl.gz", gzip.compress(json_lines(ROWS)), []),
    "json lines of another name": ("log.json", json_lines(ROWS), []),
    "json lines with blank lines": ("log.ndjson", json_lines(ROWS).replace(b"\n", b"\n\n"), []),
    "parquet": ("log.parquet", parquet(ROWS), []),
    "parquet of another name": ("log.PQ", parquet(ROWS), []),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    def write(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("form", FORMS)
def test_each_form_says_the_same(prep: Any, write: Any, form: str) -> None:
    name, content, flags = FORMS[form]
    assert prep("table", write(name, content), *flags).events == ROWS


def test_columns_by_name_in_any_order(prep: Any, write: Any) -> None:
    names = ("when", "a 'b' \"c\"", "select", "Größe; --", "unused")
    rows = [(time, item, user, rating, "x") for user, item, rating, time in ROWS]
    flags = ["--timestamp-column", names[0], "--item-column", names[1], "--user-column", names[2]]
    for name, content in (
        ("log.csv", delimited(rows, names)),
        ("log.jsonl", json_lines(rows, names)),
        ("log.parquet", parquet(rows, names)),
    ):
        made = prep("table", write(name, content), *flags, "--rating-column", names[3])
        assert made.events == ROWS


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "ratings"), [("rating", [1.0, 2.0]), ("Rating", [5.0, 4.0]), ("RATING", [3.0, 3.0])]
)
def test_columns_whose_names_differ_by_case(
    prep: Any, write: Any, form: str, column: str, ratings: list[float]
) -> None:
    names = ("user_id", "item_id", "Rating", "rating", "RATING", "timestamp")
    rows = [("u", "i", 5.0, 1.0, 3.0, TIME), ("u", "j", 4.0, 2.0, 3.0, TIME + 1)]
    content = delimited(rows, names) if form == "csv" else parquet(rows, names)
    made = prep("table", write(f"log.{form}", content), "--rating-column", column)
    assert [rating for _, _, rating, _ in made.events] == ratings


def test_a_column_may_serve_twice_and_names_that_nobody_asks_for_may_be_empty_or_double(prep: Any, write: Any) -> None:
    """pandas leaves its index unnamed."""
    names = ("note", "user_id", "item_id", "", "rating", "timestamp", "note")
    rows = [(0, "u", "i", "x", 2.0, TIME, "word")]
    assert prep("table", write("log.csv", delimited(rows, names))).events == [("u", "i", 2.0, TIME)]
    same = prep("table", write("same.csv", delimited(rows, names)), "--item-column", "user_id")
    assert same.events == [("u", "u", 2.0, TIME)]


def test_fields_that_only_some_objects_have(prep: Any, write: Any) -> None:
    lines = [{"user_id": "u", "item_id": "i", "timestamp": TIME}, dict(zip(NAMES, ROWS[1], strict=True))]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    made = prep("table", write("log.jsonl", content), "--invalid-rows", "drop")
    assert made.events == [ROWS[1]]


def typed(**columns: Any) -> bytes:
    return packed(pa.table({"user_id": ["u", "v"], "item_id": ["i", "j"], "timestamp": [TIME, TIME + 1], **columns}))


@pytest.mark.parametrize("type", [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64(), pa.large_string(), None])
def test_ids_of_any_type(prep: Any, write: Any, type: Any) -> None:
    ids = pa.array([7, 70])
    column = pa.array(["7", "70"]).dictionary_encode() if type is None else ids.cast(type)
    made = prep("table", write("log.parquet", typed(user_id=column, item_id=column)))
    assert [(user, item) for user, item, _, _ in made.events] == [("7", "7"), ("70", "70")]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_parquets_own_times(
    prep: Any, write: Any, monkeypatch: pytest.MonkeyPatch, unit: str, zone: str | None
) -> None:
    """A moment is a moment, wherever it is written and read; --timestamp-unit has no say in it."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    moments = pa.array([-5, TIME]).cast(pa.timestamp("s")).cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    made = prep("table", write("log.parquet", typed(timestamp=moments)), "--timestamp-unit", "ms")
    assert [time for _, _, _, time in made.events] == [-5, TIME]


@pytest.mark.parametrize(
    ("times", "flags", "expected"),
    [
        ([date(2001, 1, 1), date(2001, 1, 2)], [], [978_307_200, 978_393_600]),
        ([1e9, 1e9 + 7], [], [TIME, TIME + 7]),
        (["1000000000", "1000000007"], [], [TIME, TIME + 7]),
        ([datetime(2001, 1, 1, 0, 0, 0, 999_999), datetime(1969, 12, 31, 23, 59, 59, 500_000)], [], [-1, 978_307_200]),
        ([TIME * 1000 + 999, -1], ["--timestamp-unit", "ms"], [-1, TIME]),
        ([TIME * 10**6 + 1, TIME * 10**6], ["--timestamp-unit", "us"], [TIME, TIME]),
        ([TIME * 10**9 + 999_999_999, -1], ["--timestamp-unit", "ns"], [-1, TIME]),
        (
            [
                -1000,
                -1001,
            ],
            ["--timestamp-unit", "ms"],
            [-2, -1],
        ),
        (["2001-09-09 01:46:40", "2001-09-09"], ["--timestamp-unit", "iso"], [999_993_600, TIME]),
        (["2001-09-09T01:46:40Z", "2001-09-09T03:46:41+02:00"], ["--timestamp-unit", "iso"], [TIME, TIME + 1]),
        (["2001-09-09 01:46:40.9", "1969-12-31 23:59:59.5"], ["--timestamp-unit", "iso"], [-1, TIME]),
    ],
)
def test_other_times(prep: Any, write: Any, times: list[Any], flags: list[str], expected: list[int]) -> None:
    made = prep("table", write("log.parquet", typed(timestamp=times)), *flags)
    assert sorted(time for _, _, _, time in made.events) == expected
    if all(isinstance(time, str | int) for time in times):
        rows = [("u", "i", times[0]), ("v", "j", times[1])]
        again = prep("table", write("log.csv", delimited(rows, ("user_id", "item_id", "timestamp"))), *flags)
        assert sorted(time for _, _, _, time in again.events) == expected


@pytest.mark.parametrize(
    ("unit", "times", "expected"),
    [
        ("s", ["1600000000.7", "-1.2"], [-2, 1_600_000_000]),
        ("s", ["1.6000000009e9", "-0.5"], [-1, 1_600_000_000]),
        ("ms", ["1600000000999.7", "-0.5"], [-1, 1_600_000_000]),
        ("ns", ["1599999999999999999", "1600000000000000000"], [1_599_999_999, 1_600_000_000]),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "words.jsonl", "parquet", "words.parquet"])
@pytest.mark.parametrize("flags", [[], ["--invalid-rows", "drop"]])
def test_fractions_of_a_second_are_cut_off(
    prep: Any, write: Any, unit: str, times: list[str], expected: list[int], form: str, flags: list[str]
) -> None:
    values = times if unit == "ns" else [float(time) for time in times]
    rows = [("u", "i", 5.0, times[0]), ("v", "i", 5.0, times[1])]
    numbers = [(*row[:3], int(value) if unit == "ns" else value) for row, value in zip(rows, values, strict=True)]
    content = {
        "csv": delimited(rows),
        "jsonl": json_lines(numbers),
        "words.jsonl": json_lines(rows),
        "parquet": parquet(numbers),
        "words.parquet": parquet(rows),
    }[form]
    made = prep("table", write(f"log.{form}", content), "--timestamp-unit", unit, *flags)
    assert [time for _, _, _, time in made.events] == expected


@pytest.mark.parametrize("form", ["csv", "jsonl", "words.jsonl", "words.parquet"])
@pytest.mark.parametrize("flags", [[], ["--invalid-rows", "drop"]])
def test_labels_may_be_true_and_false(prep: Any, write: Any, form: str, flags: list[str]) -> None:
    names = ("user_id", "item_id", "label", "timestamp")
    words = [("u", "i", "True", TIME), ("v", "i", "FALSE", TIME + 1), ("w", "i", "1.0", TIME + 2)]
    values = [(*row[:2], label, row[3]) for row, label in zip(words, (True, False, 1), strict=True)]
    content = {
        "csv": delimited(words, names),
        "jsonl": json_lines(values, names),
        "words.jsonl": json_lines(words, names),
        "words.parquet": parquet(words, names),
    }[form]
    made = prep("table", write(f"log.{form}", content), *flags)
    assert [row["label"] for row in made.table("interactions")] == [1, 0, 1]


def test_each_file_has_its_own_delimiter(prep: Any, write: Any) -> None:
    made = prep(
        *("table", write("log.csv", delimited(ROWS, delimiter=";"))),
        *("--items", write("items.csv", delimited(ITEMS, ("item_id", "title", "text", "year", "x")))),
        *("--users", write("users.txt", delimited([("u1", 33)], ("user_id", "age"), "|"))),
    )
    assert made.events == ROWS
    assert made.items["i, 2"]["title"] == "'); DROP TABLE log; --"
    assert made.users["u1"] == {"age": "33"}


@pytest.mark.parametrize("type", [pa.int8(), pa.int64(), pa.float64(), pa.bool_()])
def test_labels_and_splits_that_are_ready_made(prep: Any, write: Any, type: Any) -> None:
    content = typed(label=pa.array([1, 0]).cast(type), split=pa.array(["test", "train"], pa.large_string()))
    made = prep("table", write("log.parquet", content))
    assert [(row["label"], row["split"]) for row in made.table("interactions")] == [(1, "test"), (0, "train")]
    assert "--split given: the interactions bring one" in made.outcome.stderr


def test_a_ready_made_split_can_be_passed_over(prep: Any, write: Any) -> None:
    made = prep("table", write("log.parquet", typed(split=["test", "train"])), "--split", "ratio:1,0,0")
    assert {row["split"] for row in made.table("interactions")} == {"train"}


def test_events_without_ratings_are_implicit(prep: Any, write: Any) -> None:
    rows = [row[:2] + row[3:] for row in ROWS]
    made = prep("table", write("log.csv", delimited(rows, ("user_id", "item_id", "timestamp"))))
    assert {(row["rating"], row["label"]) for row in made.table("interactions")} == {(None, None)}
    assert {item: known["title"] for item, known in made.items.items()} == {"i1": "i1", "i, 2": "i, 2", 'i"3"': 'i"3"'}


ITEMS = [
    ("i1", "One; the \u201cfirst\u201d", "A text,\nwith lines.", "1999", "x"),
    ("i, 2", "'); DROP TABLE log; --", "", "", "y"),
    ('i"3"', '"Three"', "  ", "2001", ""),
    ("unused", "Unused", "", "", ""),
]


@pytest.mark.parametrize("form", ["items.csv", "items.jsonl", "items.parquet", "items.tsv.gz"])
def test_items_keep_all_that_is_known(prep: Any, write: Any, form: str) -> None:
    names = ("item_id", "title", "text", "year", "Größe; DROP TABLE log")
    content = {
        "items.csv": delimited(ITEMS, names),
        "items.jsonl": json_lines(ITEMS, names),
        "items.parquet": parquet(ITEMS, names),
        "items.tsv.gz": gzip.compress(delimited(ITEMS, names, "\t")),
    }[form]
    items = prep("table", write("log.csv", delimited(ROWS)), "--items", write(form, content)).items
    assert list(items) == ["i1", "i, 2", 'i"3"']
    assert items["i1"] == {
        "title": "One; the \u201cfirst\u201d",
        "text": "A text,\nwith lines.",
        "year": "1999",
        "Größe; DROP TABLE log": "x",
    }
    assert items["i, 2"]["title"] == "'); DROP TABLE log; --"
    assert items['i"3"']["text"] is None


def test_items_columns_by_name_win_over_those_of_our_names(prep: Any, write: Any) -> None:
    names = ("title", "text", "TITLE", "key", "name", "plot", "item_id")
    rows = [("short", "blurb", "LOUD", item, f"Name of {item}", "A plot.", "7") for item in ("i1", "i, 2", 'i"3"')]
    made = prep(
        *("table", write("log.csv", delimited(ROWS)), "--items", write("items.csv", delimited(rows, names))),
        *("--item-id-column", "key", "--title-column", "name", "--text-column", "plot"),
    )
    assert made.items["i1"] == {
        "title": "Name of i1",
        "text": "A plot.",
        "title_2": "short",
        "text_2": "blurb",
        "TITLE_3": "LOUD",
        "item_id_2": "7",
    }


def test_json_fields_that_differ_by_case_are_refused(refused: Any, write: Any) -> None:
    items = '{"item_id": "i1", "title": "a", "Title": "b"}\n'
    error = refused("table", write("log.csv", delimited(ROWS)), "--items", write("items.jsonl", items))
    assert "items.jsonl: two of its fields differ by case only" in error


def test_users_keep_what_is_known(prep: Any, write: Any) -> None:
    users = write(
        "users.csv", delimited([("u1", 33, "'; --"), ("é", "", "x"), ("w", 1, "y")], ("id", "age", "user_id"))
    )
    made = prep("table", write("log.csv", delimited(ROWS)), "--users", users, "--user-id-column", "id")
    assert made.users == {
        "u1": {"age": "33", "user_id_2": "'; --"},
        "é": {"age": None, "user_id_2": "x"},
        "u2": {"age": None, "user_id_2": None},
    }
    assert "1 users of users.csv have no interactions: not stored" in made.notes
    assert "1 users are not in users.csv: their attributes are null" in made.notes


NASTY = [
    "'); DROP TABLE log; --",
    '"; DROP TABLE raw; --',
    "*",
    "NULL",
    "null",
    "nan",
    "[1]",
    "{}",
    "$1",
    "\\N",
    "#1",
    "é\u2028",
]


def test_values_stay_text(prep: Any, write: Any) -> None:
    rows = [(value, value, 5.0, TIME + place) for place, value in enumerate(NASTY)]
    items = [(value, value) for value in NASTY]
    for name, content, known in (
        ("log.csv", delimited(rows), delimited(items, ("item_id", "title"))),
        ("log.jsonl", json_lines(rows), json_lines(items, ("item_id", "title"))),
        ("log.parquet", parquet(rows), parquet(items, ("item_id", "title"))),
    ):
        log, catalogue = write(name, content), write(name.replace("log", "items"), known)
        made = prep("table", log, "--items", catalogue)
        assert [user for user, _, _, _ in made.events] == NASTY
        assert [item["title"] for item in made.items.values()] == NASTY


@pytest.mark.parametrize(
    ("folder", "form"),
    [
        *(("a b", "csv"), ("it's", "jsonl"), ('a "b"', "parquet"), ("a[1]", "csv"), ("a*", "jsonl"), ("a*", "parquet")),
        *(("a?", "csv"), ("{a,b}", "parquet"), ("$HOME", "csv"), ("~", "jsonl"), ("é;--", "csv"), ("s3:", "csv")),
        *(("rating=3", "csv"), ("rating=3", "jsonl"), ("rating=3", "parquet"), ("-x", "csv")),
    ],
)
def test_files_below_folders_of_any_name(prep: Any, write: Any, folder: str, form: str) -> None:
    content = {"csv": delimited(ROWS), "jsonl": json_lines(ROWS), "parquet": parquet(ROWS)}[form]
    write(f"a1/log.{form}", content[: len(content) // 2])  # what a pattern would find as well
    path = write(f"{folder}/l*[o]?'g\".{form}", content)
    assert prep("table", path).events == ROWS


def test_files_are_found_through_links_and_from_where_we_are(
    prep: Any, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("log.csv", delimited(ROWS))
    (tmp_path / "link.csv").symlink_to("log.csv")
    monkeypatch.chdir(tmp_path)
    assert prep("table", "link.csv").events == ROWS


REVIEWS = ("Id", "Title", "Price", "User_id", "profileName", "review/helpfulness", "review/score", "review/time")
BOOKS = ("Title", "description", "authors", "image", "previewLink", "publisher", "publishedDate", "infoLink")


def test_the_pair_of_amazon_books(prep: Any, write: Any) -> None:
    """Titles are ids, texts have lines and quotes, some rows have no user, some books no title."""
    text = 'He said: "read it", twice.\n\nThen,\r\nhe left, "(2001)"'
    names = (*REVIEWS, "review/summary", "review/text")
    rows = []
    for place in range(400):
        user = "" if place % 10 == 3 else f"A{place % 37}"
        title = [
            "Its Only Art If Its Well Hung!",
            'The "Quoted", Book',
            "Dr. Seuss\u2019s",
            "Not in the catalogue",
            "",
        ][place % 5]
        time = -1 if place == 0 else 940_636_800 + place
        rows.append((f"{place:010}", title, "", user, 'J. "X", Y', "7/10", float(place % 5 + 1), time, "so, so", text))
    books = [
        ("Its Only Art If Its Well Hung!", "", "['Julie Strain']", "http://x/y?a=b,c", "", "", "1996", ""),
        ('The "Quoted", Book', 'A "description",\nwith lines', "['A', \"B\"]", "", "", "", "2005", ""),
        ("", "a book without a title", "", "", "", "", "", ""),
        ("Dr. Seuss\u2019s", "Rhymes", "", "", "", "", "", ""),
        ("Never reviewed", "", "", "", "", "", "", ""),
    ]
    made = prep(
        *("table", write("Books_rating.csv", delimited(rows, names))),
        *("--items", write("books_data.csv", delimited(books, BOOKS)), "--user-column", "User_id"),
        *("--item-column", "Title", "--rating-column", "review/score", "--timestamp-column", "review/time"),
        *("--item-id-column", "Title", "--title-column", "Title", "--text-column", "description"),
        *("--invalid-rows", "drop", "--untitled", "drop"),
    )
    kept = [row for row in rows if row[3] and row[1] and row[1] != "Not in the catalogue"]
    assert 100 < len(kept) < 300
    assert made.events == sorted(((row[3], row[1], row[6], row[7]) for row in kept), key=lambda event: event[3])
    assert set(made.items) == {book[0] for book in books} - {"", "Never reviewed"}
    assert made.items['The "Quoted", Book'] == {
        "title": 'The "Quoted", Book',
        "text": 'A "description",\nwith lines',
        **dict(zip(BOOKS[2:], ("['A', \"B\"]", None, None, None, "2005", None), strict=True)),
    }
    assert made.notes[:4] == [
        "40 rows of Books_rating.csv dropped: no user",
        "80 rows of Books_rating.csv dropped: no item",
        "1 rows of books_data.csv dropped: no item_id",
        "1 items without a title in books_data.csv dropped, with 40 rows",
    ]


def test_long_quoted_texts_over_many_buffers(prep: Any, write: Any) -> None:
    """Rows are found where quoted texts full of line ends, quotes and commas are cut by threads and buffers."""
    noise = 'line, "1"\n5,u9,7,100\r\n"",\n' * 40
    names = (*NAMES, "text")
    rows = [
        (f"u{place % 50}", f"i{place % 70}", float(place % 5), TIME + place, noise * (place % 12))
        for place in range(9000)
    ]
    content = delimited(rows, names)
    assert len(content) > 32_000_000
    made = prep("table", write("log.csv", content), "--threads", "4")
    assert made.events == [row[:4] for row in rows]


def test_a_table_without_its_settings_is_refused() -> None:
    from rectool.data.sources.tabular import Tabular

    with pytest.raises(RectoolError, match="--encoding klingon"):
        Tabular(Path("log.csv"), encoding="klingon")


def test_rows_whose_numbers_are_words_are_dropped_on_request(prep: Any, write: Any) -> None:
    rows = [("u", "a", "1", "5"), ("u", "b", "2", "good"), ("v", "a", "soon", "4"), ("v", "b", "4", "1")]
    log = write("log.csv", delimited(rows, ("user_id", "item_id", "timestamp", "rating")))
    made = prep("table", log, "--invalid-rows", "drop")
    assert [rating for _, _, rating, _ in made.events] == [5.0, 1.0]
    assert made.outcome.json["metrics"]["notes"][:2] == [
        "1 rows of log.csv dropped: no timestamp",
        "1 rows of log.csv dropped: the rating is not a number",
    ]
