"""The world of the embedded data sets: its items and users, whatever these then do.

Time t runs from 0 to 400 days from 2020-01-01 UTC. N is normal, Unif uniform.

Items. Item i carries one taste of eight, or two with probability 1/2; quality q_i = 0.4 z_i with
z_i ~ N(0, 1); popularity w_i = exp(0.3 z_i + e_i), e_i ~ N(0, 1). 60% of the items are there from the
start, released Exponential(mean 8) years before it (100 at most); the others are released at
Unif(0, 400) days.
The title shows each taste by one of the taste's two words, its adjective or its noun ("The Haunted
Copper Lighthouse of Stars" has two tastes); a two-taste title shows one by the adjective and the
other by the noun. The remaining two words, one of 30 colours and one of 60 places, say nothing; they
make the title unique (after their 1,800 combinations with the same taste words, a number does).

Users. User u likes three tastes, {a, b, c}; at the moment c_u, uniform in the middle half of the
user's time, c is replaced by another taste d. Generosity g_u ~ N(0, 0.6^2). The user's time begins at
360 v^2 days, v ~ Unif(0, 1), and lasts Unif(120, 400) days or until day 400, so that some users come
late. The number of ratings is 10 + Poisson(l_u), l_u ~ Gamma(2, 8.5) (27 on average; at most a quarter
of the catalogue), their times uniform in the user's time.

Shapes: I items, U users, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rectool.data.sources.settings import Synthetic
from rectool.errors import RectoolError

TASTES = (  # adjective and noun of each taste: the only words that say what a user will like
    ("Haunted", "Ghosts"),
    ("Cosmic", "Stars"),
    ("Stolen", "Detectives"),
    ("Romantic", "Lovers"),
    ("Wartime", "Soldiers"),
    ("Funny", "Clowns"),
    ("Enchanted", "Dragons"),
    ("Western", "Outlaws"),
)
# Neutral words: colours and other colouring, each in one title of thirty, and places.
_COLOURS = str.split("""
    Amber Ashen Azure Bronze Cobalt Copper Coral Crimson Ebony Emerald Fading Golden Hidden Hollow
    Indigo Ivory Jade Lonely Marble Misty Pearl Purple Ruby Scarlet Silent Silver Velvet Violet White
    Winding
""")
_PLACES = str.split("""
    Abbey Arcade Attic Bakery Bay Bridge Canal Canyon Castle Cavern Cellar Chapel Cloister Cliff Clinic
    Corridor Cottage Court Desert Dock Embassy Factory Farm Ferry Forest Fountain Gallery Garden Gate
    Harbour Hill Hotel Island Kitchen Lagoon Library Lighthouse Mansion Market Meadow Mill Museum
    Orchard Palace Pier Plaza Quarry River Road School Station Street Theatre Tower Tunnel Valley
    Village Vineyard Workshop Yard
