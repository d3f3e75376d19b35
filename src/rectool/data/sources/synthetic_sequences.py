"""The embedded data set of sequences: which item a user takes next, and how well that can be known.

The model of sequences, version 1, on the world of `synthetic_world.py`.

Companions. Item i has three companions C(i), drawn uniformly from all others. No title says so: who the companions of
an item are can only be learned from what is taken after what.

Steps. At time t a user whose last item was j takes one of these ways, and an item on it:

    0.40  an item of a taste of j (of two, either), by popularity: what was read last, read on
    0.20  one of C(j), uniformly
    0.25  an item of a taste drawn from the three that the user likes at t, by popularity
    0.10  any item, by popularity
    0.05  one of the 5% (one at least) released last, uniformly

where "an item" is one that is out at t. A user's first step goes only the last three ways. No item is taken twice: such
a step is drawn again as a whole, as is one that finds nothing out, and dropped after 40 attempts. Nobody rates: rows
have no label.

The truth. What a step is drawn from, given the user's tastes at t and all that was taken before, is the mixture of the
ways, without what was taken and brought to 1. The true rank of a row is one more than the number of items that are
likelier there than the one that was taken.

Shapes: I items, U users, R rows, N rows of one step or one piece, T tastes.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rectool.data.sources.settings import Synthetic
from rectool.data.sources.synthetic_world import (
    ATTEMPTS,
    DAY,
    LIKED,
    TASTES,
    Floats,
    Generated,
    Items,
    Longs,
    Shelves,
    liked_at,
    make_items,
    make_users,
    moments,
    streams,
    tables,
)

GENERATOR_VERSION = 1
SAME, COMPANION, TASTE, ANY, NEW = WAYS = (0.40, 0.20, 0.25, 0.10, 0.05)
COMPANIONS = 3

_PIECE = 4_000_000
"""Rows times items of a piece, when true ranks are counted."""


def generate(settings: Synthetic, seed: int) -> Generated:
    """Draw sequences; the same settings, seed and version of numpy give the same data.

    The interactions also say true_rank int64. Memory grows with the number of rows, about 27 per user, and the time of
    counting true ranks with rows times items.

    Raises:
        RectoolError: a negative seed.
    """
    of_items, of_users, of_rows, of_companions = streams(GENERATOR_VERSION, seed)
    items = make_items(settings.items, of_items)
    users = make_users(settings.users, settings.items, of_users)
    companions = _companions(settings.items, of_companions)
    user, second = moments(users, of_rows)
    order = np.lexsort((second, user))  # a user's rows one after the other
    user, second = user[order], second[order]
    day = second / DAY
    liked = liked_at(users, user, day)  # (R, 3)
    shelves = Shelves(items)
    item = _taken(items, shelves, companions, user, day, liked, of_rows)  # -1 where nothing new was found

    kept = item >= 0
    user, item, second, day, liked = user[kept], item[kept], second[kept], day[kept], liked[kept]
    rank = true_ranks(items, shelves, companions, user, item, day, liked)
    by_time = np.lexsort((user, second))
    return tables(settings, items, user[by_time], item[by_time], second[by_time], true_rank=pa.array(rank[by_time]))


def true_ranks(
    items: Items, shelves: Shelves, companions: Longs, user: Longs, item: Longs, day: Floats, liked: Longs
) -> Longs:
    """The rank (R,) of each row's item among all of the catalogue, by what the row was drawn from.

    Args:
        user, item, day, liked: of rows that stand one after the other for each user, in time order.
    """
    begins = np.searchsorted(user, user)  # (R,) the first row of the user
    rank = np.empty(len(user), dtype=np.int64)
    size = max(1, _PIECE // len(items.released))
    for first in range(0, len(user), size):
        rows = np.arange(first, min(first + size, len(user)))
        started = begins[rows] < rows
        previous = np.where(started, item[rows - 1], -1)
        chance = _mixture(items, shelves, companions, previous, day[rows], liked[rows])
        earlier = rows - begins[rows]
        place = np.repeat(np.arange(len(rows)), earlier)
        known = (
            np.repeat(begins[rows], earlier) + np.arange(len(place)) - np.repeat(np.cumsum(earlier) - earlier, earlier)
        )
        chance[place, item[known]] = 0.0
        rank[rows] = 1 + (chance > chance[np.arange(len(rows)), item[rows]][:, None]).sum(axis=1)
    return rank


def _mixture(items: Items, shelves: Shelves, companions: Longs, previous: Longs, day: Floats, liked: Longs) -> Floats:
    """How likely each item is at some moments (N, I), up to a factor, were nothing taken before.

    Args:
        previous: (N,) the last item, -1 at a user's first step.
    """
    rows, started = np.arange(len(day)), previous >= 0
    by_taste = np.zeros((len(day), len(TASTES)))  # (N, T) of the popularity of an item of that taste
    for ways, tastes in ((SAME * started / 2, items.tastes[previous]), (np.full(len(day), TASTE / LIKED), liked)):
        for taste in tastes.T:
            by_taste[rows, taste] += ways
    for taste in range(len(TASTES)):
        weight = shelves.weight(taste, day)
        by_taste[:, taste] /= np.where(weight > 0, weight, 1.0)
    carries = np.zeros((len(items.released), len(TASTES)))  # (I, T)
    for tastes in items.tastes.T:
        carries[np.arange(len(carries)), tastes] = 1.0
    chance = (by_taste @ carries.T + (ANY / shelves.weight(shelves.everything, day))[:, None]) * items.popularity
    out = shelves.out(shelves.everything, day)  # (N,)
    place = np.argsort(np.argsort(items.released, kind="stable"), kind="stable")  # (I,) on the shelf of everything
    newest = np.maximum(out // 20, 1)
    chance += (place >= (out - newest)[:, None]) * (NEW / newest)[:, None]
    np.add.at(chance, (rows[started, None], companions[previous[started]]), COMPANION / COMPANIONS)
    chance *= place < out[:, None]
    return np.asarray(chance)


def _companions(count: int, random: np.random.Generator) -> Longs:
    """(I, 3) different items, never the item itself."""
    found = np.empty((count, COMPANIONS), dtype=np.int64)  # how many places behind the item, less one
    for slot in range(COMPANIONS):
        found[:, slot] = random.integers(0, count - 1 - slot, count)
        for other in np.sort(found[:, :slot], axis=1).T:
            found[:, slot] += found[:, slot] >= other
    return (np.arange(count)[:, None] + 1 + found) % count


def _taken(
    items: Items,
    shelves: Shelves,
    companions: Longs,
    user: Longs,
    day: Floats,
    liked: Longs,
    random: np.random.Generator,
) -> Longs:
    """The item of each row (R,), -1 where none was found; a user's rows stand one after the other, in time order."""
    counts = np.bincount(user)
    begins = np.cumsum(counts) - counts
    item = np.full(len(user), -1, dtype=np.int64)
    known = np.full((len(counts), counts.max()), -1, dtype=np.int64)  # what each user has taken
    previous = np.full(len(counts), -1, dtype=np.int64)
    for step in range(counts.max()):
        drawn = begins[counts > step] + step  # one row of each user that comes so far
        for _ in range(ATTEMPTS):
            owner = user[drawn]
            found = _drawn(items, shelves, companions, previous[owner], day[drawn], liked[drawn], random)
            fresh = (found >= 0) & (known[owner, :step] != found[:, None]).all(axis=1)
            item[drawn[fresh]] = found[fresh]
            drawn = drawn[~fresh]
            if len(drawn) == 0:
                break
        rows = begins[counts > step] + step
        rows = rows[item[rows] >= 0]
        known[user[rows], step] = item[rows]
        previous[user[rows]] = item[rows]
    return item


