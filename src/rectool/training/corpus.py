"""The texts that a small offline language model is pretrained on: of items, and of train rows alone.

Besides titles, descriptions and lists of titles there are reading exercises: a list of titles, then words and titles,
and after each whether it stands in the list, or is like it. A few thousand lists teach a model of this size no reading,
which a language model that has read books brings along: to find again what stands above. Exercises do, and they say
nothing of what anybody likes beyond the list itself. Words come first: a model learns within minutes to find one again
and say so at once, and only then to say so after a question mark, or of a whole title. A prompt that asks for the next
item can be learned in the same way: the list in its words, and as its answer a title that is like the list. Lists of
exercises are drawn at random, so that there is nothing to learn of them: only what follows counts in the loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.prompts.catalogue import Catalogue, taken
from rectool.prompts.template import Template

WORDS = ("Yes", "No")
LIST_TITLES = 20
"""Titles of a list at most; a longer history makes several lists."""
EXERCISE_TITLES = 2, 10
"""Titles of an exercise's list, from and to."""
WORDS_ASKED, TITLE_WORDS_ASKED, TITLES_ASKED = 15, 5, 6
"""Questions of an exercise: about words alone, and about words and titles."""
CANDIDATES = 8
"""Titles of which the one that is most or least like a list is asked for."""
COMMON = 0.25
"""Of the titles that training knows: a word in more of them says nothing."""


class Exercise(NamedTuple):
    """What is only read, such as a list or nothing, and what is learned after it."""

    given: str
    learned: str


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
    return np.unique(dataset.item[dataset.known_rows]).astype(np.int64)


def known_histories(dataset: Dataset) -> list[NDArray[np.int32]]:
    """Each user's items in time order, disliked ones aside, as far as training knows them.

    A user of fewer than two has none.
    """
    rows = dataset.known_rows
    rows = rows[dataset.label[rows] != 0]
    bounds = np.flatnonzero(np.diff(dataset.user[rows])) + 1
    return [items for items in np.split(dataset.item[rows], bounds) if len(items) > 1]


def lists(dataset: Dataset, histories: Sequence[NDArray[np.int32]]) -> list[str]:
    """Histories as prompts write them: titles in quotation marks, with commas."""
    titles = Catalogue(dataset).titles
    return [
        _listed(taken(titles, items[start : start + LIST_TITLES]))
        for items in histories
        for start in range(0, len(items), LIST_TITLES)
    ]


def word_exercises(
    dataset: Dataset, histories: Sequence[NDArray[np.int32]], count: int, seed: int
) -> Iterator[Exercise]:
    """Lists of titles, then words, and after each at once whether it stands in the list: `Stars Yes. Ghosts No.`

    Half of the words are drawn from the list, half from any title that training knows.
    """
    shelf = _Shelf(dataset)
    random = np.random.default_rng((seed, 1))
    for part in _parts(histories, count, random):
        words = shelf.asked_words(part, WORDS_ASKED, random)
        yield Exercise(shelf.listed(part), "".join(f" {word} {_answer(there)}." for word, there in words))


def title_exercises(
    dataset: Dataset, histories: Sequence[NDArray[np.int32]], count: int, seed: int
) -> Iterator[Exercise]:
    """Lists of titles, then questions about words and about titles: `Stars? Yes. "The Silver Mill of Stars"? Yes.`

    Half of the titles are, of a few drawn at random, the one that shares a word with most of the list, half the one
    that does with fewest; words that stand in a quarter of all titles do not count.
    """
    shelf = _Shelf(dataset)
    random = np.random.default_rng((seed, 2))
    for part in _parts(histories, count, random):
        words = shelf.asked_words(part, TITLE_WORDS_ASKED, random)
        titles = shelf.asked_titles(part, TITLES_ASKED, random)
        about_words = "".join(f" {word}? {_answer(there)}." for word, there in words)
        about_titles = "".join(f' "{title}"? {_answer(alike)}.' for title, alike in titles)
        yield Exercise(shelf.listed(part), about_words + about_titles)


def prompt_exercises(
    dataset: Dataset,
    histories: Sequence[NDArray[np.int32]],
    count: int,
    seed: int,
    *,
    template: Template,
    noun: str,
) -> Iterator[Exercise]:
    """Lists of titles in the words of a prompt of task next-item, and its output: a title that is like the list.

    Of a few titles drawn at random it is the one that shares a word with most of the list, as in `title_exercises`.

    Args:
        template: without places for embeddings.
    """
    shelf = _Shelf(dataset)
    random = np.random.default_rng((seed, 3))
    (before, after), (opened, closed) = template.entry, template.output
    for part in _parts(histories, count, random):
        entries = (f"{before}{shelf.titles[item]}{after}" for item in part)
        said = {"noun": noun, "history": template.separator.join(entries)}
        asked = "".join(each if isinstance(each, str) else said[each.name] for each in template.parts)
        title = shelf.like(part, True, random)
        yield Exercise(asked, f"{'' if asked[-1].isspace() else ' '}{opened}{title}{closed}")


def _parts(
    histories: Sequence[NDArray[np.int32]], count: int, random: np.random.Generator
) -> Iterator[NDArray[np.int32]]:
    """Stretches of histories, longer histories oftener."""
    if not histories:
        return
    least, most = EXERCISE_TITLES
    weights = np.array([len(items) for items in histories], float)
    for user in random.choice(len(histories), count, p=weights / weights.sum()):
        items = histories[user]
        length = min(len(items), int(random.integers(least, most + 1)))
        start = int(random.integers(len(items) - length + 1))
        yield items[start : start + length]


class _Shelf:
    """The titles of a data set, and what is asked about lists of them."""

    def __init__(self, dataset: Dataset) -> None:
        self.titles = taken(Catalogue(dataset).titles, np.arange(dataset.items))
        self.words = [title.split() or [title] for title in self.titles]
        self.known = known_items(dataset)
        titles_with = Counter(word for item in self.known for word in set(self.words[item]))
        common = {word for word, titles in titles_with.items() if titles > COMMON * len(self.known)}
        self.telling = [frozenset(words) - common for words in self.words]

    def listed(self, part: NDArray[np.int32]) -> str:
        return f"{_listed([self.titles[item] for item in part])}."

    def asked_words(self, part: NDArray[np.int32], count: int, random: np.random.Generator) -> list[tuple[str, bool]]:
        """Words, and whether they stand in a list."""
        there = {word for item in part for word in self.words[item]}
        items = np.where(random.random(count) < 0.5, random.choice(part, count), random.choice(self.known, count))
        places = random.integers(1 << 30, size=count)
        words = [self.words[item][place % len(self.words[item])] for item, place in zip(items, places, strict=True)]
        return [(word, word in there) for word in words]

    def asked_titles(self, part: NDArray[np.int32], count: int, random: np.random.Generator) -> list[tuple[str, bool]]:
        """Titles, and whether they are more like a list than others are."""
        return [(self.like(part, alike, random), bool(alike)) for alike in random.random(count) < 0.5]

    def like(self, part: NDArray[np.int32], alike: bool, random: np.random.Generator) -> str:
        """Of titles drawn at random, the one that is most like a list, or least."""
        drawn = random.choice(self.known, CANDIDATES)
        shared = [sum(not self.telling[item].isdisjoint(self.telling[other]) for other in part) for item in drawn]
        chosen: str = self.titles[drawn[np.argmax(shared) if alike else np.argmin(shared)]]
        return chosen


def _answer(yes: bool) -> str:
    return WORDS[0 if yes else 1]


def _listed(titles: Sequence[str]) -> str:
    return ", ".join(f'"{title}"' for title in titles)
