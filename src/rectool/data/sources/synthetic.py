"""The embedded data set: ratings drawn from a known model, made offline in a second.

It exists so that every command can be tried, tested and explained without a download, on data whose
truth is known: each row carries the probability its label was drawn from. It is no benchmark. The
generator is fixed and versioned: `GENERATOR_VERSION` rises with any change of the data it makes, and
it is never changed to make a method look better.

The model, version 1. Time t runs from 0 to 400 days from 2020-01-01 UTC. N is normal, Unif uniform.

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
from numpy.typing import NDArray

from rectool.artifacts import Input
from rectool.data.engine import Engine
from rectool.data.prepare import Loaded
from rectool.data.sources.settings import Synthetic
from rectool.errors import RectoolError

GENERATOR_VERSION = 1

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

_DAY = 86_400  # seconds
_BEGIN = 1_577_836_800  # 2020-01-01 00:00:00 UTC, unix seconds
_DAYS = 400.0
_LIKED = 3  # tastes a user likes at any time
_ATTEMPTS = 40

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Generated:
    """The data set as tables.

    Attributes:
        interactions: user_id ("u17") and item_id ("i4") string, timestamp int64 (unix seconds UTC),
            rating float32 (1 to 5; the label is 1 for 4 and 5), true_probability float32 (what the
            label was drawn from); in time order, ties by user.
        items: item_id, title (unique), text (one sentence) string, year int16 (of release).
        users: user_id string.

    Users and items that do not occur in the interactions are left out; the others keep their ids.
    """

    interactions: pa.Table
    items: pa.Table
    users: pa.Table


@dataclass(frozen=True)
class Source:
    """The embedded data set as a source of `rectool prep`."""

    settings: Synthetic
    seed: int

    def plan(self) -> list[str]:
        return [f"nothing: version {GENERATOR_VERSION} of the embedded generator makes it"]

    def inputs(self) -> list[Input]:
        return []

    def load(self, engine: Engine) -> Loaded:
        """Fill the engine's tables (see `rectool.data.log`)."""
        made = generate(self.settings, self.seed)
        engine.register("raw", made.interactions)
        engine.register("catalogue", made.items)
        engine.register("people", made.users)
        return Loaded("the synthetic log", "the synthetic items")


@dataclass(frozen=True)
class _Items:
    """The catalogue (I,)."""

    tastes: Longs  # (I, 2), the same taste twice where an item has one
    quality: Floats
    popularity: Floats
    released: Floats  # days, negative for what was there before
    year: NDArray[np.int16]
    title: list[str]
    text: list[str]


@dataclass(frozen=True)
class _Users:
    """The users (U,)."""

    tastes: Longs  # (U, 4): two kept, one lost, the one that replaces it
    change: Floats  # days
    generosity: Floats
    begin: Floats  # days
    end: Floats  # days
    ratings: Longs  # how many the user gives


