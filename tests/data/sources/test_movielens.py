"""Made-up releases in the forms of the real ones: as folders, zips, gzipped members and downloads."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rectool.caches import cache_folder
from rectool.data.sources import download, movielens
from rectool.data.sources.movielens import GENRES_100K, RELEASES, natural_title

TIME = 1_000_000_000
TITLES = {1: "Shawshank Redemption, The (1994)", 2: "Misérables, Les (1995)", 3: "Toy Story (1995)", 4: "unknown"}
GENRES = {1: ["Crime", "Drama"], 2: ["Musical"], 3: ["Animation", "Children's", "Comedy"], 4: []}
RATINGS = [
    (user, item, rating, TIME + 10 * user + item) for user in (1, 2, 3) for item, rating in enumerate((5, 3, 1, 4), 1)
]
EXPECTED = [(str(user), str(item), float(rating), time) for user, item, rating, time in RATINGS]

Files = dict[str, bytes]


def hundred_k() -> Files:
    movies = []
    for item, title in TITLES.items():
        flags = ["1" if genre in GENRES[item] else "0" for genre in GENRES_100K]
        movies.append("|".join([str(item), title, "01-Jan-1995", "", "http://us.imdb.com/", *flags]))
    return {
        "u.data": lines("\t".join(map(str, row)) for row in RATINGS).encode(),
        "u.item": lines(movies).encode("latin-1"),
        "u.user": b"1|24|M|technician|85711\n2|53|F|other|94043\n3|23|M|writer|T8H1N\n",
        "u.genre": b"unknown|0\n",
        "README": b"Read me\n",
    }


def dat(encoding: str, *, users: bool) -> Files:
    movies = lines(
        f"{item}::{title}::{'|'.join(GENRES[item]) or '(no genres listed)'}" for item, title in TITLES.items()
    )
    files = {
        "ratings.dat": lines("::".join(map(str, row)) for row in RATINGS).encode(),
        "movies.dat": movies.encode(encoding),
    }
    return files | ({"users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117-1\n"} if users else {})


def csv() -> Files:
    rows = lines(",".join(map(str, row)) for row in RATINGS)
    movies = lines(
        f'{item},"{title}",{"|".join(GENRES[item]) or "(no genres listed)"}'
        if "," in title
        else f"{item},{title},{'|'.join(GENRES[item]) or '(no genres listed)'}"
        for item, title in TITLES.items()
    )
    return {
        "ratings.csv": ("userId,movieId,rating,timestamp\n" + rows).encode(),
        "movies.csv": ("movieId,title,genres\n" + movies).encode(),
        "links.csv": b"movieId,imdbId,tmdbId\n",
    }


def lines(rows: Any) -> str:
    return "".join(row + "\n" for row in rows)


VARIANTS: dict[str, Callable[[], Files]] = {
    "100k": hundred_k,
    "1m": lambda: dat("latin-1", users=True),
    "10m": lambda: dat("utf-8", users=False),
    **dict.fromkeys(("20m", "25m", "32m", "latest-small"), csv),
}


def as_folder(folder: Path, files: Files) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def as_nested_folder(folder: Path, files: Files) -> Path:
    folder.mkdir()
    (folder / "__MACOSX").mkdir()
    as_folder(folder / "ml", files)
    return folder


def as_gzipped_members(folder: Path, files: Files) -> Path:
    return as_folder(folder, {name + ".gz": gzip.compress(content) for name, content in files.items()})


def as_zip(folder: Path, files: Files) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("ml")
        for name, content in files.items():
            archive.writestr(f"ml/{name}", content)
    return path


def as_zip_of_gzipped(folder: Path, files: Files) -> Path:
    return as_zip(folder, {name + ".gz": gzip.compress(content) for name, content in files.items()})


def as_one_of_its_files(folder: Path, files: Files) -> Path:
    as_gzipped_members(folder, files)
    return next(folder.glob("*ratings*.gz"))


FORMS = [as_folder, as_nested_folder, as_gzipped_members, as_zip, as_zip_of_gzipped, as_one_of_its_files]


@pytest.mark.parametrize(
    ("variant", "form"),
    [
        *(("1m", form) for form in FORMS),
        *((variant, form) for variant in ("100k", "10m", "20m") for form in FORMS[::3]),
    ],
)
def test_each_release_in_each_form(prep: Any, tmp_path: Path, variant: str, form: Any) -> None:
    made = prep("movielens", "--variant", variant, "--source", form(tmp_path / "raw", VARIANTS[variant]()))
    assert made.events == EXPECTED
    assert {item: known["title"] for item, known in made.items.items()} == {str(key): TITLES[key] for key in TITLES}
    assert {item: known["genres"] for item, known in made.items.items()} == {str(key): GENRES[key] for key in GENRES}
    assert [known["year"] for known in made.items.values()] == [1994, 1995, 1995, None]
    assert {known["text"] for known in made.items.values()} == {None}


@pytest.mark.parametrize("variant", ["25m", "32m", "latest-small"])
def test_the_other_releases(prep: Any, tmp_path: Path, variant: str) -> None:
    made = prep("movielens", "--variant", variant, "--source", as_zip(tmp_path / "raw", VARIANTS[variant]()))
    assert made.events == EXPECTED
    assert made.items["1"]["title"] == TITLES[1]


@pytest.mark.parametrize(
    ("variant", "users"),
    [
        (
            "100k",
            {
                "1": {"gender": "M", "age": 24, "occupation": "technician", "zip_code": "85711"},
                "2": {"gender": "F", "age": 53, "occupation": "other", "zip_code": "94043"},
                "3": {"gender": "M", "age": 23, "occupation": "writer", "zip_code": "T8H1N"},
            },
        ),
        (
            "1m",
            {
                "1": {"gender": "F", "age": 1, "occupation": "10", "zip_code": "48067"},
                "2": {"gender": "M", "age": 56, "occupation": "16", "zip_code": "70072"},
                "3": {"gender": "M", "age": 25, "occupation": "15", "zip_code": "55117-1"},
            },
        ),
        ("10m", {"1": {}, "2": {}, "3": {}}),
    ],
)
def test_attributes_of_users(prep: Any, tmp_path: Path, variant: str, users: dict[str, Any]) -> None:
    made = prep("movielens", "--variant", variant, "--source", as_folder(tmp_path / "raw", VARIANTS[variant]()))
    assert made.users == users


def test_half_stars_of_10m(prep: Any, tmp_path: Path) -> None:
    files = dat("utf-8", users=False) | {"ratings.dat": b"1::1::0.5::5\n1::2::3.5::6\n1::3::4::7\n"}
    made = prep("movielens", "--variant", "10m", "--source", as_folder(tmp_path / "raw", files))
    assert [rating for _, _, rating, _ in made.events] == [0.5, 3.5, 4.0]


def test_part_of_a_release(prep: Any, tmp_path: Path) -> None:
    files = dat("latin-1", users=True)
    first = files["ratings.dat"].splitlines(keepends=True)[:3]
    made = prep(
        "movielens",
        "--variant",
        "1m",
        "--source",
        as_folder(tmp_path / "raw", files | {"ratings.dat": b"".join(first)}),
    )
    assert list(made.users) == ["1"]
    assert list(made.items) == ["1", "2", "3"]
    assert "2 users of users.dat have no interactions: not stored" in made.notes
    assert "note: 2 users of users.dat have no interactions: not stored" in made.outcome.stderr


def test_a_release_without_its_users(prep: Any, tmp_path: Path) -> None:
    files = dat("latin-1", users=True)
    del files["users.dat"]
    made = prep("movielens", "--variant", "1m", "--source", as_folder(tmp_path / "raw", files))
    assert made.users == {"1": {}, "2": {}, "3": {}}


def test_two_releases_in_one_folder_are_refused(refused: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "raw").mkdir(exist_ok=True)
        as_folder(tmp_path / "raw" / name, csv())
    error = refused("movielens", "--variant", "20m", "--source", tmp_path / "raw")
    assert "raw has more than one ratings.csv" in error


def test_quotes_and_separators_in_titles(prep: Any, tmp_path: Path) -> None:
    movies = (
        "movieId,title,genres\n"
        '1,"""Great Performances"" Cats, The (1998)",Musical\n'
        '2,"Two\nlines",Drama\n'
        "3,'Til There Was You (1997),Drama|Romance\n"
        "4,Ça c'est l'amour; or \"so\" (1957\u20131961),(no genres listed)\n"
    )
    files = csv() | {"movies.csv": movies.encode()}
    made = prep("movielens", "--variant", "32m", "--source", as_folder(tmp_path / "raw", files))
    assert [(known["title"], known["year"]) for known in made.items.values()] == [
        ('"Great Performances" Cats, The (1998)', 1998),
        ("Two\nlines", None),
        ("'Til There Was You (1997)", 1997),
        ("Ça c'est l'amour; or \"so\" (1957\u20131961)", 1957),
    ]


