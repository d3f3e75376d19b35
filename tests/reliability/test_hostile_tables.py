"""Raw tables of a stranger's: delimited text, JSON lines, Parquet, gzip, MovieLens and Amazon files, archives.

By hand: `RECTOOL_FUZZ=500 pytest tests/reliability/test_hostile_tables.py`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Door = Callable[..., Any]
TIME = 1_000_000_000
ROWS = [(f"u{n % 3}", f"i{n % 4}", n % 5 + 1, TIME + n) for n in range(12)]
CSV = "user_id,item_id,rating,timestamp\n" + "".join(",".join(map(str, row)) + "\n" for row in ROWS)
LINES = "".join(
    json.dumps(dict(zip(("user_id", "item_id", "rating", "timestamp"), row, strict=True))) + "\n" for row in ROWS
)
REVIEWS = LINES.replace("item_id", "parent_asin")
METADATA = "".join(json.dumps({"parent_asin": f"i{n}", "title": f"Item {n}"}) + "\n" for n in range(4))
RELEASE = {
    "ratings.dat": "".join(f"{n % 3 + 1}::{n % 4 + 1}::{n % 5 + 1}::{TIME + n}\n" for n in range(12)),
    "movies.dat": "".join(f"{n}::Movie {n} (199{n})::Drama|War\n" for n in range(1, 5)),
    "users.dat": "".join(f"{n}::F::25::3::12345\n" for n in range(1, 4)),
}


def parquet() -> bytes:
    columns = dict(zip(("user_id", "item_id", "rating", "timestamp"), zip(*ROWS, strict=True), strict=True))
    out = io.BytesIO()
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), out)
    return out.getvalue()


def zipped(files: dict[str, str] = RELEASE) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"ml-1m/{name}", text)
    return out.getvalue()


FORMS: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "csv": ({"log.csv": CSV.encode()}, ("table", "log.csv")),
    "tsv": ({"log.tsv": CSV.replace(",", "\t").encode()}, ("table", "log.tsv")),
    "json lines": ({"log.jsonl": LINES.encode()}, ("table", "log.jsonl")),
    "gzip": ({"log.csv.gz": gzip.compress(CSV.encode())}, ("table", "log.csv.gz")),
    "parquet": ({"log.parquet": parquet()}, ("table", "log.parquet")),
    "items": (
        {
            "items.csv": b"item_id,title\n" + b"".join(b"i%d,Item %d\n" % (n, n) for n in range(4)),
            "log.csv": CSV.encode(),
        },
        ("table", "log.csv", "--items", "items.csv"),
    ),
    "movielens": (
        {f"ml/{name}": text.encode() for name, text in RELEASE.items()},
        ("movielens", "--variant", "1m", "--source", "ml"),
    ),
    "zip": ({"ml.zip": zipped()}, ("movielens", "--variant", "1m", "--source", "ml.zip")),
    "amazon": (
        {"reviews.jsonl": REVIEWS.encode(), "meta.jsonl": METADATA.encode()},
        ("amazon", "--reviews", "reviews.jsonl", "--metadata", "meta.jsonl"),
    ),
}


@pytest.fixture
def prep(tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run `rectool prep` in a folder of these files alone; what fails leaves nothing behind."""
    desk = tmp_path / "desk"

    def run(files: dict[str, bytes], *words: object, **limits: Any) -> Any:
        shutil.rmtree(desk, ignore_errors=True)
        for name, content in files.items():
            path = desk / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        desk.mkdir(exist_ok=True)
        monkeypatch.chdir(desk)
        outcome = door("prep", *words, "--threads", 1, "--out", "out", **limits)
        if outcome.code == 2:
            assert {path.name for path in desk.iterdir()} <= {name.split("/")[0] for name in files}, outcome.error
        return outcome

    return run


@pytest.mark.parametrize("form", FORMS)
def test_changed_bytes(form: str, prep: Any) -> None:
    files, words = FORMS[form]
    for number in range(hostile.examples(2)):
        said = f"{form} {hostile.SEED} {number}"
        chance = random.Random(said)
        name = chance.choice(sorted(files))
        content = chance.choice(hostile.BYTES)(files[name], chance)
        if name.endswith(".gz") and chance.random() < 0.5:
            content = gzip.compress(chance.choice(hostile.BYTES)(CSV.encode(), chance))
        try:
            prep(files | {name: content}, *words)
        except (AssertionError, hostile.Hung) as problem:
            raise AssertionError(f"{name} of example {said!r}: {problem}") from problem