def generate(settings: Synthetic, seed: int) -> Generated:
    """Draw a data set; the same settings, seed and version of numpy give the same data.

    Time and memory grow with the number of rows, about 27 per user, and not with users times items.

    Raises:
        RectoolError: a negative seed.
    """
    if seed < 0:
        raise RectoolError(f"--seed must not be negative, but is {seed}")
    streams = np.random.default_rng([GENERATOR_VERSION, seed]).spawn(4)
    items = _make_items(settings.items, streams[0])
    users = _make_users(settings.users, settings.items, streams[1])

    user = np.repeat(np.arange(settings.users), users.ratings)  # (R,)
    day = users.begin[user] + streams[2].random(len(user)) * (users.end - users.begin)[user]
    second = (day * _DAY).astype(np.int64)
    order = np.lexsort((user, second))
    user, second = user[order], second[order]
    day = second / _DAY
    liked = _liked(users, user, day)  # (R, 3)
    item = _meet(items, user, day, liked, streams[2])  # -1 where nothing new was met
    met = item >= 0
    user, item, second, liked = user[met], item[met], second[met], liked[met]

    match = _match(items.tastes[item], liked)
    logit = -0.3 + users.generosity[user] + items.quality[item] + 1.8 * match
    probability = _sigmoid(logit).astype(np.float32)  # (R,)
    chance = streams[3].random(len(user))
    label = chance < probability
    high = 4 + (chance < _sigmoid(logit - 1.0))
    low = 1 + (chance < _sigmoid(logit + 1.0)).astype(np.int64) + (chance < _sigmoid(logit + 2.0))
    rating = np.where(label, high, low).astype(np.float32)

    item_ids = _ids("i", settings.items)
    user_ids = _ids("u", settings.users)
    present_items, present_users = np.unique(item), np.unique(user)
    interactions = {
        "user_id": user_ids.take(pa.array(user)),
        "item_id": item_ids.take(pa.array(item)),
        "timestamp": pa.array(second + _BEGIN),
        "rating": pa.array(rating),
        "true_probability": pa.array(probability),
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


def _make_items(count: int, random: np.random.Generator) -> _Items:
    first = random.permutation(count) % len(TASTES)
    other = (first + random.integers(1, len(TASTES), count)) % len(TASTES)
    tastes = np.stack([first, np.where(random.random(count) < 0.5, other, first)], axis=1)  # (I, 2)
    standard = random.standard_normal(count)
    popularity = np.exp(0.3 * standard + random.standard_normal(count))
    old = random.permutation(count) < 0.6 * count
    age = np.minimum(random.exponential(8.0, count), 100.0)  # years before 2020
    released = np.where(old, -365.25 * age, random.uniform(0.0, _DAYS, count))
    year = np.where(old, 2019 - age.astype(np.int64), np.where(released < 366.0, 2020, 2021))
    title, text = _texts(tastes, random)
    return _Items(
        tastes=tastes,
        quality=0.4 * standard,
        popularity=popularity,
        released=released,
        year=year.astype(np.int16),
        title=title,
        text=text,
    )


def _texts(tastes: Longs, random: np.random.Generator) -> tuple[list[str], list[str]]:
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


def _make_users(count: int, items: int, random: np.random.Generator) -> _Users:
    begin = 360.0 * random.random(count) ** 2
    end = np.minimum(begin + random.uniform(120.0, 400.0, count), _DAYS)
    ratings = 10 + random.poisson(random.gamma(2.0, 8.5, count))
    return _Users(
        tastes=np.argsort(random.random((count, len(TASTES))), axis=1)[:, : _LIKED + 1],
        change=begin + random.uniform(0.25, 0.75, count) * (end - begin),
        generosity=0.6 * random.standard_normal(count),
        begin=begin,
        end=end,
        ratings=np.minimum(ratings, items // 4),
    )


def _liked(users: _Users, user: Longs, day: Floats) -> Longs:
    """The tastes that each row's user likes at its time (R, 3)."""
    liked = users.tastes[user, :_LIKED]
    changed = day >= users.change[user]
    liked[changed, -1] = users.tastes[user[changed], _LIKED]
    return liked


def _match(tastes: Longs, liked: Longs) -> Floats:
    """m of the module's formula (R,), from the item's tastes (R, 2) and the user's (R, 3)."""
    shared = sum((liked == tastes[:, [slot]]).any(axis=1).astype(np.float64) for slot in (0, 1))
    return np.asarray(shared - 1.0)


def _meet(items: _Items, user: Longs, day: Floats, liked: Longs, random: np.random.Generator) -> Longs:
    """The item that each row's user meets, -1 where it would be one they know (R,). Rows in time order."""
    exposure = _Exposure(items)
    item = np.empty(len(user), dtype=np.int64)
    rows = drawn = np.arange(len(user))
    for _ in range(_ATTEMPTS):
        item[drawn] = exposure.draw(day[drawn], liked[drawn], random)
        pair = user[rows] * len(items.released) + item[rows]
        order = np.argsort(pair, kind="stable")  # of equal pairs the earliest row stays
        drawn = np.sort(rows[order[1:][pair[order[1:]] == pair[order[:-1]]]])
        if len(drawn) == 0:
            return item
        rows = rows[np.isin(user[rows], user[drawn])]  # only their users can have repeats from now on
    item[drawn] = -1
    return item


class _Exposure:
    """Draws items that are out at a time: a shelf lists items by release, so they are a prefix of it."""

    def __init__(self, items: _Items) -> None:
        by_release = np.argsort(items.released, kind="stable")
        carries = [(items.tastes[by_release] == taste).any(axis=1) for taste in range(len(TASTES))]
        self._shelves = [by_release[mask] for mask in carries] + [by_release]
        self._released = [items.released[shelf] for shelf in self._shelves]
        self._weight = [np.append(0.0, np.cumsum(items.popularity[shelf])) for shelf in self._shelves]

    def draw(self, day: Floats, liked: Longs, random: np.random.Generator) -> Longs:
        """One item for each moment (R,) and the tastes liked then (R, 3)."""
        rows, everything = len(day), len(TASTES)
        way = random.random(rows)
        taste = liked[np.arange(rows), random.integers(0, _LIKED, rows)]
        chance = random.random(rows)
        item = np.full(rows, -1, dtype=np.int64)
        out = np.searchsorted(self._released[everything], day, side="right")  # items out by then, 1 at least

        new = way >= 0.9
        place = out - 1 - (chance * np.maximum(out // 20, 1)).astype(np.int64)
        item[new] = self._shelves[everything][place[new]]
        for index in range(everything):
            self._by_popularity(index, np.flatnonzero((way < 0.5) & (taste == index)), day, chance, item)
        # What is left is drawn from everything, as is the rare row whose taste has nothing out yet.
        self._by_popularity(everything, np.flatnonzero(item < 0), day, chance, item)
        return item

    def _by_popularity(self, index: int, rows: Longs, day: Floats, chance: Floats, item: Longs) -> None:
        weight = self._weight[index]
        out = np.searchsorted(self._released[index], day[rows], side="right")
        rows, out = rows[out > 0], out[out > 0]
        place = np.searchsorted(weight, chance[rows] * weight[out], side="right") - 1
        item[rows] = self._shelves[index][np.minimum(place, out - 1)]


def _sigmoid(values: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-values))


def _ids(letter: str, count: int) -> pa.StringArray:
    return pa.array([f"{letter}{number}" for number in range(count)], pa.string())
