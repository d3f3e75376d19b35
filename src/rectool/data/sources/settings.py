"""Where raw data comes from: the settings of each source, and their checks.

Nothing heavy is imported here, so that help and completion answer at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rectool.data.settings import SPLIT_FORMS, Preparation, Untitled
from rectool.errors import RectoolError
from rectool.settings import setting

AUTO = "auto"


@dataclass(frozen=True)
class MovieLens:
    """Which release, and where it lies."""

    variant: Literal["100k", "1m", "10m", "20m", "25m", "32m", "latest-small"] = setting(help="The release.")
    source: Path | None = setting(
        None,
        metavar="PATH",
        recorded=False,
        help="The release's zip, a folder with its files (gzipped or not), or one of these; downloaded if not given.",
    )
    natural_titles: bool = setting(
        False, help='Turn "Shawshank Redemption, The (1994)" into "The Shawshank Redemption (1994)".'
    )


@dataclass(frozen=True)
class Amazon:
    """Which dump: files at hand, or a category to download."""

    reviews: Path | None = setting(None, metavar="FILE", recorded=False, help="Reviews, JSON lines, gzipped or not.")
    metadata: Path | None = setting(None, metavar="FILE", recorded=False, help="Product metadata, likewise.")
    category: str | None = setting(
        None, metavar="NAME", help="Category to download where no files are given, such as Video_Games."
    )
    year: Literal["2014", "2018", "2023"] = setting("2014", help="Edition to download.")
    core: Literal["5", "full"] | None = setting(
        None, help="Reviews to download: the 5-core (2014 and 2018; their default) or all."
    )

    def __post_init__(self) -> None:
        if (self.reviews is None) != (self.metadata is None):
            missing = "--reviews" if self.reviews is None else "--metadata"
            raise RectoolError(f"{missing} is missing: the reviews and their metadata go together")
        if (self.reviews is None) == (self.category is None):
            raise RectoolError("give either --reviews FILE --metadata FILE, or --category NAME to download")
        if self.category is not None and not re.fullmatch(r"[A-Za-z0-9_]+", self.category):
            raise RectoolError(f"--category {self.category} is written like Video_Games")
        if self.category is not None and self.core == "5" and self.year == "2023":
            raise RectoolError(f"--core 5: the {self.year} edition has none; download all and pass --k-core 5")


@dataclass(frozen=True)
class AmazonPreparation(Preparation):
    """Amazon's catalogue lacks many titles, so their items are dropped unless told otherwise."""

    untitled: Untitled = setting(
        "drop", help="Items without a title: refuse them, drop them, or call them by their id."
    )


@dataclass(frozen=True)
class TablePreparation(Preparation):
    """A table may bring its own split."""

    split: str = setting(
        AUTO,
        metavar="RULE",
        help=f"How targets are split: {SPLIT_FORMS}; auto: given where there is a split column, else ratio:8,1,1.",
    )

    def _check_split(self) -> None:
        if self.split != AUTO:
            super()._check_split()


@dataclass(frozen=True)
class Table:
    """Where interactions and items lie, and what their columns are called."""

    interactions: Path = setting(
        argument=True, recorded=False, help="Interactions: .csv, .tsv, .jsonl (each also .gz) or .parquet."
    )
    items: Path | None = setting(
        None, metavar="FILE", recorded=False, help="Items with their titles; without it, titles are the ids."
    )
    users: Path | None = setting(None, metavar="FILE", recorded=False, help="Users with their attributes.")
    user_column: str = setting("user_id", metavar="NAME", help="Column of the user's id.")
    item_column: str = setting("item_id", metavar="NAME", help="Column of the item's id.")
    timestamp_column: str = setting("timestamp", metavar="NAME", help="Column of the time.")
    rating_column: str | None = setting(None, metavar="NAME", help="Column of the rating; `rating` where there is one.")
    label_column: str | None = setting(
        None, metavar="NAME", help="Column of a ready-made label, 0 or 1; `label` where there is one."
    )
    split_column: str | None = setting(
        None,
        metavar="NAME",
        help="Column of a ready-made split (train, valid, test, context); `split` where there is one.",
    )
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso"] = setting(
        "s", help="Unit of the time since 1970, or `iso` for dates such as 2001-06-30 12:00:00 (UTC)."
    )
    item_id_column: str = setting("item_id", metavar="NAME", help="Column of the item's id in the items' file.")
    title_column: str = setting("title", metavar="NAME", help="Column of the item's title.")
    text_column: str | None = setting(
        None, metavar="NAME", help="Column of the item's description; `text` where there is one."
    )
    user_id_column: str = setting("user_id", metavar="NAME", help="Column of the user's id in the users' file.")
    delimiter: str | None = setting(
        None,
        metavar="TEXT",
        help="Between columns, in every file (TAB is a tab); else each header tells: comma, semicolon, tab or bar.",
    )
    columns: str | None = setting(
        None, metavar="A,B,...", help="Names of the interactions' columns, for a file without a header."
    )
    encoding: str = setting("utf-8", metavar="NAME", help="Of delimited text, in every file.")


@dataclass(frozen=True)
class Synthetic:
    """What the data set is for, and how large it is."""

    users: int = setting(1500, help="users to make up")
    items: int = setting(800, help="items to make up; those that nobody meets are left out")
    task: Literal["ctr", "next-item"] = setting(
        "ctr",
        help="ctr: ratings, for who likes what; next-item: sequences without ratings, in which what was taken last "
        "matters.",
    )

    def __post_init__(self) -> None:
        for flag, value, least in (("--users", self.users, 10), ("--items", self.items, 40)):
            if not least <= value < 2**31:
                raise RectoolError(f"{flag} must be at least {least} and below 2**31, not {value}")