@pytest.mark.parametrize(
    ("movies", "said"),
    [
        ("movieId,title,genres\n1,Half\n", "movies.csv, line 2: 2 columns instead of 3"),
        ('movieId,title,genres\n1,"Open (1999),Drama\n2,Next,War\n', "movies.csv, line 3: unexpected end of data"),
        ("movieId,title,genres\n1," + "x" * 200_000 + ",War\n", "movies.csv, line 2: field larger than field limit"),
    ],
)
def test_a_bad_line_among_the_movies_is_named(refused: Any, tmp_path: Path, movies: str, said: str) -> None:
    source = as_folder(tmp_path / "raw", csv() | {"movies.csv": movies.encode()})
    assert said in refused("movielens", "--variant", "20m", "--source", source)


@pytest.mark.parametrize(
    ("released", "natural"),
    [
        ("Shawshank Redemption, The (1994)", "The Shawshank Redemption (1994)"),
        ("Matrix, The (1999)", "The Matrix (1999)"),
        ("Matrix, The", "The Matrix"),
        ("Beautiful Mind, A (2001)", "A Beautiful Mind (2001)"),
        ("American in Paris, An (1951)", "An American in Paris (1951)"),
        ("Misérables, Les (1995)", "Les Misérables (1995)"),
        ("Avventura, L' (Adventure, The) (1960)", "L'Avventura (The Adventure) (1960)"),
        ("Dolce Vita, La (1960)", "La Dolce Vita (1960)"),
        ("Boot, Das (Boat, The) (1981)", "Das Boot (The Boat) (1981)"),
        ("Postino, Il (Postman, The) (1994)", "Il Postino (The Postman) (1994)"),
        (
            "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
            "The City of Lost Children (La Cité des enfants perdus) (1995)",
        ),
        ("Good, the Bad and the Ugly, The (1966)", "The Good, the Bad and the Ugly (1966)"),
        ("Cook the Thief His Wife & Her Lover, The (1989)", "The Cook the Thief His Wife & Her Lover (1989)"),
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("Monsters, Inc. (2001)", "Monsters, Inc. (2001)"),
        ("Crouching Tiger, Hidden Dragon (2000)", "Crouching Tiger, Hidden Dragon (2000)"),
        ("The Net (1995)", "The Net (1995)"),
        ("Seven (a.k.a. Se7en) (1995)", "Seven (a.k.a. Se7en) (1995)"),
        ("(500) Days of Summer (2009)", "(500) Days of Summer (2009)"),
        ("$9.99 (2008)", "$9.99 (2008)"),
        ("unknown", "unknown"),
        (", The", ", The"),
        ("", ""),
    ],
)
def test_natural_titles(released: str, natural: str) -> None:
    assert natural_title(released) == natural
    assert natural_title(natural) == natural


