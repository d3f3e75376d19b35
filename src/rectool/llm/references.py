"""Which vectors the prompts of rows want: the placeholders of token rows, made into references.

A placeholder says of what kind an embedding is (`SOFT_IDS`), a reference which one: an id `-1 - k` is row k of a table
of vectors. Rows that want the same vector have the same reference, so that what works on ids alone (shared prefixes,
grouping, caches) needs to know nothing else of them.

Shapes: N rows   T tokens in all   P placeholders of a kind   G groups of vectors that stand together   K vectors
I items
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.data.histories import HistoryRule
from rectool.errors import RectoolError
from rectool.prompts.tokens import SOFT_IDS, Longs, TokenRows, bounds, within

USER, ITEM, WARM = range(3)
"""What a group of vectors is of; a token of the history is one of an item."""
UNKNOWN = -1
"""Stands for all users, or all items, that training knows nothing of."""


@dataclass(frozen=True)
class Wanted:
    """What the references of some token rows mean.

    Attributes:
        of: (G,) `USER`, `ITEM` or `WARM`, in this order.
        which: (G,) the user or the item; `UNKNOWN` for those that are not known; 0 for a user who is a history.
        start, stop: (G,) the slice of `items` that is the user's history; 0 and 0 where it is empty or none is read.
        items: what those are slices of, see `Histories.items`.
        first: (G + 1,) group g has the vectors from `first[g]` to `first[g + 1]`.
    """

    of: NDArray[np.int8]
    which: Longs
    start: Longs
    stop: Longs
    items: NDArray[np.int32]
    first: Longs

    def __len__(self) -> int:
        """K, how many vectors there are."""
        return int(self.first[-1])

    def groups_of(self, references: Longs) -> Longs:
        """The group of each vector k (K',)."""
        return np.asarray(np.searchsorted(self.first, references, side="right") - 1)


@dataclass(frozen=True)
class Resolved:
    """Token rows whose ids below 0 are references, and what these mean.

    Attributes:
        tokens: an id `-1 - k` is vector k.
        unknown_users, unknown_items: (N,) bool, the rows that want the vector of unknown users, or of unknown items.
    """

    tokens: TokenRows
    wanted: Wanted
    unknown_users: NDArray[np.bool_]
    unknown_items: NDArray[np.bool_]

    @staticmethod
    def plain(tokens: TokenRows) -> Resolved:
        """Of rows that are text alone."""
        nothing, no = np.zeros(0, np.int64), np.zeros(len(tokens), np.bool_)
        items = np.zeros(0, np.int32)
        return Resolved(tokens, Wanted(np.zeros(0, np.int8), nothing, nothing, nothing, items, bounds(nothing)), no, no)


@dataclass(frozen=True)
class Known:
    """Who has a vector, among the users and items that prompts tell of.

    Attributes:
        users, targets: (N,) bool, the user and the target of each row.
        items: (I,) bool, any item of a history.
    """

    users: NDArray[np.bool_]
    targets: NDArray[np.bool_]
    items: NDArray[np.bool_]


def resolve(
    dataset: Dataset,
    rows: NDArray[np.integer[Any]],
    tokens: TokenRows,
    kinds: Mapping[str, int],
    known: Known,
    rule: HistoryRule | None,
    *,
    liked_only: bool = True,
) -> Resolved:
    """Make references of the placeholders in the prompts of rows; see `SoftTokens.resolve`.

    Args:
        kinds: vectors per place, by slot.
        rule: the history that a user's vector is made of; None: it is the user's alone.
        liked_only: whether prompts tell the items that were liked, or all.

    Raises:
        RectoolError: a prompt has a place for what is not in `kinds`.
    """
    places = _places(tokens, rows, kinds)
    user, item = dataset.user[rows].astype(np.int64), dataset.item[rows].astype(np.int64)
    start = stop = np.zeros(len(rows), np.int64)
    items = np.zeros(1, np.int32)
    if rule is not None and len(places["user"].row):
        histories = dataset.histories(liked_only=rule.liked_only)
        start, stop, items = *histories.slices(rows, rule.length), histories.items
        start, stop = (np.where(start < stop, bound, 0) for bound in (start, stop))
        user = np.zeros_like(user)  # all empty histories are the same

    which = {
        "user": np.where(known.users, user, UNKNOWN)[places["user"].row],
        "item": np.where(known.targets, item, UNKNOWN)[places["item"].row],
        "history": _of_history(dataset, rows, places["history"], known.items, liked_only),
        "warm": item[places["warm"].row],
    }
    stops = stop[places["user"].row]
    ids, done = tokens.ids.copy(), 0
    made: list[tuple[int, Longs, Longs, int]] = []  # of each kind: what of, which, an example's row, vectors of each
    for of, names in ((USER, ("user",)), (ITEM, ("item", "history")), (WARM, ("warm",))):
        wanted = np.concatenate([which[name] for name in names])
        row = np.concatenate([places[name].row for name in names])
        keys = wanted * (len(items) + 1) + stops if of == USER else wanted
        _, example, group = np.unique(keys, return_index=True, return_inverse=True)
        each = max(places[name].each for name in names)
        at, nth = (np.concatenate([getattr(places[name], field) for name in names]) for field in ("at", "nth"))
        ids[at] = -1 - (done + group * each + nth)
        done += len(example) * each
        made.append((of, wanted[example], row[example], each))
    of_group = np.repeat(np.array([of for of, *_ in made], np.int8), [len(some) for _, some, _, _ in made])
    example = np.concatenate([row for _, _, row, _ in made])
    has_history = of_group == USER
    sizes = np.concatenate([np.full(len(some), each) for _, some, _, each in made])
    return Resolved(
        replace(tokens, ids=ids),
        Wanted(
            of_group,
            np.concatenate([some for _, some, _, _ in made]),
            np.where(has_history, start[example], 0) if len(start) else example,
            np.where(has_history, stop[example], 0) if len(stop) else example,
            items,
            bounds(sizes),
        ),
        _rows_with(which["user"] == UNKNOWN, places["user"].row, len(rows)),
        _rows_with(which["item"] == UNKNOWN, places["item"].row, len(rows))
        | _rows_with(which["history"] == UNKNOWN, places["history"].row, len(rows)),
    )


@dataclass(frozen=True)
class _Places:
    """The placeholders of one kind.

    Attributes:
        at: (P,) where they stand in the ids.
        row: (P,) whose they are.
        place: (P,) the how manieth place of its row each is of.
        nth: (P,) the how manieth vector of its place each is.
        each: vectors per place.
        counts: (N,) places of each row.
    """

    at: Longs
    row: Longs
    place: Longs
    nth: Longs
    each: int
    counts: Longs


def _places(tokens: TokenRows, rows: NDArray[np.integer[Any]], kinds: Mapping[str, int]) -> dict[str, _Places]:
    """The placeholders of each kind. Raises RectoolError for one that is not in `kinds`."""
    every = np.flatnonzero(tokens.ids < 0)
    slot = tokens.ids[every]
    row = np.searchsorted(tokens.offsets, every, side="right") - 1
    found = {}
    for name, id_ in SOFT_IDS.items():
        chosen = slot == id_
        if name not in kinds and chosen.any():
            raise RectoolError(
                f"the prompt of row {rows[row[chosen][0]]} has a place for {{{name}}} that is not filled"
            )
        counts = np.bincount(row[chosen], minlength=len(rows))
        each = kinds.get(name, 1)
        place, nth = np.divmod(within(counts), each)
        found[name] = _Places(every[chosen], row[chosen], place, nth, each, counts // each)
    return found


def _of_history(
    dataset: Dataset, rows: NDArray[np.integer[Any]], places: _Places, known: NDArray[np.bool_], liked_only: bool
) -> Longs:
    """The item (P,) of each placeholder of the history: with n places it tells the last n items, or liked ones."""
    if len(places.row) == 0:
        return np.zeros(0, np.int64)
    histories = dataset.histories(liked_only=liked_only)
    _, stop = histories.slices(rows)
    item = histories.items[(stop - places.counts)[places.row] + places.place]
    return np.where(known[item], item, UNKNOWN).astype(np.int64)


def _rows_with(is_so: NDArray[np.bool_], row: Longs, rows: int) -> NDArray[np.bool_]:
    """(N,) rows of which something is so."""
    found = np.zeros(rows, np.bool_)
    found[row[is_so]] = True
    return found
