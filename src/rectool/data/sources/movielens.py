"""MovieLens releases: the official archives, or the folder, zip or gzipped files of one.

Source: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, 2015.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from rectool.artifacts import Input
from rectool.caches import cache_folder
from rectool.data.engine import Engine
from rectool.data.prepare import Loaded
from rectool.data.sources import archives, download
from rectool.data.sources.settings import MovieLens
from rectool.data.sources.tabular import INTEGER, NUMBER, Tabular, explained
from rectool.errors import RectoolError

URL = "https://files.grouplens.org/datasets/movielens/"
RATINGS = ("user_id", "item_id", "rating", "timestamp")


@dataclass(frozen=True)
class Release:
    """How a release is packed and written.

    Attributes:
        archive: name of the official archive.
        md5: published beside it; None for a release that changes, whose checksum is fetched.
        users: name of the users' file, or None.
    """

    archive: str
    md5: str | None
    ratings: str
    movies: str
    users: str | None
    delimiter: str
    encoding: str = "utf-8"
    has_header: bool = False

    def names(self) -> dict[str, str]:
        """The files' names by role."""
        names = {"ratings": self.ratings, "movies": self.movies}
        return names | {"users": self.users} if self.users is not None else names


def _csv(archive: str, md5: str | None) -> Release:
    return Release(archive, md5, "ratings.csv", "movies.csv", None, ",", has_header=True)


RELEASES = {
    "100k": Release(
        "ml-100k.zip", "0e33842e24a9c977be4e0107933c0723", "u.data", "u.item", "u.user", "\t", encoding="latin-1"
    ),
    "1m": Release(
        "ml-1m.zip",
        "c4d9eecfca2ab87c1945afe126590906",
        "ratings.dat",
        "movies.dat",
        "users.dat",
        "::",
        encoding="latin-1",
    ),
    "10m": Release("ml-10m.zip", "ce571fd55effeba0271552578f2648bd", "ratings.dat", "movies.dat", None, "::"),
    "20m": _csv("ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3"),
    "25m": _csv("ml-25m.zip", "6b51fb2759a8657d3bfcbfc42b592ada"),
    "32m": _csv("ml-32m.zip", "d472be332d4daa821edc399621853b57"),
    "latest-small": _csv("ml-latest-small.zip", None),
}

_GENRES_100K = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
)
GENRES_100K = _GENRES_100K.split()
ARTICLES = "The|A|An|La|Le|Les|L'|El|Los|Las|Lo|Il|I|Gli|Der|Die|Das|Det|Den|En|Et|Ein|Eine|Un|Una|Une|O|Os|As"
_TRAILING_ARTICLE = re.compile(rf"^(?P<name>[^()]+), (?P<article>{ARTICLES})$")
_YEAR = re.compile(r"\((\d{4})(?:[-\u2013]\d{0,4})?\)\s*$")


