"""The settings of recommending: what each flag means, and its checks. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from rectool.errors import RectoolError
from rectool.settings import setting

CANDIDATES = 100


@dataclass(frozen=True, kw_only=True)
class Asked:
    """For whom, and what."""

    panel: ClassVar[str] = "Recommending"

    users: tuple[str, ...] = setting(
        (),
        metavar="FILE|ID",
        help="A user's id, or a file of them, one a line; may be repeated. By default all users, or those of --likes.",
    )
    likes: tuple[str, ...] = setting(
        (),
        metavar="LIST",
        help="A new user, by what they liked, oldest first: 'Title; Title; id:ITEM'; may be repeated.",
    )
    k: int = setting(10, metavar="N", help="How many items for each user.")
    exclude: Literal["history", "none"] = setting(
        "history", help="Items that are not recommended: those that the user has met already, or none."
    )

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RectoolError(f"--k {self.k} must be at least 1")

    def files(self) -> list[Path]:
        """Those of `users` that are files."""
        return [path for name in self.users if (path := Path(name)).is_file()]


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """What a language model chooses from."""

    panel: ClassVar[str] = "For language models"

    retriever: Path | None = setting(
        None,
        metavar="DIR",
        recorded=False,
        help="Made by rectool train-cf: finds what the language model puts in order.",
    )
    candidates: int = setting(CANDIDATES, metavar="N", help="How many items of the retriever's it puts in order.")

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise RectoolError(f"--candidates {self.candidates} must be at least 1")
