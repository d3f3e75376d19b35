"""Amazon review dumps of 2014, 2018 and 2023: reviews in JSON lines, product metadata beside them.

Sources: McAuley et al., SIGIR 2015 (2014); Ni et al., EMNLP 2019 (2018); Hou et al., 2024 (2023).
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rectool.artifacts import Input
from rectool.caches import cache_folder
from rectool.data.engine import Engine, literal
from rectool.data.prepare import Loaded
from rectool.data.sources import archives, download
from rectool.data.sources.settings import Amazon
from rectool.data.sources.tabular import INTEGER, NUMBER, TEXT, Tabular, explained
from rectool.errors import RectoolError

MIRROR = "https://mcauleylab.ucsd.edu/public_datasets/data"
SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
BATCH = 50_000
CATALOGUE = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
    ]
)
_TAG = re.compile(r"</?[a-zA-Z!][^<>]{0,2000}>")


@dataclass(frozen=True)
class Edition:
    """The names that an edition's reviews use, and where its files lie.

    Attributes:
        five_core: URL of the reviews in which all users and items have five; None where there is none.
        time_factor: units of its timestamps in a second.
    """

    user: str
    item: str
    rating: str
    timestamp: str
    time_factor: int
    full: str
    five_core: str | None
    metadata: str


EDITIONS = {
    "2014": Edition(
        "reviewerID",
        "asin",
        "overall",
        "unixReviewTime",
        1,
        SNAP + "/reviews_{category}.json.gz",
        SNAP + "/reviews_{category}_5.json.gz",
        SNAP + "/meta_{category}.json.gz",
    ),
    "2018": Edition(
        "reviewerID",
        "asin",
        "overall",
        "unixReviewTime",
        1,
        MIRROR + "/amazon_v2/categoryFiles/{category}.json.gz",
        MIRROR + "/amazon_v2/categoryFilesSmall/{category}_5.json.gz",
        MIRROR + "/amazon_v2/metaFiles2/meta_{category}.json.gz",
    ),
    "2023": Edition(
        "user_id",
        "parent_asin",
        "rating",
        "timestamp",
        1_000,
        MIRROR + "/amazon_2023/raw/review_categories/{category}.jsonl.gz",
        None,
        MIRROR + "/amazon_2023/raw/meta_categories/meta_{category}.jsonl.gz",
    ),
}


@dataclass(frozen=True)
class Source:
    """An Amazon dump, at hand or to be downloaded."""

    settings: Amazon

    def plan(self) -> list[str]:
        """What would be read. Raises RectoolError if it is not there."""
        if self.settings.category is not None:
            return [f"{url} (kept in {cache_folder()})" for url in self._urls()]
        for item in self.inputs():
            item.bytes()
        self._edition(self._reviews())
        return [str(item.path) for item in self.inputs()]

    def inputs(self) -> list[Input]:
        """The raw files. Downloads them if a category is given."""
        if self.settings.reviews is not None and self.settings.metadata is not None:
            return [Input("reviews", self.settings.reviews), Input("metadata", self.settings.metadata)]
        return [
            Input(role, path, url)
            for role, path, url in zip(("reviews", "metadata"), self._downloaded, self._urls(), strict=True)
        ]

    def load(self, engine: Engine) -> Loaded:
        """Fill the engine's tables (see `rectool.data.log`)."""
        reviews, metadata = (item.path for item in self.inputs())
        table = Tabular(reviews)
        edition = self._edition(table)
        types = {
            "user_id": (edition.user, TEXT),
            "item_id": (edition.item, TEXT),
            "rating": (edition.rating, NUMBER),
            "timestamp": (edition.timestamp, INTEGER),
        }
        with explained(reviews):
            engine.run(
                "CREATE TABLE raw AS SELECT user_id, item_id, rating, "
                f"CAST(floor(timestamp / {edition.time_factor}.0) AS BIGINT) AS timestamp "
                f"FROM ({table.select(engine, types)})"
            )
        products = engine.scratch / "metadata.parquet"
        engine.interruptible(lambda: _write_catalogue(metadata, products))
        written = f"read_parquet({literal(str(products))}, file_row_number = true, hive_partitioning = false)"
        engine.run(
            f"CREATE TABLE catalogue AS SELECT {', '.join(CATALOGUE.names)} FROM (SELECT *, row_number() OVER "
            f"(PARTITION BY item_id ORDER BY file_row_number) AS nth FROM {written}) WHERE nth = 1"
        )
        return Loaded(reviews.name, metadata.name)

    @cached_property
    def _downloaded(self) -> list[Path]:
        """No checksums are published: that these are gzip files is seen here, that they are whole when read."""
        folder = cache_folder() / f"amazon-{self.settings.year}"
        paths = [download.fetch(url, folder / url.rsplit("/", 1)[1]) for url in self._urls()]
        for path, url in zip(paths, self._urls(), strict=True):
            if not archives.is_gzip(path):
                path.unlink()
                raise RectoolError(f"{url} gave no gzip file; download it elsewhere and pass --reviews and --metadata")
        return paths

    def _urls(self) -> list[str]:
        edition = EDITIONS[self.settings.year]
        reviews = edition.full if self.settings.core == "full" or edition.five_core is None else edition.five_core
        return [url.format(category=self.settings.category) for url in (reviews, edition.metadata)]

    def _reviews(self) -> Tabular:
        assert self.settings.reviews is not None
        return Tabular(self.settings.reviews)

    def _edition(self, table: Tabular) -> Edition:
        """The edition whose names the first review uses."""
        columns = set(table.columns())
        for edition in (EDITIONS["2014"], EDITIONS["2023"]):
            if {edition.user, edition.item, edition.rating, edition.timestamp} <= columns:
                return edition
        raise RectoolError(
            f"{table.path} is no Amazon review file of 2014, 2018 or 2023: its first line has "
            f"{', '.join(sorted(columns)) or 'no fields'}; for other tables use: rectool prep table"
        )


