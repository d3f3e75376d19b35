"""Made-up dumps in the forms of 2014, 2018 and 2023: with the names, quotes and dirt of the real ones."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rectool.caches import cache_folder
from rectool.data.sources import amazon, download
from rectool.data.sources.amazon import EDITIONS, plain_text

TIME = 1_400_000_000
EVENTS = [
    ("A1", "B1", 5.0, TIME),
    ("A1", "B2", 3.0, TIME + 1),
    ("A2", "B1", 4.0, TIME + 2),
    ("A3", "B3", 1.0, TIME + 3),
]


def reviews(year: str) -> str:
    """One review on each line, with the fields that a log has no use for."""
    made = []
    for user, item, rating, time in EVENTS:
        if year == "2023":
            record = {
                "rating": rating,
                "title": 'So "good"',
                "text": "line\nbreak",
                "images": [],
                "asin": item + "-red",
                "parent_asin": item,
                "user_id": user,
                "timestamp": time * 1000 + 999,
                "helpful_vote": 0,
                "verified_purchase": True,
            }
        else:
            record = {
                "reviewerID": user,
                "asin": item,
                "reviewerName": 'J. "Doe"',
                "reviewText": "a, b\tc\u2028d",
                "overall": rating,
                "summary": "ok",
                "unixReviewTime": time,
                "reviewTime": "05 13, 2014",
            }
            record |= {"helpful": [2, 3]} if year == "2014" else {"verified": True, "style": {"Format:": " Hardcover"}}
        made.append(json.dumps(record))
    return "\n".join(made) + "\n"


LITERALS = r"""
{'asin': 'B1', 'title': "Tom's &amp; Jerry&#39;s <b>Best</b>", 'brand': 'ACME', 'price': 3.5, 'salesRank': {'Toys': 7},
'related': {'also_bought': ['B2']}, 'categories': [['Toys', 'Cats &amp; Mice'], ['Toys', 'Gifts']], 'imUrl': None}
{'description': 'He said \'yes\'; "no", \\ and \x41',
'title': '{\'asin\': \'fake\'} # , \u00e9', 'asin': 'B2', 'categories': [[]]}
{'asin': 'B3', 'title': '''; DROP TABLE log; --''', 'description': '', 'categories': [['Books']]}
{'asin': 'B4', 'title': 'Nobody bought it'}
""".strip().replace(",\n'", ", '")

METADATA: dict[str, str] = {
    "2014": LITERALS + "\n",
    "2018": "\n".join(
        json.dumps(record)
        for record in (
            {
                "asin": "B1",
                "title": "Tom's &amp; Jerry's <span class=\"x\">Best</span>",
                "description": ["First part.", "", "Second &lt;part&gt;."],
                "brand": "ACME",
                "category": ["Toys", "Cats &amp; Mice"],
            },
            {"asin": "B2", "title": "Two", "description": [], "category": [], "brand": ""},
            {"asin": "B1", "title": "B1 again, another title", "category": ["Other"]},
            {"asin": "B3", "title": "Three"},
        )
    )
    + "\n",
    "2023": "\n".join(
        json.dumps(record)
        for record in (
            {
                "main_category": "Toys",
                "title": "Tom&#39;s",
                "parent_asin": "B1",
                "store": "ACME Store",
                "description": ["One.", "Two."],
                "categories": ["Toys", "Cats"],
                "price": None,
                "details": {"Brand": "x"},
            },
            {"parent_asin": "B2", "title": "Two", "store": None, "description": [], "categories": []},
            {"parent_asin": "B3", "title": "Three", "store": None, "description": [], "categories": []},
        )
    )
    + "\n",
}


@pytest.fixture
def dump(tmp_path: Path) -> Callable[..., tuple[Any, ...]]:
    """Write a dump; the flags that name its files."""

    def write(
        year: str = "2014",
        *,
        reviews_text: str | None = None,
        metadata: str | bytes | None = None,
        gzipped: bool = False,
    ) -> tuple[Any, ...]:
        content = reviews_text if reviews_text is not None else reviews(year)
        known = metadata if metadata is not None else METADATA[year]
        suffix = ".json.gz" if gzipped else ".json"
        paths = tmp_path / f"reviews_Toys{suffix}", tmp_path / f"meta_Toys{suffix}"
        for path, text in zip(paths, (content, known), strict=True):
            raw = text if isinstance(text, bytes) else text.encode()
            path.write_bytes(gzip.compress(raw) if gzipped else raw)
        return "amazon", "--reviews", paths[0], "--metadata", paths[1]

    return write


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("year", ["2014", "2018", "2023"])
def test_each_edition(prep: Any, dump: Any, year: str, gzipped: bool) -> None:
    made = prep(*dump(year, gzipped=gzipped))
    assert made.events == EVENTS
    assert set(made.items) == {"B1", "B2", "B3"}


def test_products_of_2014_are_python_literals(prep: Any, dump: Any) -> None:
    assert prep(*dump("2014")).items == {
        "B1": {
            "title": "Tom's & Jerry's Best",
            "text": None,
            "brand": "ACME",
            "categories": ["Toys", "Cats & Mice", "Gifts"],
        },
        "B2": {
            "title": "{'asin': 'fake'} # , é",
            "text": "He said 'yes'; \"no\", \\ and A",
            "brand": None,
            "categories": [],
        },
        "B3": {"title": "; DROP TABLE log; --", "text": None, "brand": None, "categories": ["Books"]},
    }


def test_products_of_2018_have_lists_and_stand_twice(prep: Any, dump: Any) -> None:
    assert prep(*dump("2018")).items == {
        "B1": {
            "title": "Tom's & Jerry's Best",
            "text": "First part. Second .",
            "brand": "ACME",
            "categories": ["Toys", "Cats & Mice"],
        },
        "B2": {"title": "Two", "text": None, "brand": None, "categories": []},
        "B3": {"title": "Three", "text": None, "brand": None, "categories": []},
    }


def test_products_of_2023_are_the_parents(prep: Any, dump: Any) -> None:
    assert prep(*dump("2023")).items["B1"] == {
        "title": "Tom's",
        "text": "One. Two.",
        "brand": "ACME Store",
        "categories": ["Toys", "Cats"],
    }


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').system('touch {pwned}')",
        "{{'asin': 'B1', 'title': __import__('os').system('touch {pwned}')}}",
        "{{'asin': 'B1', 'title': open('{pwned}', 'w').name}}",
        "[print('x', file=open('{pwned}', 'w')) for _ in (1,)]",
        "(lambda: open('{pwned}', 'w'))()",
        "{{'asin': f'{{open(\"{pwned}\", \"w\")}}'}}",
        'exec(\'open("{pwned}", "w")\')',
    ],
)
def test_metadata_is_never_evaluated(refused: Any, dump: Any, tmp_path: Path, line: str) -> None:
    pwned = tmp_path / "pwned"
    content = METADATA["2014"] + line.format(pwned=pwned) + "\n"
    assert "meta_Toys.json, line 5: not a product" in refused(*dump("2014", metadata=content))
    assert not pwned.exists()


@pytest.mark.parametrize(
    "line",
    [
        "{'asin': 'B9', 'title': 'cut",
        "garbage",
        "[]",
        "42",
        "{'title': 'no id'}",
        '{"asin": 7}',
        "{" * 100_000,
        "(" * 100_000,
        "-" * 100_000 + "1",
        "'" + "\\" * 99_999,
        "\0",
        "1" + "0" * 10_000,
    ],
)
def test_a_malformed_product_is_named_by_its_line(refused: Any, dump: Any, line: str) -> None:
    error = refused(*dump("2014", metadata=METADATA["2014"] + "\n" + line + "\n" + METADATA["2014"]))
    assert "meta_Toys.json, line 6: not a product (a JSON object with asin or parent_asin)" in error


def test_metadata_of_another_encoding_is_named_by_its_line(refused: Any, dump: Any) -> None:
    content = METADATA["2018"].encode() + '{"asin": "B9", "title": "caf\xe9"}\n'.encode("latin-1")
    assert "meta_Toys.json is not UTF-8 at line 5" in refused(*dump("2018", metadata=content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + "garbage\n", "reviews_Toys.json, line 5"),
        (
            lambda text: text + text.splitlines()[0].replace("5.0", '"five"') + "\n",
            'reviews_Toys.json, line 5: "five" is not',
        ),
        (lambda text: text + '{"reviewerID": "A9"}\n', "reviews_Toys.json, row 5: no item"),
        (lambda text: text.replace('"A2"', "null"), "reviews_Toys.json, row 3: no user"),
        (lambda text: text.replace("4.0", "NaN"), "reviews_Toys.json, row 3: the rating is not a number"),
        (lambda text: text.replace("reviewerID", "who"), "is no Amazon review file of 2014, 2018 or 2023"),
        (
            lambda text: text.replace(str(TIME + 3), str(TIME * 1000)),
            "reviews_Toys.json, row 4: timestamp 14.* is in ms",
        ),
        (lambda text: "", "reviews_Toys.json is empty"),
    ],
)
def test_a_bad_review_is_named(refused: Any, dump: Any, change: Callable[[str], str], said: str) -> None:
    error = refused(*dump("2014", reviews_text=change(reviews("2014"))))
    assert re.search(said, error), error


def test_cut_gzip_is_named(refused: Any, dump: Any) -> None:
    arguments = dump("2014", reviews_text=reviews("2014") * 500, gzipped=True)
    whole = arguments[2].read_bytes()
    arguments[2].write_bytes(whole[:-9])
    assert "reviews_Toys.json.gz is damaged or cut short" in refused(*arguments)
    arguments[2].write_bytes(whole)
    arguments[4].write_bytes(arguments[4].read_bytes()[:-9])
    assert "meta_Toys.json.gz at line" in refused(*arguments)


@pytest.mark.parametrize("untitled", ["drop", "id", "error", None])
def test_products_without_a_title(prep: Any, refused: Any, dump: Any, untitled: str | None) -> None:
    """B2 has none but tags and blanks, B3 is not in the metadata."""
    metadata = '{"asin": "B1", "title": "One"}\n{"asin": "B2", "title": " <br> &nbsp; "}\n'
    arguments = dump("2018", metadata=metadata)
    if untitled == "error":
        error = refused(*arguments, "--untitled", untitled)
        assert error.startswith(
            "reviews_Toys.json, row 2: item B2 has no title in meta_Toys.json (2 such items in 2 rows)"
        )
        return
    made = prep(*arguments, *(() if untitled is None else ("--untitled", untitled)))
    titles = {item: known["title"] for item, known in made.items.items()}
    assert titles == ({"B1": "One", "B2": "B2", "B3": "B3"} if untitled == "id" else {"B1": "One"})
    assert any("2 items without a title in meta_Toys.json" in note for note in made.notes)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Tom's &amp; Co", "Tom's & Co"),
        ("a &amp;quot;b&amp;quot;", 'a "b"'),
        ("<p>One</p><br/>two", "One two"),
        ("3 < 4 and 5 > 2, <3", "3 < 4 and 5 > 2, <3"),
        ("a<!-- no -->b</i>c", "a b c"),
        ("  a \n\t b\u00a0c ", "a b c"),
        (["a", None, " b", 3], "a b"),
        ([], None),
        ("", None),
        ("<br>", None),
        (None, None),
        (7, None),
        ({"a": 1}, None),
        ("lone \ud800 surrogate", "lone ? surrogate"),
    ],
)
def test_plain_text(raw: Any, text: str | None) -> None:
    assert plain_text(raw) == text


def test_an_endless_tag_takes_no_time() -> None:
    assert plain_text("<" * 200_000) == "<" * 200_000


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give either --reviews FILE --metadata FILE, or --category NAME"),
        (["--reviews", "r"], "--metadata is missing"),
        (["--metadata", "m"], "--reviews is missing"),
        (["--reviews", "r", "--metadata", "m", "--category", "Toys"], "give either --reviews FILE --metadata FILE, or"),
        (["--category", "../Toys"], "--category ../Toys is written like Video_Games"),
        (["--category", ""], "is written like Video_Games"),
        (["--category", "Toys", "--year", "2023", "--core", "5"], "--core 5: the 2023 edition has none"),
        (["--category", "Toys", "--year", "2020"], "--year"),
        (["--reviews", "nowhere", "--metadata", "nowhere"], "nowhere cannot be read: No such file"),
    ],
)
def test_flags_that_do_not_go_together(refused: Any, flags: list[str], said: str) -> None:
    assert said in refused("amazon", "--split", "leave-one-out", *flags)


# Downloads


@pytest.fixture
def official(site: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Serve an edition's Toys in the place of the official ones."""
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)

    def serve(year: str) -> None:
        edition = EDITIONS[year]
        here = replace(
            edition,
            full=site.url + "/full_{category}.json.gz",
            five_core=edition.five_core and site.url + "/core_{category}.json.gz",
            metadata=site.url + "/meta_{category}.json.gz",
        )
        monkeypatch.setitem(amazon.EDITIONS, year, here)
        first = reviews(year).splitlines()[0].encode() + b"\n"
        site.files["/full_Toys.json.gz"] = gzip.compress(reviews(year).encode())
        site.files["/core_Toys.json.gz"] = gzip.compress(first)
        site.files["/meta_Toys.json.gz"] = gzip.compress(METADATA[year].encode())

    return serve


