"""Warm and cold: groups that partition target rows by what training has seen of their user and item.

Shapes: N target rows, R rows of the log, U users, I items.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.data.statistics import GROUPS
from rectool.errors import RectoolError

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
        if text == "seen":
            return cls(None)
        found = re.fullmatch(r"count>([0-9]+)", text.replace(" ", ""))
        if found is None:
            raise RectoolError(f"--warm {text!r} is neither seen nor of the form 'count>3'")
        return cls(int(found[1]))

    def __str__(self) -> str:
        return "seen" if self.above is None else f"count>{self.above}"

    def warm(self, dataset: Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which users (U,) and which items (I,) are warm."""
        train = dataset.split == SPLITS.index("train")
        if self.above is not None:
            users = np.bincount(dataset.user[train], minlength=dataset.users)
            return users > self.above, training_counts(dataset) > self.above
        rows = np.flatnonzero(train)
        last = np.full(dataset.users, -1)  # each user's last train row
        last[dataset.user[rows]] = rows  # rows rise, and of several assignments the last one stays
        context = np.flatnonzero(dataset.split == SPLITS.index("context"))
        items = np.zeros(dataset.items, dtype=np.bool_)
        items[dataset.item[rows]] = True
        items[dataset.item[context[context < last[dataset.user[context]]]]] = True
        return last >= 0, items


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
    train = dataset.split == SPLITS.index("train")
    return np.asarray(np.bincount(dataset.item[train], minlength=dataset.items))