@dataclass(frozen=True)
class Source:
    """A MovieLens release, at hand or to be downloaded."""

    settings: MovieLens

    @property
    def release(self) -> Release:
        return RELEASES[self.settings.variant]

    @property
    def archive(self) -> Path:
        """Where the official archive is kept once downloaded."""
        return cache_folder() / self.release.archive

    def plan(self) -> list[str]:
        """What would be read. Raises RectoolError if it is not there."""
        if self.settings.source is None:
            state = "downloaded already" if self.archive.exists() else "to be downloaded"
            return [f"{URL}{self.release.archive} ({state})"]
        return [str(item.path) for item in self.inputs()]

    def inputs(self) -> list[Input]:
        """The raw files. Downloads the archive if no source is given.

        Raises:
            RectoolError: a file is missing, or the download fails.
        """
        source = self.settings.source
        if source is None:
            return [Input("archive", self._downloaded, URL + self.release.archive)]
        if source.is_file() and source.name.removesuffix(".gz") in self.release.names().values():
            source = source.parent
        if source.is_file():
            return [Input("archive", source)]
        if not source.is_dir():
            raise RectoolError(f"--source {source} does not exist")
        return [Input(role, path) for role, path in self._in_folder(source, source).items()]

    def load(self, engine: Engine) -> Loaded:
        """Fill the engine's tables (see `rectool.data.log`)."""
        files = {item.role: item.path for item in self.inputs()}
        if "archive" in files:
            into = engine.scratch / "archive"
            archives.extract(files["archive"], list(self.release.names().values()), into)
            files = self._in_folder(into, files["archive"])
        self._load_ratings(engine, files["ratings"])
        engine.register("catalogue", self._movies(files["movies"]))
        if "users" not in files:
            return Loaded(files["ratings"].name, files["movies"].name)
        engine.register("people", self._users(files["users"]))
        return Loaded(files["ratings"].name, files["movies"].name, files["users"].name)

    @cached_property
    def _downloaded(self) -> Path:
        url = URL + self.release.archive
        md5 = self.release.md5 or _published_md5(url + ".md5")
        return download.fetch(url, self.archive, checksum=f"md5:{md5}")

    def _in_folder(self, folder: Path, shown: Path) -> dict[str, Path]:
        """The files by role, in a folder or in the one folder inside it that a release unpacks to.

        Args:
            shown: what to call the folder in messages.
        """
        names = self.release.names()
        inner = sorted(path for path in folder.iterdir() if path.is_dir())
        places = [place for place in (folder, *inner) if _plain_or_gzipped(place / names["ratings"])]
        if len(places) > 1 and places[0] != folder:
            raise RectoolError(f"{shown} has more than one {names['ratings']}: in {places[0]} and in {places[1]}")
        files = {}
        for role, name in names.items():
            found = _plain_or_gzipped((places or [folder])[0] / name)
            if found is not None:
                files[role] = found
            elif role != "users":
                raise RectoolError(
                    f"{shown} has no {name} (nor {name}.gz), which MovieLens {self.settings.variant} has; "
                    f"is it another --variant?"
                )
        return files

    def _load_ratings(self, engine: Engine, path: Path) -> None:
        release = self.release
        table = Tabular(path, release.delimiter, None if release.has_header else RATINGS, quoted=False)
        columns = RATINGS
        if release.has_header:
            columns = ("userId", "movieId", "rating", "timestamp")
            for column in columns:
                table.require(column, "--variant")
        types = zip(columns, (INTEGER, INTEGER, NUMBER, INTEGER), strict=True)
        with explained(path):
            engine.run(f"CREATE TABLE raw AS {table.select(engine, dict(zip(RATINGS, types, strict=True)))}")

    def _movies(self, path: Path) -> pa.Table:
        """item_id, title, text (null), year, genres."""
        ids: list[str] = []
        titles: list[str] = []
        genres: list[list[str]] = []
        for line, fields in self._records(path):
            if self.settings.variant == "100k":
                if len(fields) != 5 + len(GENRES_100K):
                    raise RectoolError(f"{path}, line {line}: {len(fields)} columns instead of {5 + len(GENRES_100K)}")
                names = [name for name, flag in zip(GENRES_100K, fields[5:], strict=True) if flag == "1"]
            else:
                if len(fields) < 3:
                    raise RectoolError(f"{path}, line {line}: {len(fields)} columns instead of 3")
                names = [name for name in fields[-1].split("|") if name != "(no genres listed)"]
            ids.append(fields[0])
            title = fields[1].strip()
            titles.append(natural_title(title) if self.settings.natural_titles else title)
            genres.append(names)
        years = [int(found[1]) if (found := _YEAR.search(title)) else None for title in titles]
        return pa.table(
            {
                "item_id": pa.array(ids, pa.string()),
                "title": pa.array(titles, pa.string()),
                "text": pa.nulls(len(ids), pa.string()),
                "year": pa.array(years, pa.int16()),
                "genres": pa.array(genres, pa.list_(pa.string())),
            }
        )

    def _users(self, path: Path) -> pa.Table:
        """user_id, gender, age, occupation (of 1m: their codes), zip_code; all as released."""
        order = ("user_id", "age", "gender", "occupation", "zip_code")
        if self.settings.variant == "1m":
            order = ("user_id", "gender", "age", "occupation", "zip_code")
        columns: dict[str, list[str]] = {name: [] for name in order}
        for line, fields in self._records(path):
            if len(fields) != len(order):
                raise RectoolError(f"{path}, line {line}: {len(fields)} columns instead of {len(order)}")
            if not re.fullmatch(r"[0-9]{1,3}", fields[order.index("age")]):
                raise RectoolError(f"{path}, line {line}: the age is not a number")
            for name, value in zip(order, fields, strict=True):
                columns[name].append(value)
        ages = pa.array([int(age) for age in columns.pop("age")], pa.int16())
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()} | {"age": ages})

    def _records(self, path: Path) -> list[tuple[int, list[str]]]:
        """(line number, fields) of a small file."""
        if self.release.has_header:
            import csv

            with archives.open_text(path) as file:
                reader = csv.reader(file, strict=True)
                try:
                    next(reader, None)
                    return [(reader.line_num, fields) for fields in reader if fields]
                except csv.Error as problem:
                    raise RectoolError(f"{path}, line {reader.line_num}: {problem}") from None
        delimiter = "|" if self.settings.variant == "100k" else self.release.delimiter
        return [(number, line.split(delimiter)) for number, line in archives.lines(path, self.release.encoding) if line]


def _plain_or_gzipped(path: Path) -> Path | None:
    return next((found for found in (path, path.with_name(path.name + ".gz")) if found.is_file()), None)


def _published_md5(url: str) -> str:
    """The checksum out of a file such as `MD5 (ml-latest-small.zip) = 0123...`."""
    found = re.search(r"\b[0-9a-f]{32}\b", download.fetch_text(url))
    if found is None:
        raise RectoolError(f"{url} holds no MD5 checksum; download the archive elsewhere and pass --source")
    return found[0]


def natural_title(title: str) -> str:
    """Put articles that stand behind a name before it, in the title and in what its brackets hold.

    >>> natural_title("City of Lost Children, The (Cité des enfants perdus, La) (1995)")
    'The City of Lost Children (La Cité des enfants perdus) (1995)'
    """
    parts = re.split(r"(\s*[()]\s*)", title)
    return "".join(_natural(part) for part in parts)


def _natural(name: str) -> str:
    found = _TRAILING_ARTICLE.match(name)
    if found is None:
        return name
    space = "" if found["article"].endswith("'") else " "
    return f"{found['article']}{space}{found['name']}"
