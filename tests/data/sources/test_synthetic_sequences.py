"""The embedded sequences: what is taken next follows the stated mixture, whose ranks are the truth."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rectool.data.sources import synthetic_sequences as sequences
from rectool.data.sources.settings import Synthetic
from rectool.data.sources.synthetic_world import DAY, TASTES, Generated, Items, Shelves, make_items
from rectool.errors import RectoolError


@pytest.fixture(scope="module")
def made() -> Generated:
    return sequences.generate(Synthetic(), seed=0)


def histories(made: Generated) -> dict[str, list[str]]:
    taken: dict[str, list[str]] = defaultdict(list)
    for row in made.interactions.select(["user_id", "item_id"]).to_pylist():
        taken[row["user_id"]].append(row["item_id"])
    return taken


def test_version_1_stays_what_it_is(made: Generated) -> None:
    """Fails when the data change: then raise GENERATOR_VERSION, or take the change back."""
    assert sequences.GENERATOR_VERSION == 1
    assert made.interactions.column_names == ["user_id", "item_id", "timestamp", "true_rank"]
    assert made.interactions.num_rows == 40586
    assert made.interactions["item_id"].to_pylist()[:4] == ["i471", "i548", "i664", "i191"]
    assert made.interactions["true_rank"].to_pylist()[:4] == [43, 15, 176, 111]
    assert made.items["title"][0].as_py() == "The Cobalt Desert of Detectives"


def test_a_seed_gives_one_data_set_and_another_seed_another() -> None:
    settings = Synthetic(users=40, items=60, task="next-item")
    once, again, other = (sequences.generate(settings, seed) for seed in (3, 3, 4))
    for name in ("interactions", "items", "users"):
        assert getattr(once, name).equals(getattr(again, name))
    assert not once.interactions.equals(other.interactions)


def test_rows_are_in_time_order_and_nothing_is_taken_twice(made: Generated) -> None:
    assert (np.diff(made.interactions["timestamp"].to_numpy()) >= 0).all()
    for taken in histories(made).values():
        assert len(set(taken)) == len(taken)


def test_a_step_goes_on_from_the_last_item_more_than_from_an_earlier_one(made: Generated) -> None:
    """By the words of titles, which are all that a reader sees of tastes."""
    telling = {word for pair in TASTES for word in pair}
    taste = {word: number for number, pair in enumerate(TASTES) for word in pair}
    titles = dict(zip(made.items["item_id"].to_pylist(), made.items["title"].to_pylist(), strict=True))
    tastes = {item: {taste[word] for word in title.split() if word in telling} for item, title in titles.items()}
    share = {
        back: np.mean(
            [
                not tastes[taken[place]].isdisjoint(tastes[taken[place - back]])
                for taken in histories(made).values()
                for place in range(back, len(taken))
            ]
        )
        for back in (1, 8)
    }
    assert share[1] > share[8] + 0.2


def test_companions_are_three_different_items_each_of_which_follows_often() -> None:
    companions = sequences._companions(500, np.random.default_rng(0))
    for item, others in enumerate(companions.tolist()):
        assert len({item, *others}) == 4
        assert all(0 <= other < 500 for other in others)
    assert abs(np.bincount(companions.ravel(), minlength=500).std() - np.sqrt(3)) < 0.3
    smallest = sequences._companions(4, np.random.default_rng(1))
    assert [sorted({item, *others}) for item, others in enumerate(smallest.tolist())] == [[0, 1, 2, 3]] * 4


def naive_mixture(items: Items, companions: Any, previous: int, day: float, liked: list[int]) -> NDArray[np.float64]:
    """The docstring of the module, item by item."""
    count = len(items.released)
    out = [item for item in range(count) if items.released[item] <= day]
    newest = sorted(out, key=lambda item: items.released[item])[-max(len(out) // 20, 1) :]

    def of(taste: int | None) -> list[int]:
        return [item for item in out if taste is None or taste in items.tastes[item]]

    chance = np.zeros(count)

    def by_popularity(share: float, found: list[int]) -> None:
        total = sum(items.popularity[item] for item in found)
        for item in found:
            chance[item] += share * items.popularity[item] / total

    if previous >= 0:
        for taste in items.tastes[previous]:
            by_popularity(0.40 / 2, of(taste))
        for item in companions[previous]:
            chance[item] += 0.20 / 3 if item in out else 0.0
    for taste in liked:
        by_popularity(0.25 / 3, of(taste))
    by_popularity(0.10, of(None))
    for item in newest:
        chance[item] += 0.05 / len(newest)
    return chance


@pytest.fixture(scope="module")
def world() -> tuple[Items, Any, Shelves]:
    items = make_items(60, np.random.default_rng(2))
    return items, sequences._companions(60, np.random.default_rng(3)), Shelves(items)


MOMENTS = [(-1, 30.0, [0, 3, 5]), (7, 30.0, [0, 3, 5]), (59, 399.0, [1, 2, 6]), (12, 0.5, [7, 4, 0])]


def test_the_mixture_is_that_of_the_docstring(world: tuple[Items, Any, Shelves]) -> None:
    items, companions, shelves = world
    previous, day, liked = (np.array(column) for column in zip(*MOMENTS, strict=True))
    found = sequences._mixture(items, shelves, companions, previous, day, liked)
    for row, moment in enumerate(MOMENTS):
        assert found[row] == pytest.approx(naive_mixture(items, companions, *moment))


def test_what_is_drawn_follows_the_mixture(world: tuple[Items, Any, Shelves]) -> None:
    items, companions, shelves = world
    random, draws = np.random.default_rng(4), 40_000
    for previous, day, liked in MOMENTS:
        rows = (np.full(draws, previous), np.full(draws, day), np.tile(liked, (draws, 1)))
        drawn = sequences._drawn(items, shelves, companions, *rows, random)
        counts = np.bincount(drawn[drawn >= 0], minlength=60)
        expected = naive_mixture(items, companions, previous, day, liked)
        expected *= counts.sum() / expected.sum()
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1e-9).all()


def test_true_ranks_count_the_likelier_items_that_were_not_taken(
    world: tuple[Items, Any, Shelves], monkeypatch: pytest.MonkeyPatch
) -> None:
    items, companions, shelves = world
    random = np.random.default_rng(5)
    user = np.repeat([0, 1], [9, 6])
    day = np.concatenate([np.sort(random.random(9)), np.sort(random.random(6))]) * 400
    liked = np.tile([1, 4, 6], (15, 1))
    item = sequences._taken(items, shelves, companions, user, day, liked, random)
    assert (item >= 0).all()
    whole = sequences.true_ranks(items, shelves, companions, user, item, day, liked)
    monkeypatch.setattr(sequences, "_PIECE", 60 * 4)  # four rows at a time
    assert (sequences.true_ranks(items, shelves, companions, user, item, day, liked) == whole).all()
    for row in range(15):
        first = 0 if user[row] == 0 else 9
        previous = int(item[row - 1]) if row > first else -1
        chance = naive_mixture(items, companions, previous, day[row], liked[row].tolist())
        chance[item[first:row]] = 0
        better = [other for other in range(60) if chance[other] > chance[item[row]] * (1 + 1e-9)]
        assert whole[row] == 1 + len(better)


@pytest.mark.parametrize(("users", "items"), [(10, 40), (100, 40)])
def test_tiny_data_sets_work(users: int, items: int) -> None:
    for seed in range(3):
        made = sequences.generate(Synthetic(users=users, items=items, task="next-item"), seed)
        assert made.interactions.num_rows > 5 * users
        assert made.interactions["timestamp"].to_numpy().max() < 1_577_836_800 + 400 * DAY


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(RectoolError, match="--seed must not be negative"):
        sequences.generate(Synthetic(task="next-item"), -1)
