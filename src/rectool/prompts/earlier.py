"""Which earlier items a prompt tells of its user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.data.histories import Histories
from rectool.prompts.template import Template
from rectool.prompts.tokens import Longs, bounds, within


@dataclass(frozen=True)
class Earlier:
    """The earlier items of N rows one after the other, oldest first, T in all.

    Attributes:
        items: (T,) int32.
        liked: (T,) bool.
        offsets: (N + 1,) int64: row n has `items[offsets[n]:offsets[n + 1]]`.
    """

    items: NDArray[np.int32]
    liked: NDArray[np.bool_]
    offsets: Longs

    @property
    def counts(self) -> Longs:
        return np.diff(self.offsets)

    def only(self, *, liked: bool) -> tuple[NDArray[np.int32], Longs]:
        """The items that were liked, or those that were not, and their offsets."""
        kept = self.liked == liked
        return self.items[kept], bounds(kept)[self.offsets]

    def recent(self, places: NDArray[Any], without: NDArray[Any]) -> Earlier:
        """Some rows, without the oldest so many items of each."""
        start = self.offsets[:-1][places] + without
        counts = self.offsets[1:][places] - start
        chosen = np.repeat(start, counts) + within(counts)
        return Earlier(self.items[chosen], self.liked[chosen], bounds(counts))


class EarlierItems:
    """The view of a data set that a template takes: for any rows, the most recent `length` earlier items.

    A yes/no prompt tells the liked items; one with likes and dislikes the most recent of both together; a
    next-item prompt tells all.
    """

    def __init__(self, dataset: Dataset, template: Template, length: int) -> None:
        self._dataset = dataset
        self._liked = dataset.label == 1
        self._length = length
        counts = dataset.happened
        if template.task == "ctr":
            counts = np.zeros(len(self._liked), np.bool_)
            if "history" in template.slots:
                counts |= self._liked
            if "disliked" in template.slots:
                counts |= dataset.label == 0
        everything = np.arange(len(self._liked), dtype=np.int32)
        self._histories = Histories(dataset.user, everything, counts)

    def of(self, rows: NDArray[Any]) -> Earlier:
        """The earlier items of rows of the log."""
        found, offsets = self._histories.ragged(rows, self._length)
        return Earlier(self._dataset.item[found], self._liked[found], offsets)
