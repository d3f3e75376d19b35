"""The embedded data sets: logs drawn from a known model, made offline in a second.

They exist so that every command can be tried, tested and explained without a download, on data whose truth is known:
each row carries the probability its label was drawn from, or the rank of its item under what it was drawn from. They
are no benchmarks. The generators are fixed and versioned: `GENERATOR_VERSION` rises with any change of the data that
they make, and they are never changed to make a method look better. Items and users are those of `synthetic_world.py`;
ratings are made here, sequences in `synthetic_sequences.py`.

The model of ratings, version 1.

Exposure. At time t, of the items released by then, user u meets with probability 0.5 one of a taste
drawn from the three liked at t, by popularity; 0.4 any, by popularity; 0.1 one of the 5% (one at
least) released last, uniformly. No item is met twice: a repeat is drawn again, and dropped after 40
attempts, which happens in tiny catalogues only.

Answer. m(u, i, t) = mean over the tastes of i of (+1 if u likes the taste at t, else -1), and

    x = -0.3 + g_u + q_i + 1.8 m(u, i, t),   p = sigmoid(x),   label = 1 if v < p, v ~ Unif(0, 1),

and the rating is an ordered logit (McCullagh 1980) of the same v, which makes label = 1 the ratings 4
and 5: 5 if v < sigmoid(x - 1), else 4 if v < p, else 3 if v < sigmoid(x + 1), else 2 if
v < sigmoid(x + 2), else 1.

Shapes: I items, U users, R rows (one per user and item met).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rectool.artifacts import Input
from rectool.data.engine import Engine
from rectool.data.prepare import Loaded
from rectool.data.sources import synthetic_sequences
from rectool.data.sources.settings import Synthetic
from rectool.data.sources.synthetic_world import (
    ATTEMPTS,
    DAY,
    LIKED,
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


@dataclass(frozen=True)
class Source:
    """An embedded data set as a source of `rectool prep`."""

    settings: Synthetic
    seed: int

    def plan(self) -> list[str]:
        what, version = "ratings", GENERATOR_VERSION
        if self.settings.task == "next-item":
            what, version = "sequences", synthetic_sequences.GENERATOR_VERSION
        return [f"nothing: version {version} of the embedded generator of {what} makes it"]

    def rows(self) -> int:
        """About how many will be made."""
        return self.settings.users * min(27, self.settings.items // 4)

    def inputs(self) -> list[Input]:
        return []

    def load(self, engine: Engine) -> Loaded:
        """Fill the engine's tables (see `rectool.data.log`)."""
        draw = synthetic_sequences.generate if self.settings.task == "next-item" else generate
        made = draw(self.settings, self.seed)
        engine.register("raw", made.interactions)
        engine.register("catalogue", made.items)
        engine.register("people", made.users)
        return Loaded("the synthetic log", "the synthetic items")


def generate(settings: Synthetic, seed: int) -> Generated:
    """Draw ratings; the same settings, seed and version of numpy give the same data.

    The interactions also say rating float32 (1 to 5; the label is 1 for 4 and 5) and true_probability float32 (what the
    label was drawn from). Time and memory grow with the number of rows, about 27 per user, and not with users times
    items.

    Raises:
        RectoolError: a negative seed.
    """
    of_items, of_users, of_rows, of_labels = streams(GENERATOR_VERSION, seed)
    items = make_items(settings.items, of_items)
    users = make_users(settings.users, settings.items, of_users)
    user, second = moments(users, of_rows)
    day = second / DAY
    liked = liked_at(users, user, day)  # (R, 3)
    item = _meet(items, user, day, liked, of_rows)  # -1 where nothing new was met
    met = item >= 0
    user, item, second, liked = user[met], item[met], second[met], liked[met]

    match = _match(items.tastes[item], liked)
    logit = -0.3 + users.generosity[user] + items.quality[item] + 1.8 * match
    probability = _sigmoid(logit).astype(np.float32)  # (R,)
    chance = of_labels.random(len(user))
    label = chance < probability
    high = 4 + (chance < _sigmoid(logit - 1.0))
    low = 1 + (chance < _sigmoid(logit + 1.0)).astype(np.int64) + (chance < _sigmoid(logit + 2.0))
    rating = np.where(label, high, low).astype(np.float32)
    return tables(settings, items, user, item, second, rating=pa.array(rating), true_probability=pa.array(probability))


def _match(tastes: Longs, liked: Longs) -> Floats:
    """m of the module's formula (R,), from the item's tastes (R, 2) and the user's (R, 3)."""
    shared = sum((liked == tastes[:, [slot]]).any(axis=1).astype(np.float64) for slot in (0, 1))
    return np.asarray(shared - 1.0)


def _meet(items: Items, user: Longs, day: Floats, liked: Longs, random: np.random.Generator) -> Longs:
    """The item that each row's user meets, -1 where it would be one they know (R,). Rows in time order."""
    shelves = Shelves(items)
    item = np.empty(len(user), dtype=np.int64)
    rows = drawn = np.arange(len(user))
    for _ in range(ATTEMPTS):
        item[drawn] = _exposed(shelves, day[drawn], liked[drawn], random)
        pair = user[rows] * len(items.released) + item[rows]
        order = np.argsort(pair, kind="stable")  # of equal pairs the earliest row stays
        drawn = np.sort(rows[order[1:][pair[order[1:]] == pair[order[:-1]]]])
        if len(drawn) == 0:
            return item
        rows = rows[np.isin(user[rows], user[drawn])]  # only their users can have repeats from now on
    item[drawn] = -1
    return item


def _exposed(shelves: Shelves, day: Floats, liked: Longs, random: np.random.Generator) -> Longs:
    """One item for each moment (R,) and the tastes liked then (R, 3)."""
    rows = len(day)
    way = random.random(rows)
    taste = liked[np.arange(rows), random.integers(0, LIKED, rows)]
    chance = random.random(rows)
    item = np.full(rows, -1, dtype=np.int64)
    new = way >= 0.9
    item[new] = shelves.newest(day[new], chance[new])
    for index in range(shelves.everything):
        own = (way < 0.5) & (taste == index)
        item[own] = shelves.popular(index, day[own], chance[own])
    # What is left is drawn from everything, as is the rare row whose taste has nothing out yet.
    left = item < 0
    item[left] = shelves.popular(shelves.everything, day[left], chance[left])
    return item


def _sigmoid(values: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-values))
