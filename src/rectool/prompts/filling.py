"""Slots filled for many rows at once, and which characters of the text are whose title.

N rows of a chunk   S titles in them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, repeat
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rectool.prompts.catalogue import Catalogue, taken
from rectool.prompts.earlier import Earlier
from rectool.prompts.markup import Parts, Slot
from rectool.prompts.template import Template
from rectool.prompts.tokens import Longs, bounds


@dataclass(frozen=True)
class Titles:
    """Where titles stand in N texts, in order; arrays of (S,).

    Attributes:
        row: the text.
        first, last: its characters, `last` excluded.
        item: whose title it is.
    """

    row: Longs
    first: Longs
    last: Longs
    item: NDArray[np.int32]


@dataclass(frozen=True)
class Column:
    """What stands in a slot, for each of N rows."""

    texts: list[str]
    titles: Titles | None = None


class Columns(Protocol):
    """N texts to write."""

    def column(self, slot: str) -> Column:
        """What stands in a slot."""


class Filling(Columns, Protocol):
    """N prompts to write."""

    @property
    def names(self) -> list[str]:
        """What each row is called in messages."""

    @property
    def most(self) -> Longs:
        """(N,) how much can be left out of each, in steps."""

    @property
    def is_cut(self) -> NDArray[np.bool_]:
        """(N,) whether a title or description of it is not there as a whole."""

    def shorter(self, places: NDArray[Any], steps: NDArray[Any]) -> Filling:
        """Some rows, with so many steps left out of each."""


@dataclass(frozen=True)
class Rows:
    """Prompts about rows of the log: a step is the oldest title."""

    template: Template
    catalogue: Catalogue
    rows: NDArray[Any]
    targets: NDArray[np.int32]
    earlier: Earlier

    @property
    def names(self) -> list[str]:
        return [f"row {row}" for row in self.rows]

    @property
    def most(self) -> Longs:
        return self.earlier.counts

    @property
    def is_cut(self) -> NDArray[np.bool_]:
        cut = bounds(self.catalogue.cut_titles[self.earlier.items])[self.earlier.offsets]
        found: NDArray[np.bool_] = (np.diff(cut) > 0) & self.template.has_titles
        return found | self.catalogue.cut_titles[self.targets] if "target" in self.template.slots else found

    def column(self, slot: str) -> Column:
        if slot == "target":
            return titled(self.catalogue, self.targets)
        items, offsets = self.told(slot)
        titles = taken(self.catalogue.titles, items)
        before, after = self.template.entry
        separator, empty = self.template.separator, self.template.empty
        entries = [f"{before}{title}{after}" for title in titles]
        texts = [
            separator.join(entries[start:stop]) if start < stop else empty for start, stop in pairwise(offsets.tolist())
        ]
        lengths = _lengths(titles)
        starts = bounds(lengths + (len(before) + len(after) + len(separator)))
        row = np.repeat(np.arange(len(texts)), np.diff(offsets))
        first = starts[:-1] - starts[offsets[:-1]][row] + len(before)
        return Column(texts, Titles(row, first, first + lengths, items))

    def told(self, slot: str) -> tuple[NDArray[np.int32], Longs]:
        """The items of {history} or {disliked}, oldest first, and (N + 1,) where those of a row begin."""
        if self.template.task == "ctr":
            return self.earlier.only(liked=slot == "history")
        return self.earlier.items, self.earlier.offsets

    def shorter(self, places: NDArray[Any], steps: NDArray[Any]) -> Rows:
        earlier = self.earlier.recent(places, steps)
        return replace(self, rows=self.rows[places], targets=self.targets[places], earlier=earlier)


@dataclass(frozen=True)
class Items:
    """Prompts about items: a step is the last character of the description; a word is left out as a whole."""

    template: Template
    catalogue: Catalogue
    items: NDArray[Any]
    without: NDArray[Any]

    @property
    def names(self) -> list[str]:
        return [f"item {item}" for item in self.items]

    @property
    def most(self) -> Longs:
        if "text" not in self.template.slots:
            return np.zeros(len(self.items), np.int64)
        return _lengths(taken(self.catalogue.texts, self.items))

    @property
    def is_cut(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.catalogue.cut_titles[self.items]
        return found | self.catalogue.cut_texts[self.items] if "text" in self.template.slots else found

    def column(self, slot: str) -> Column:
        if slot == "title":
            return titled(self.catalogue, self.items)
        texts = taken(self.catalogue.texts, self.items)
        kept = [_whole_words(text, len(text) - less) for text, less in zip(texts, self.without.tolist(), strict=True)]
        return Column([text or self.template.empty for text in kept])

    def shorter(self, places: NDArray[Any], steps: NDArray[Any]) -> Items:
        return replace(self, items=self.items[places], without=steps)


def written(parts: Parts, filling: Columns, rows: int) -> tuple[list[str], Titles | None]:
    """N texts, and where the titles stand in them."""
    columns = [filling.column(part.name) if isinstance(part, Slot) else part for part in parts]
    words = [repeat(each, rows) if isinstance(each, str) else each.texts for each in columns]
    texts = ["".join(row) for row in zip(*words, strict=False)]
    found = []
    before = np.zeros(rows, np.int64)  # characters of each text before the column
    for each in columns:
        if isinstance(each, str):
            before = before + len(each)
            continue
        if each.titles is not None:
            shift = before[each.titles.row]
            found.append(replace(each.titles, first=each.titles.first + shift, last=each.titles.last + shift))
        before = before + _lengths(each.texts)
    return texts, _merged(found)


def _merged(several: Sequence[Titles]) -> Titles | None:
    """The titles of several columns, in the order of the rows, and of the columns in a row."""
    if len(several) < 2:
        return several[0] if several else None
    row = np.concatenate([titles.row for titles in several])
    order = np.argsort(row, kind="stable")
    return Titles(
        row[order],
        np.concatenate([titles.first for titles in several])[order],
        np.concatenate([titles.last for titles in several])[order],
        np.concatenate([titles.item for titles in several])[order],
    )


def titled(catalogue: Catalogue, items: NDArray[Any]) -> Column:
    """One title for each row."""
    texts = taken(catalogue.titles, items)
    rows = np.arange(len(texts))
    return Column(texts, Titles(rows, np.zeros_like(rows), _lengths(texts), items.astype(np.int32)))


def _whole_words(text: str, length: int) -> str:
    """The beginning of a text, up to the end of the last word that fits."""
    if length >= len(text):
        return text
    kept = text[:length]
    whole = kept if text[length].isspace() else kept.rpartition(" ")[0]
    return whole.rstrip()


def _lengths(texts: Sequence[str]) -> Longs:
    return np.fromiter(map(len, texts), np.int64, len(texts))