def _write_catalogue(source: Path, target: Path) -> None:
    """Stream product metadata into a Parquet file with the columns of CATALOGUE, in the file's order."""
    with pq.ParquetWriter(target, CATALOGUE) as writer:
        rows: list[dict[str, Any]] = []
        for row in _products(source):
            rows.append(row)
            if len(rows) == BATCH:
                writer.write_table(pa.Table.from_pylist(rows, CATALOGUE))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, CATALOGUE))


def _products(source: Path) -> Iterator[dict[str, Any]]:
    for number, line in archives.lines(source):
        if not line.strip():
            continue
        record = _record(line)
        item = record.get("parent_asin") or record.get("asin") if record is not None else None
        if record is None or not isinstance(item, str):
            raise RectoolError(f"{source}, line {number}: not a product (a JSON object with asin or parent_asin)")
        yield {
            "item_id": item,
            "title": plain_text(record.get("title")),
            "text": plain_text(record.get("description")),
            "brand": plain_text(record.get("store") or record.get("brand")),
            "categories": _flat(record.get("categories") or record.get("category")),
        }


def _record(line: str) -> dict[str, Any] | None:
    """A product from JSON, or from the Python literals of the 2014 dump; nothing is evaluated."""
    try:
        value = json.loads(line)
    except ValueError:
        try:
            value = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    except RecursionError:
        return None
    return value if isinstance(value, dict) else None


def plain_text(value: Any) -> str | None:
    """Text without HTML entities, tags, line breaks; a list's parts joined. None where nothing is left."""
    if isinstance(value, list):
        value = " ".join(part for part in value if isinstance(part, str))
    if not isinstance(value, str):
        return None
    text = html.unescape(html.unescape(value)) if "&" in value else value
    text = " ".join(_TAG.sub(" ", text).split()) if "<" in text else " ".join(text.split())
    return text.encode("utf-8", "replace").decode("utf-8") or None


def _flat(value: Any) -> list[str]:
    """Category names, from a list of them or of paths of them."""
    if not isinstance(value, list):
        return []
    flat = [name for part in value for name in (part if isinstance(part, list) else [part])]
    return list(dict.fromkeys(name for part in flat if (name := plain_text(part)) is not None))