def test_titles_are_natural_by_a_flag_only(prep: Any, tmp_path: Path) -> None:
    source = as_folder(tmp_path / "raw", csv())
    natural = prep("movielens", "--variant", "20m", "--source", source, "--natural-titles").items
    assert [natural[item]["title"] for item in "123"] == [
        "The Shawshank Redemption (1994)",
        "Les Misérables (1995)",
        TITLES[3],
    ]
    assert [known["year"] for known in natural.values()] == [1994, 1995, 1995, None]


# Downloads


@pytest.fixture
def official(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Serve a release's archive in the place of the official one."""
    monkeypatch.setattr(movielens, "URL", site.url + "/")
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)

    def serve(variant: str, *, md5: str | None = None) -> None:
        content = as_zip(tmp_path / f"official-{variant}", VARIANTS[variant]()).read_bytes()
        release = RELEASES[variant]
        md5 = md5 or hashlib.md5(content).hexdigest()
        site.files["/" + release.archive] = content
        if release.md5 is None:
            site.files[f"/{release.archive}.md5"] = f"MD5 ({release.archive}) = {md5}\n".encode()
        else:
            monkeypatch.setitem(movielens.RELEASES, variant, replace(release, md5=md5))

    return serve


def test_a_release_is_downloaded_once(prep: Any, official: Any, site: Any) -> None:
    official("100k")
    for _ in range(2):
        made = prep("movielens", "--variant", "100k")
        assert made.events == EXPECTED
    assert site.asked == ["/ml-100k.zip"]
    assert (cache_folder() / "ml-100k.zip").read_bytes() == site.files["/ml-100k.zip"]


def test_a_changing_release_fetches_its_checksum(prep: Any, official: Any, site: Any) -> None:
    official("latest-small")
    for _ in range(2):
        assert prep("movielens", "--variant", "latest-small").events == EXPECTED
    assert sorted(set(site.asked)) == ["/ml-latest-small.zip", "/ml-latest-small.zip.md5"]
    assert site.asked.count("/ml-latest-small.zip") == 1


@pytest.mark.parametrize("variant", ["1m", "latest-small"])
def test_a_wrong_checksum_is_refused_and_nothing_kept(refused: Any, prep: Any, official: Any, variant: str) -> None:
    official(variant, md5="0" * 32)
    archive = RELEASES[variant].archive
    error = refused("movielens", "--variant", variant)
    assert f"/{archive} gave" in error
    assert "not md5:" + "0" * 32 in error
    assert not (cache_folder() / archive).exists()
    official(variant)
    assert prep("movielens", "--variant", variant).events == EXPECTED


def test_a_checksum_that_is_none_is_refused(refused: Any, official: Any, site: Any) -> None:
    official("latest-small")
    site.files["/ml-latest-small.zip.md5"] = b"<html>moved</html>"
    assert "holds no MD5 checksum" in refused("movielens", "--variant", "latest-small")


def test_what_is_not_on_the_server_is_one_line(refused: Any, official: Any) -> None:
    assert "answers HTTP 404" in refused("movielens", "--variant", "25m")


def test_a_dry_run_downloads_nothing(rectool: Any, official: Any, site: Any, tmp_path: Path) -> None:
    official("100k")
    outcome = rectool("prep", "movielens", "--variant", "100k", "--out", tmp_path / "out", "--dry-run")
    assert outcome.code == 0
    assert "ml-100k.zip (to be downloaded)" in outcome.stdout
    assert site.asked == []
    assert not (tmp_path / "out").exists()
