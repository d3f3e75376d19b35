"""Questions that are no rows of a log: what of this item, for this user, after all that the user has done?

Shapes: P questions   N users that are asked for   R' rows of the view
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Questions(Dataset):
    """A data set whose log holds the rows of some users, each followed by the questions about this user.

    Whatever scores rows of a log scores `rows`. A question has no label and is part of no history.

    Attributes:
        whole: the data set that it is a view of.
        kept: rows of its log that are here, too.
        likes: items that each new user liked, oldest first; new users are numbered from `whole.users` on.
        asked_user, asked_item: (P,) int32, of each question.
    """

    whole: Dataset
    kept: NDArray[np.int64]
    likes: tuple[NDArray[np.int32], ...]
    asked_user: NDArray[np.int32]
    asked_item: NDArray[np.int32]

    @property
    def digest(self) -> None:
        return None

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(P,) where the questions stand."""
        places = np.empty(len(self._order), np.int64)
        places[self._order] = np.arange(len(self._order))
        return places[len(places) - len(self.asked_user) :]

    @cached_property
    def user(self) -> NDArray[np.int32]:
        found: NDArray[np.int32] = self._users[self._order]
        return found

    @cached_property
    def item(self) -> NDArray[np.int32]:
        liked = np.concatenate([np.empty(0, np.int32), *self.likes])
        return self._column_of(self.whole.item, liked, self.asked_item)

    @cached_property
    def timestamp(self) -> NDArray[np.int64]:
        now = self.whole.timestamp.max(initial=0)
        return self._column_of(self.whole.timestamp, now, now)

    @cached_property
    def label(self) -> NDArray[np.int8]:
        return self._column_of(self.whole.label, 1, -1)

    @cached_property
    def split(self) -> NDArray[np.int8]:
        return self._column_of(self.whole.split, SPLITS.index("context"), SPLITS.index("test"))

    @cached_property
    def happened(self) -> NDArray[np.bool_]:
        return self._order < len(self._order) - len(self.asked_user)

    def row_name(self, row: int) -> str:
        if self.happened[row]:
            return f"a row of user {self.user[row]}"
        return f"user {self.user[row]} and item {self.item[row]}"

    @cached_property
    def _users(self) -> NDArray[np.int32]:
        """(R',) users of the kept rows, of the likes of new ones, and of the questions."""
        new = np.repeat(self.whole.users + np.arange(len(self.likes)), [len(items) for items in self.likes])
        return np.concatenate([self.whole.user[self.kept], new, self.asked_user]).astype(np.int32)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """(R',) the same by user: of each user first what happened, then the questions."""
        return np.argsort(self._users, kind="stable")

    def _column_of(self, column: NDArray[Any], liked: Any, asked: Any) -> NDArray[Any]:
        """(R',) of a column, what it says of rows that are not in it."""
        together = np.empty(len(self._order), column.dtype)
        kept, questions = len(self.kept), len(together) - len(self.asked_user)
        together[:kept], together[kept:questions], together[questions:] = column[self.kept], liked, asked
        ordered: NDArray[Any] = together[self._order]
        return ordered


def ask(
    dataset: Dataset,
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    likes: Sequence[NDArray[np.int32]] = (),
) -> Questions:
    """Ask for pairs of a user and an item.

    Args:
        users, items: (P,); a new user has the number `dataset.users` + place in `likes`.
        likes: what new users liked, oldest first.
    """
    known = np.unique(users[users < dataset.users])
    start, stop = rows_of(dataset, known)
    counts = stop - start
    kept = np.arange(counts.sum()) + np.repeat(start - (np.cumsum(counts) - counts), counts)
    return Questions(dataset.artifact, dataset, kept, tuple(likes), users, items)


def rows_of(dataset: Dataset, users: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the rows of users (N,) begin and end in the log."""
    return np.searchsorted(dataset.user, users, "left"), np.searchsorted(dataset.user, users, "right")
