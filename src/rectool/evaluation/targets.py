"""The rows that are measured, with the users that they belong to.

Shapes: R rows, U users, I items, K items of a list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError


@dataclass(frozen=True)
class Targets:
    """Columns of target rows. What a model or task does not give is None.

    Attributes:
        row: (R,) int64, row of interactions.parquet: what errors name.
        user: (R,) integers.
        label: (R,) 0 and 1, -1 where there is none.
        score: (R,) real numbers, what ranks.
        probability: (R,) of label 1.
        threshold: the least probability that is taken for a 1.
        rank: (R,) place of the target among all items, 1 is best.
        lists: (R, K) the K best items of each row, best first, -1 where there are fewer.
        item_counts: (I,) training rows of each item.
    """

    row: NDArray[np.int64]
    user: NDArray[Any]
    label: NDArray[Any]
    score: NDArray[Any]
    probability: NDArray[Any] | None = None
    threshold: float | None = None
    rank: NDArray[Any] | None = None
    lists: NDArray[Any] | None = None
    item_counts: NDArray[Any] | None = None

    @cached_property
    def _numbered(self) -> tuple[int, NDArray[np.intp]]:
        different, owner = np.unique(self.user, return_inverse=True)
        return len(different), owner

    @property
    def users(self) -> int:
        """U: how many users have rows here."""
        return self._numbered[0]

    @property
    def owner(self) -> NDArray[np.intp]:
        """(R,) users, numbered 0 to U - 1 in rising order."""
        return self._numbered[1]

    def part(self, rows: NDArray[Any]) -> Targets:
        """Some of the rows: (R,) bool, or positions."""
        columns = ("row", "user", "label", "score", "probability", "rank", "lists")
        parts: dict[str, Any] = {}
        for name in columns:
            column = getattr(self, name)
            parts[name] = None if column is None else column[rows]
        return replace(self, **parts)

    def sums(self, *columns: NDArray[Any]) -> NDArray[np.float64]:
        """The sum of each column (R,) over each user's rows (U, number of columns)."""
        return np.stack([np.bincount(self.owner, column, self.users) for column in columns], axis=1)

    @cached_property
    def confusion(self) -> NDArray[np.float64]:
        """Each user's true positives, false positives, false negatives and true negatives (U, 4)."""
        assert self.probability is not None
        assert self.threshold is not None
        positive = self.probability >= self.probability.dtype.type(self.threshold)
        liked = self.label == 1
        return self.sums(positive & liked, positive & ~liked, ~positive & liked, ~positive & ~liked)

    def refuse_unlabelled(self) -> None:
        """Raises RectoolError that names the first row without a label."""
        known = (self.label == 0) | (self.label == 1)
        if not np.all(known):
            row = self.row[int(np.argmin(known))]
            raise RectoolError(f"row {row} has no label, which CTR metrics need; measure it as next item")
