"""Warm and cold: groups that partition target rows by what training has seen of their user and item.

Shapes: N target rows, R rows of the log, U users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.data.statistics import GROUPS
from rectool.evaluation.settings import warm_above

REPORTED = ("all", "warm", "cold", "cold-user", "cold-item", "cold-both")
"""The groups of a report: all rows, `GROUPS`, and `cold`, which is all that is not warm."""

__all__ = ["GROUPS", "REPORTED", "WarmRule", "group_rows", "members", "training_counts"]


@dataclass(frozen=True)
class WarmRule:
    """When a user or an item is warm.

    Attributes:
        above: `count>N`: with more than N train rows. None: `seen`, in a train row or in the context
            that a train row has (an earlier `context` row of the same user).
    """

    above: int | None

    @classmethod
    def parse(cls, text: str) -> WarmRule:
        """`seen` or `count>N`. Raises RectoolError that names --warm."""
        return cls(warm_above(text))

    def __str__(self) -> str:
        return "seen" if self.above is None else f"count>{self.above}"

    def warm(self, dataset: Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which users (U,) and which items (I,) are warm."""
        if self.above is not None:
            users = np.bincount(dataset.user[dataset.targets("train")], minlength=dataset.users)
            return users > self.above, training_counts(dataset) > self.above
        items = np.zeros(dataset.items, dtype=np.bool_)
        items[dataset.item[dataset.known_rows]] = True
        return dataset.last_train_rows >= 0, items


def group_rows(dataset: Dataset, rows: NDArray[np.int64], rule: WarmRule) -> NDArray[np.str_]:
    """The group of each target row (N,): warm, cold-user (the item is warm), cold-item (the user is), cold-both."""
    warm_users, warm_items = rule.warm(dataset)
    user, item = warm_users[dataset.user[rows]], warm_items[dataset.item[rows]]
    return np.array(GROUPS)[2 * ~item + 1 * ~user]


def members(group: NDArray[np.str_], name: str) -> NDArray[np.bool_]:
    """The rows (N,) that are in one of the groups `REPORTED`."""
    if name == "all":
        return np.ones(len(group), dtype=np.bool_)
    return np.asarray(group != "warm" if name == "cold" else group == name)


def training_counts(dataset: Dataset) -> NDArray[np.int64]:
    """(I,) how many train rows each item has."""
    return np.asarray(np.bincount(dataset.item[dataset.targets("train")], minlength=dataset.items))
