"""The texts that a small offline language model is pretrained on: of items, and of train rows alone.

Besides titles, descriptions and lists of titles there are reading exercises: a list of titles, then words, and
after each whether it stands in the list. A few thousand lists teach a model of this size no reading, which a language
model that has read books brings along: to find again what stands above. Exercises do, and they say nothing of what
anybody likes beyond the list itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.prompts.catalogue import Catalogue, taken

WORDS = ("Yes", "No")
LIST_TITLES = 20
"""Titles of a list at most; a longer history makes several lists."""
EXERCISE_TITLES, ASKED = (2, 10), 15
"""Titles of an exercise, from and to, and the words that it asks for."""


def item_texts(dataset: Dataset) -> list[str]:
    """The titles of the items that training knows, and the descriptions of those that have one.

    Raises:
        RectoolError: items are called by their ids.
    """
    catalogue, items = Catalogue(dataset), known_items(dataset)
    titles = taken(catalogue.titles, items)
    if titles and titles == taken(dataset.item_ids(), items):
        raise RectoolError(
            f"{dataset.artifact.path} has no titles to read: its items are called by their ids; prepare it with titles"
        )
    return [*titles, *(text for text in taken(catalogue.texts, items) if text)]


def known_items(dataset: Dataset) -> NDArray[np.int64]:
    """The items that training knows."""
    return np.unique(dataset.item[_known(dataset)]).astype(np.int64)


def known_histories(dataset: Dataset) -> list[NDArray[np.int32]]:
    """Each user's items in time order, disliked ones aside, as far as training knows them.

    A user of fewer than two has none.
    """
    rows = np.flatnonzero(_known(dataset) & (dataset.label != 0))
    bounds = np.flatnonzero(np.diff(dataset.user[rows])) + 1
    return [items for items in np.split(dataset.item[rows], bounds) if len(items) > 1]


def _known(dataset: Dataset) -> NDArray[np.bool_]:
    """(R,) train rows, and the context that stands before the user's last one."""
    split = dataset.split
    train = np.flatnonzero(split == SPLITS.index("train"))
    last = np.full(dataset.users, -1, np.int64)
    last[dataset.user[train]] = train  # the later row of a user stays
    known: NDArray[np.bool_] = (split == SPLITS.index("train")) | (split == SPLITS.index("context"))
    known &= np.arange(len(split)) <= last[dataset.user]
    return known


def lists(dataset: Dataset, histories: Sequence[NDArray[np.int32]]) -> list[str]:
    """Histories as prompts write them: titles in quotation marks, with commas."""
    titles = Catalogue(dataset).titles
    return [
        _listed(taken(titles, items[start : start + LIST_TITLES]))
        for items in histories
        for start in range(0, len(items), LIST_TITLES)
    ]


def exercises(dataset: Dataset, histories: Sequence[NDArray[np.int32]], count: int, seed: int) -> Iterator[str]:
    """Reading exercises on parts of histories, longer histories oftener; the same for the same seed.

    Half of the words are drawn from the list, half from any title that training knows.
    """
    if not histories:
        return
    random = np.random.default_rng((seed, 1))
    titles = taken(Catalogue(dataset).titles, np.arange(dataset.items))
    words = [title.split() for title in titles]
    known = known_items(dataset)
    weights = np.array([len(items) for items in histories], float)
    least, most = EXERCISE_TITLES
    for user in random.choice(len(histories), count, p=weights / weights.sum()):
        items = histories[user]
        length = min(len(items), int(random.integers(least, most + 1)))
        start = int(random.integers(len(items) - length + 1))
        part = items[start : start + length]
        there = {word for item in part for word in words[item]}
        asked = np.where(random.random(ASKED) < 0.5, random.choice(part, ASKED), random.choice(known, ASKED))
        picked = [
            words[item][place % len(words[item])]
            for item, place in zip(asked, random.integers(1 << 30, size=ASKED), strict=True)
        ]
        answers = "".join(f" {word}? {WORDS[word not in there]}." for word in picked)
        yield f"{_listed([titles[item] for item in part])}.{answers}"


def _listed(titles: Sequence[str]) -> str:
    return ", ".join(f'"{title}"' for title in titles)