""")

DAY = 86_400  # seconds
BEGIN = 1_577_836_800  # 2020-01-01 00:00:00 UTC, unix seconds
DAYS = 400.0
LIKED = 3  # tastes a user likes at any time
ATTEMPTS = 40

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Generated:
    """A data set as tables.

    Attributes:
        interactions: user_id ("u17") and item_id ("i4") string, timestamp int64 (unix seconds UTC), and what the
            generator says of each row; in time order, ties by user.
        items: item_id, title (unique), text (one sentence) string, year int16 (of release).
        users: user_id string.

    Users and items that do not occur in the interactions are left out; the others keep their ids.
    """

    interactions: pa.Table
    items: pa.Table
    users: pa.Table


@dataclass(frozen=True)
class Items:
    """The catalogue (I,)."""

    tastes: Longs  # (I, 2), the same taste twice where an item has one
    quality: Floats
    popularity: Floats
    released: Floats  # days, negative for what was there before
    year: NDArray[np.int16]
    title: list[str]
    text: list[str]


@dataclass(frozen=True)
class Users:
    """The users (U,)."""

    tastes: Longs  # (U, 4): two kept, one lost, the one that replaces it
    change: Floats  # days
    generosity: Floats
    begin: Floats  # days
    end: Floats  # days
    ratings: Longs  # how many the user gives


def streams(version: int, seed: int) -> list[np.random.Generator]:
    """The randomness of items, of users, of what users meet, and of what else there is.

    Raises:
        RectoolError: a negative seed.
    """
    if seed < 0:
        raise RectoolError(f"--seed must not be negative, but is {seed}")
    return np.random.default_rng([version, seed]).spawn(4)


def moments(users: Users, random: np.random.Generator) -> tuple[Longs, Longs]:
    """The user and the second of each row (R,), in time order, ties by user."""
    user = np.repeat(np.arange(len(users.ratings)), users.ratings)
    day = users.begin[user] + random.random(len(user)) * (users.end - users.begin)[user]
    second = (day * DAY).astype(np.int64)
    order = np.lexsort((user, second))
    return user[order], second[order]


def tables(settings: Synthetic, items: Items, user: Longs, item: Longs, second: Longs, **said: pa.Array) -> Generated:
    """The tables of rows (R,) in time order, and of the users and items that occur in them.

    Args:
        said: further columns (R,) of the interactions.
    """
    item_ids = _ids("i", settings.items)
    user_ids = _ids("u", settings.users)
    present_items, present_users = np.unique(item), np.unique(user)
    interactions = {
        "user_id": user_ids.take(pa.array(user)),
        "item_id": item_ids.take(pa.array(item)),
        "timestamp": pa.array(second + BEGIN),
        **said,
    }
    catalogue = {
        "item_id": item_ids,
        "title": pa.array(items.title, pa.string()),
        "text": pa.array(items.text, pa.string()),
        "year": pa.array(items.year),
    }
    return Generated(
        interactions=pa.table(interactions),
        items=pa.table(catalogue).take(pa.array(present_items)),
        users=pa.table({"user_id": user_ids}).take(pa.array(present_users)),
    )


def make_items(count: int, random: np.random.Generator) -> Items:
    first = random.permutation(count) % len(TASTES)
    other = (first + random.integers(1, len(TASTES), count)) % len(TASTES)
    tastes = np.stack([first, np.where(random.random(count) < 0.5, other, first)], axis=1)  # (I, 2)
    standard = random.standard_normal(count)
    popularity = np.exp(0.3 * standard + random.standard_normal(count))
    old = random.permutation(count) < 0.6 * count
    age = np.minimum(random.exponential(8.0, count), 100.0)  # years before 2020
    released = np.where(old, -365.25 * age, random.uniform(0.0, DAYS, count))
    year = np.where(old, 2019 - age.astype(np.int64), np.where(released < 366.0, 2020, 2021))
    title, text = titles_and_texts(tastes, random)
    return Items(
        tastes=tastes,
        quality=0.4 * standard,
        popularity=popularity,
        released=released,
        year=year.astype(np.int16),
        title=title,
        text=text,
    )


def titles_and_texts(tastes: Longs, random: np.random.Generator) -> tuple[list[str], list[str]]:
    """A unique title and a sentence of the same words for each item's tastes (I, 2)."""
    count, none = len(tastes), len(TASTES)
    by_adjective = random.integers(0, 2, count)  # the first or the second taste
    adjective = tastes[np.arange(count), by_adjective]
    noun = tastes[np.arange(count), 1 - by_adjective]
    single = adjective == noun
    adjective = np.where(single & (by_adjective == 1), none, adjective)  # one taste: one of its two words
    noun = np.where(single & (by_adjective == 0), none, noun)

    # Items with the same taste words take different neutral words: a walk through one shuffled list
    # of all combinations, from a place of each group's own.
    group = adjective * (none + 1) + noun
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], group)
    rank = np.empty(count, dtype=np.int64)  # within the group
    rank[order] = np.arange(count)
    rank -= starts
    combinations = len(_COLOURS) * len(_PLACES)
    shuffled = random.permutation(combinations)
    offsets = random.integers(0, combinations, (none + 1) ** 2)
    neutral = shuffled[(rank + offsets[group]) % combinations]

    titles, texts = [], []
    words = (adjective, noun, neutral // len(_PLACES), neutral % len(_PLACES), rank // combinations + 1)
    for a, b, c, d, part in zip(*(column.tolist() for column in words), strict=True):
        kind = f"{TASTES[a][0]} " if a < none else ""
        about = f" of {TASTES[b][1]}" if b < none else ""
        number = f" {part}" if part > 1 else ""
        titles.append(f"The {kind}{_COLOURS[c]} {_PLACES[d]}{about}{number}")
        setting = f"{_COLOURS[c]} {_PLACES[d]}".lower()
        series = f", part {part}" if part > 1 else ""
        texts.append(f"This {kind.lower()}story{about.lower()} is set at the {setting}{series}.")
    return titles, texts


def make_users(count: int, items: int, random: np.random.Generator) -> Users:
    begin = 360.0 * random.random(count) ** 2
    end = np.minimum(begin + random.uniform(120.0, 400.0, count), DAYS)
    ratings = 10 + random.poisson(random.gamma(2.0, 8.5, count))
    return Users(
        tastes=np.argsort(random.random((count, len(TASTES))), axis=1)[:, : LIKED + 1],
        change=begin + random.uniform(0.25, 0.75, count) * (end - begin),
        generosity=0.6 * random.standard_normal(count),
        begin=begin,
        end=end,
        ratings=np.minimum(ratings, items // 4),
    )


def liked_at(users: Users, user: Longs, day: Floats) -> Longs:
    """The tastes that each row's user likes at its time (R, 3)."""
    liked = users.tastes[user, :LIKED]
    changed = day >= users.change[user]
    liked[changed, -1] = users.tastes[user[changed], LIKED]
    return liked


class Shelves:
    """Items that are out at a time: a shelf lists items by release, so that these are a prefix of it.

    Attributes:
        everything: the number of the shelf of all items; those of the tastes come before it.
    """

    def __init__(self, items: Items) -> None:
        self.everything = len(TASTES)
        by_release = np.argsort(items.released, kind="stable")
        carries = [(items.tastes[by_release] == taste).any(axis=1) for taste in range(len(TASTES))]
        self._shelves: list[Longs] = [by_release[mask] for mask in carries] + [by_release]
        self._released = [items.released[shelf] for shelf in self._shelves]
        self._weight = [np.append(0.0, np.cumsum(items.popularity[shelf])) for shelf in self._shelves]

    def out(self, shelf: int, day: Floats) -> Longs:
        """How many items of a shelf are out at each moment (R,)."""
        return np.searchsorted(self._released[shelf], day, side="right")

    def weight(self, shelf: int, day: Floats) -> Floats:
        """The popularity of all that is out on a shelf at each moment (R,)."""
        return self._weight[shelf][self.out(shelf, day)]

    def newest(self, day: Floats, chance: Floats) -> Longs:
        """One of the 5% (one at least) released last, for each moment (R,), uniformly by chance."""
        out = self.out(self.everything, day)  # 1 at least
        place = out - 1 - (chance * np.maximum(out // 20, 1)).astype(np.int64)
        return self._shelves[self.everything][place]

    def popular(self, shelf: int, day: Floats, chance: Floats) -> Longs:
        """One of a shelf for each moment (R,), by popularity; -1 where nothing is out."""
        weight, out = self._weight[shelf], self.out(shelf, day)
        place = np.searchsorted(weight, chance * weight[out], side="right") - 1
        return np.where(out > 0, self._shelves[shelf][np.minimum(place, out - 1)], -1)


def _ids(letter: str, count: int) -> pa.StringArray:
    return pa.array([f"{letter}{number}" for number in range(count)], pa.string())