@pytest.mark.parametrize(
    ("year", "flags", "asked", "rows"),
    [
        ("2014", [], "/core_Toys.json.gz", 1),
        ("2014", ["--core", "full"], "/full_Toys.json.gz", 4),
        ("2018", ["--core", "5"], "/core_Toys.json.gz", 1),
        ("2023", [], "/full_Toys.json.gz", 4),
    ],
)
def test_a_category_is_downloaded_once(
    prep: Any, official: Any, site: Any, year: str, flags: list[str], asked: str, rows: int
) -> None:
    official(year)
    for _ in range(2):
        made = prep("amazon", "--category", "Toys", "--year", year, *flags)
        assert made.events == EVENTS[:rows]
    assert site.asked == [asked, "/meta_Toys.json.gz"]


def test_a_page_in_the_place_of_a_file_is_refused(refused: Any, official: Any, site: Any) -> None:
    official("2014")
    site.files["/core_Toys.json.gz"] = b"<html>moved</html>"
    assert "/core_Toys.json.gz gave no gzip file" in refused("amazon", "--category", "Toys")
    assert list(cache_folder().rglob("core_Toys.json.gz")) == []


def test_a_category_that_is_not_there_is_one_line(refused: Any, official: Any) -> None:
    official("2023")
    assert "full_Nothing.json.gz answers HTTP 404" in refused("amazon", "--category", "Nothing", "--year", "2023")