ODD_TEXTS = st.one_of(
    st.text(max_size=30).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text)),
    st.sampled_from(
        [
            "\x1b[31mred\x1b[0m",
            "\u202egnp.exe",
            "\x9b2J",
            "\0",
            "\u200f",
            "=1+1",
            "<script>alert(1)</script>",
            "{title}",
        ]
    ),
    st.sampled_from(["<|endoftext|>", "<s>", "</s>", "nan", "NULL", "", " ", '"', "'; DROP TABLE raw; --", "a" * 5000]),
)


@settings(
    max_examples=hostile.examples(4),
    derandomize=not hostile.MORE,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(titles=st.lists(ODD_TEXTS, min_size=4, max_size=4), item=ODD_TEXTS)
def test_titles_and_ids_of_any_text_come_out_as_they_were(titles: list[str], item: str, prep: Any) -> None:
    """What can be an id or a title is kept as it is, whatever is in it; nothing of it reaches a terminal raw."""
    ids = [item, "i1", "i2", "i3"]
    rows = "".join(
        json.dumps({"user_id": f"u{n % 3}", "item_id": ids[n % 4], "rating": 3, "timestamp": TIME + n}) + "\n"
        for n in range(12)
    )
    items = "".join(json.dumps({"item_id": a, "title": b}) + "\n" for a, b in zip(ids, titles, strict=True))
    outcome = prep(
        {"log.jsonl": rows.encode(), "items.jsonl": items.encode()}, "table", "log.jsonl", "--items", "items.jsonl"
    )
    if outcome.code == 0:
        kept = pq.read_table("out/items.parquet")
        assert dict(zip(kept["item_id"].to_pylist(), kept["title"].to_pylist(), strict=True)) == dict(
            zip(ids, titles, strict=True)
        )


@pytest.mark.parametrize(
    "number",
    ["1e999", "-1e999", "NaN", "Infinity", "9" * 400, "9" * 5000, "[" * 2000 + "]" * 2000, "true", '"5"', "{}"],
)
def test_odd_values_in_json_lines(number: str, prep: Any) -> None:
    for field in ("rating", "timestamp", "item_id") if hostile.MORE else ("timestamp",):
        line = {"user_id": '"u"', "item_id": '"i"', "rating": "3", "timestamp": str(TIME)} | {field: number}
        text = "{" + ", ".join(f'"{name}": {value}' for name, value in line.items()) + "}\n"
        prep({"log.jsonl": (LINES + text).encode()}, "table", "log.jsonl")


def test_a_column_whose_name_is_no_text(prep: Any) -> None:
    outcome = prep({"log.parquet": parquet().replace(b"user_id", b"\xffser_id")}, "table", "log.parquet")
    assert outcome.code == 2
    assert "log.parquet" in outcome.error


# Bombs and endless lines


def test_a_parquet_that_says_absurdly_many_rows(prep: Any) -> None:
    """A column of one value is a few bytes, however long: 3 million of them in 40 kB."""
    ones = pa.repeat(pa.scalar(1, pa.int64()), 3_000_000)
    out = io.BytesIO()
    pq.write_table(pa.table(dict.fromkeys(("user_id", "item_id", "timestamp"), ones)), out, compression="zstd")
    outcome = prep({"log.parquet": out.getvalue()}, "table", "log.parquet")
    assert outcome.code == 2
    assert "log.parquet" in outcome.error
    assert "as a bomb does" in outcome.error


def test_a_parquet_that_swells(prep: Any) -> None:
    out = io.BytesIO()
    titles = pa.array(["a" * 1_000_000] * 120)
    pq.write_table(
        pa.table({"item_id": [f"i{n}" for n in range(120)], "title": titles}),
        out,
        compression="zstd",
        use_dictionary=False,
    )
    outcome = prep(
        {"items.parquet": out.getvalue(), "log.csv": CSV.encode()}, "table", "log.csv", "--items", "items.parquet"
    )
    assert outcome.code == 2
    assert "items.parquet is refused" in outcome.error


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_line_without_an_end(name: str, prep: Any, tmp_path: Path) -> None:
    """A gigabyte of nothing in a sparse file, or a fifth of it."""
    path = tmp_path / name
    path.write_text(CSV if name == "log.csv" else LINES)
    with path.open("r+b") as file:
        file.truncate(1 << 30 if hostile.MORE else 200_000_000)
    outcome = prep({}, "table", path, memory=1 << 30)
    assert outcome.code == 2
    assert name in outcome.error


def test_a_title_of_100_megabytes(prep: Any) -> None:
    """Of 20 in the short form: it is kept, and nobody is shown the whole of it."""
    out = io.BytesIO()
    noise = random.Random(0).randbytes(50_000_000 if hostile.MORE else 10_000_000).hex()
    pq.write_table(pa.table({"item_id": ["i0", "i1", "i2", "i3"], "title": [noise, "b", "c", "d"]}), out)
    outcome = prep(
        {"items.parquet": out.getvalue(), "log.csv": CSV.encode()},
        *("table", "log.csv", "--items", "items.parquet"),
        memory=3 << 30,
    )
    assert len(outcome.stdout + outcome.stderr) < 20_000


def test_a_zip_in_a_zip_is_no_release(prep: Any) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("inner.zip", zipped())
    outcome = prep({"ml.zip": out.getvalue()}, "movielens", "--variant", "1m", "--source", "ml.zip")
    assert outcome.code == 2
    assert "ml.zip has no ratings.dat" in outcome.error


def test_a_zip_that_says_less_than_it_holds(prep: Any) -> None:
    """The size of a member is changed in both of its headers: what comes out is measured, not believed."""
    content = zipped({**RELEASE, "ratings.dat": RELEASE["ratings.dat"] + " " * 3_000_000})
    size = len(RELEASE["ratings.dat"]) + 3_000_000
    lying = content.replace(struct.pack("<I", size), struct.pack("<I", 100))
    assert lying != content
    outcome = prep({"ml.zip": lying}, "movielens", "--variant", "1m", "--source", "ml.zip")
    assert outcome.code == 2
    assert "ml.zip is not a whole zip file" in outcome.error


def test_an_archive_of_very_many_members(prep: Any) -> None:
    """Of 100,000, or 2,000: names are looked at, and nothing of them is written."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(100_000 if hostile.MORE else 2_000):
            archive.writestr(f"ml-1m/{number}", "")
        for name, text in RELEASE.items():
            archive.writestr(f"ml-1m/{name}", text)
    assert prep({"ml.zip": out.getvalue()}, "movielens", "--variant", "1m", "--source", "ml.zip").code == 0


def test_a_tar_is_not_unpacked(prep: Any) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        link = tarfile.TarInfo("ml-1m/ratings.dat")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    outcome = prep({"ml.tar.gz": out.getvalue()}, "movielens", "--variant", "1m", "--source", "ml.tar.gz")
    assert outcome.code == 2
    assert "ml.tar.gz" in outcome.error


# What is no file


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("table", "pipe.csv"), "pipe.csv"),
        (("table", "pipe.parquet"), "pipe.parquet"),
        (("table", "log.csv", "--items", "pipe.csv"), "pipe.csv"),
        (("table", "log.csv", "--settings", "pipe.csv"), "pipe.csv"),
        (("table", "log.csv", "--settings", "/dev/zero"), "/dev/zero"),
        (("movielens", "--variant", "1m", "--source", "pipe.csv"), "pipe.csv"),
        (("movielens", "--variant", "1m", "--source", "/dev/zero"), "/dev/zero"),
        (("amazon", "--reviews", "pipe.csv", "--metadata", "meta.jsonl"), "pipe.csv"),
        (("amazon", "--reviews", "reviews.jsonl", "--metadata", "pipe.csv"), "pipe.csv"),
        (("amazon", "--reviews", "reviews.jsonl", "--metadata", "/dev/zero"), "/dev/zero"),
    ],
)
def test_pipes_and_devices_are_no_files(words: tuple[str, ...], named: str, prep: Any, tmp_path: Path) -> None:
    """A pipe that nobody writes to is waited for without end by whoever opens it."""
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.parquet")
    files = {"log.csv": CSV.encode(), "reviews.jsonl": REVIEWS.encode(), "meta.jsonl": METADATA.encode()}
    given = [tmp_path / word if word.startswith("pipe") else word for word in words]
    outcome = prep(files, *given, seconds=20)
    assert outcome.code == 2
    assert named in outcome.error