def _drawn(
    items: Items,
    shelves: Shelves,
    companions: Longs,
    previous: Longs,
    day: Floats,
    liked: Longs,
    random: np.random.Generator,
) -> Longs:
    """One item for each moment (N,), whether taken before or not; -1 where its way finds nothing out."""
    rows, started = np.arange(len(day)), previous >= 0
    by_previous = SAME + COMPANION
    part = random.random(len(day))
    part = np.where(started, part, by_previous + part * (1.0 - by_previous))
    way = np.searchsorted(np.cumsum(WAYS[:-1]), part, side="right")
    slot, companion = random.integers(0, 2, len(day)), random.integers(0, COMPANIONS, len(day))
    wished = random.integers(0, LIKED, len(day))
    chance = random.random(len(day))

    item = np.full(len(day), -1, dtype=np.int64)
    taste = np.where(way == WAYS.index(SAME), items.tastes[previous, slot], liked[rows, wished])
    by_taste = (way == WAYS.index(SAME)) | (way == WAYS.index(TASTE))
    for index in range(len(TASTES)):
        own = by_taste & (taste == index)
        item[own] = shelves.popular(index, day[own], chance[own])
    anything, new, befriended = (way == WAYS.index(each) for each in (ANY, NEW, COMPANION))
    item[anything] = shelves.popular(shelves.everything, day[anything], chance[anything])
    item[new] = shelves.newest(day[new], chance[new])
    friends = companions[previous[befriended], companion[befriended]]
    item[befriended] = np.where(items.released[friends] <= day[befriended], friends, -1)
    return item
