from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from rectool.data.sources import synthetic, synthetic_world
from rectool.data.sources.settings import Synthetic
from rectool.data.sources.synthetic import generate
from rectool.data.sources.synthetic_world import TASTES, Generated
from rectool.errors import RectoolError
from rectool.evaluation.auc import auc, uauc


@dataclass(frozen=True)
class Log:
    """The interactions as arrays (R,)."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    label: NDArray[np.bool_]
    probability: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user)


def numbers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.array([int(value[1:]) for value in column.to_pylist()])


@pytest.fixture(scope="module")
def made() -> Generated:
    return generate(Synthetic(), seed=0)


@pytest.fixture(scope="module")
def log(made: Generated) -> Log:
    table = made.interactions
    return Log(
        user=numbers(table["user_id"]),
        item=numbers(table["item_id"]),
        label=table["rating"].to_numpy() >= 4,
        probability=table["true_probability"].to_numpy(),
    )


def carried(made: Generated) -> dict[int, list[int]]:
    """The tastes of each item, read off the words of its title."""
    taste = {word: index for index, words in enumerate(TASTES) for word in words}
    return {
        int(item[1:]): [taste[word] for word in title.split() if word in taste]
        for item, title in zip(made.items["item_id"].to_pylist(), made.items["title"].to_pylist(), strict=True)
    }


def test_the_schema(made: Generated) -> None:
    string = pa.string()
    assert made.interactions.schema == pa.schema(
        {
            "user_id": string,
            "item_id": string,
            "timestamp": pa.int64(),
            "rating": pa.float32(),
            "true_probability": pa.float32(),
        }
    )
    assert made.items.schema == pa.schema({"item_id": string, "title": string, "text": string, "year": pa.int16()})
    assert made.users.schema == pa.schema({"user_id": string})
    assert all(table[name].null_count == 0 for table in vars(made).values() for name in table.column_names)


def test_a_seed_gives_one_data_set_and_another_seed_another() -> None:
    settings = Synthetic(users=60, items=80)
    once, again, other = generate(settings, 3), generate(settings, 3), generate(settings, 4)

    for name in ("interactions", "items", "users"):
        assert getattr(once, name).equals(getattr(again, name))
    assert not once.interactions.equals(other.interactions)
    assert not once.items.equals(other.items)


def test_the_hash_seed_does_not_matter() -> None:
    program = (
        "from rectool.data.sources.synthetic import *; import hashlib; g = generate(Synthetic(20, 40), 1);"
        "print(hashlib.sha256(repr([t.to_pydict() for t in vars(g).values()]).encode()).hexdigest())"
    )
    environments: list[dict[str, str]] = [{"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for environment in environments
    }
    assert len(digests) == 1


def test_version_1_stays_what_it_is(made: Generated, log: Log) -> None:
    """Fails when the data change: then raise GENERATOR_VERSION, or take the change back."""
    assert synthetic.GENERATOR_VERSION == 1
    assert (len(log), int(log.label.sum())) == (40586, 20932)
    assert made.items["title"][0].as_py() == "The Cobalt Desert of Detectives"
    assert made.interactions["item_id"].to_pylist()[:4] == ["i238", "i149", "i630", "i185"]
    assert log.probability[:4] == pytest.approx([0.9548492, 0.8702949, 0.9205692, 0.3681346], abs=1e-6)


def test_rows_are_in_time_order_over_400_days_and_no_pair_comes_twice(made: Generated, log: Log) -> None:
    timestamp = made.interactions["timestamp"].to_numpy()
    begin = 1_577_836_800
    assert (np.diff(timestamp) >= 0).all()
    assert begin <= timestamp[0] < begin + 5 * 86_400
    assert begin + 395 * 86_400 < timestamp[-1] < begin + 400 * 86_400
    assert len(set(zip(log.user.tolist(), log.item.tolist(), strict=True))) == len(log)
    assert 25 <= len(log) / 1500 <= 30


def test_the_tables_list_what_occurs(made: Generated, log: Log) -> None:
    assert numbers(made.items["item_id"]).tolist() == np.unique(log.item).tolist()
    assert numbers(made.users["user_id"]).tolist() == np.unique(log.user).tolist()


def test_labels_follow_the_true_probability(log: Log) -> None:
    assert 0.42 < log.label.mean() < 0.58
    assert ((log.probability > 0) & (log.probability < 1)).all()
    for low in np.arange(0.0, 1.0, 0.1):
        inside = (log.probability >= low) & (log.probability < low + 0.1)
        if inside.sum() >= 300:
            expected = log.probability[inside].astype(np.float64)
            error = np.sqrt((expected * (1 - expected)).sum()) / inside.sum()
            assert abs(log.label[inside].mean() - expected.mean()) < 4 * error


def test_ratings_are_one_to_five_and_rise_with_the_truth(made: Generated, log: Log) -> None:
    rating = made.interactions["rating"].to_numpy()
    assert np.unique(rating).tolist() == [1, 2, 3, 4, 5]
    means = [log.probability[rating == value].mean() for value in (1, 2, 3, 4, 5)]
    assert means == sorted(means)


def test_the_truth_ranks_the_last_tenth_well_but_not_perfectly(log: Log) -> None:
    last = slice(len(log) * 9 // 10, None)
    per_user = uauc(log.user[last], log.label[last], log.probability[last])

    assert 0.80 < auc(log.label[last], log.probability[last]) < 0.86
    assert 0.76 < per_user.value < 0.86
    assert per_user.users > 200


def test_cold_users_and_items_in_the_last_tenth(log: Log) -> None:
    train, last = slice(0, len(log) * 8 // 10), slice(len(log) * 9 // 10, None)
    cold_user = ~np.isin(log.user[last], log.user[train])
    cold_item = ~np.isin(log.item[last], log.item[train])

    assert 0.03 < cold_user.mean() < 0.4
    assert 0.03 < cold_item.mean() < 0.4
    assert (cold_user & cold_item).any()


def test_titles_are_unique_and_carry_few_frequent_taste_words(made: Generated) -> None:
    titles = made.items["title"].to_pylist()
    tastes = carried(made)
    words = Counter(word for title in titles for word in title.split())

    assert len(set(titles)) == len(titles)
    assert {len(found) for found in tastes.values()} == {1, 2}
    for word in (word for pair in TASTES for word in pair):
        assert words[word] > 0.05 * len(titles)
    colours = {
        title.split("The ")[1].removeprefix(f"{adjective} ").split()[0] for title in titles for adjective, _ in TASTES
    }
    rare = colours - {adjective for adjective, _ in TASTES}
    assert len(rare) == 30
    assert all(words[word] < 0.08 * len(titles) for word in rare)


def test_the_text_says_the_same_words_in_a_sentence(made: Generated) -> None:
    for title, text in zip(made.items["title"].to_pylist(), made.items["text"].to_pylist(), strict=True):
        assert set(title.lower().split()) - {"the"} <= set(text.lower().rstrip(".").split())
        assert text[0].isupper()
        assert text.count(".") == 1
        assert text.endswith(".")


def test_nothing_is_met_before_its_year(made: Generated, log: Log) -> None:
    year = dict(zip(numbers(made.items["item_id"]).tolist(), made.items["year"].to_pylist(), strict=True))
    released = np.array([year[item] for item in log.item.tolist()])
    now = made.interactions["timestamp"].to_numpy().astype("datetime64[s]").astype("datetime64[Y]").astype(int) + 1970

    assert (released <= now).all()
    assert {2019, 2020, 2021} <= set(year.values())
    assert min(year.values()) < 2005


def test_each_user_has_tastes_and_one_of_them_drifts(made: Generated, log: Log) -> None:
    """With one taste the logit of an item moves by 3.6 between liked and not: far more than quality does."""
    tastes = carried(made)
    single = np.array([len(tastes[item]) == 1 for item in log.item.tolist()])
    taste = np.array([tastes[item][0] for item in log.item.tolist()])
    probability = log.probability.astype(np.float64)
    logit = np.log(probability / (1 - probability))

    moved: dict[str, list[float]] = {"early to late": [], "early": []}
    liked = []
    for user in np.unique(log.user):
        mine = np.flatnonzero(log.user == user)  # in time order
        quarter = len(mine) // 4
        early, late = mine[:quarter], mine[-quarter:]
        means: list[dict[int, float]] = []
        for part in (early[0::2], early[1::2], early, late):
            part = part[single[part]]
            means.append({int(t): float(logit[part[taste[part] == t]].mean()) for t in np.unique(taste[part])})
        even, odd, first, last = means
        moved["early to late"] += [abs(last[t] - first[t]) for t in first.keys() & last.keys()]
        moved["early"] += [abs(odd[t] - even[t]) for t in even.keys() & odd.keys()]
        liked += [value > np.mean(list(first.values())) for value in first.values() if len(first) > 3]

    share = {name: float(np.mean(np.array(values) > 2.5)) for name, values in moved.items()}
    assert len(moved["early"]) > 200
    assert share["early"] < 0.03
    assert share["early to late"] > 0.15  # two of eight tastes change hands
    assert 0.25 < np.mean(liked) < 0.75


def test_the_formula_of_the_docstring(made: Generated, log: Log) -> None:
    """Less generosity and quality, the logit of an item of one taste takes the values -1.8 and 1.8."""
    tastes = carried(made)
    single = np.array([len(tastes[item]) == 1 for item in log.item.tolist()])
    probability = log.probability.astype(np.float64)
    logit = np.log(probability / (1 - probability))
    users, items = 1500, 800
    # Alternating means for logit = -0.3 + user + item + 1.8 * sign, the sign guessed anew each time.
    user_part, item_part = np.zeros(users), np.zeros(items)
    user, item, value = log.user[single], log.item[single], logit[single]
    for _ in range(50):
        rest = value + 0.3 - user_part[user] - item_part[item]
        sign = np.where(rest > 0, 1.8, -1.8)
        user_part += mean_by(user, rest - sign, users)
        item_part += mean_by(item, value + 0.3 - user_part[user] - item_part[item] - sign, items)
    rest = value + 0.3 - user_part[user] - item_part[item]
    exact = np.abs(np.abs(rest) - 1.8) < 0.05

    assert exact.mean() > 0.9
    assert 0.5 < user_part[np.unique(user)].std() < 0.7
    assert 0.3 < item_part[np.unique(item)].std() < 0.5


def mean_by(group: NDArray[np.int64], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    total = np.bincount(group, values, count)
    return np.asarray(total / np.maximum(np.bincount(group, minlength=count), 1))


def test_a_catalogue_beyond_the_word_combinations_still_has_unique_titles() -> None:
    random = np.random.default_rng(0)
    titles, texts = synthetic_world.titles_and_texts(np.zeros((5000, 2), dtype=np.int64), random)

    assert len(set(titles)) == 5000
    assert any(title.endswith(" 2") for title in titles)
    assert any(text.endswith(", part 2.") for text in texts)


@pytest.mark.parametrize(("users", "items"), [(10, 40), (300, 40)])
def test_tiny_data_sets_work(users: int, items: int) -> None:
    for seed in range(5):
        made = generate(Synthetic(users=users, items=items), seed)
        pairs = made.interactions.select(["user_id", "item_id"]).to_pylist()
        assert len({tuple(pair.values()) for pair in pairs}) == len(pairs) > 5 * users


@pytest.mark.parametrize(("flag", "value"), [("users", 9), ("users", -1), ("items", 39), ("items", 2**31)])
def test_impossible_sizes_name_the_flag(flag: str, value: int) -> None:
    options: dict[str, Any] = {flag: value}
    with pytest.raises(RectoolError, match=f"--{flag} must be at least"):
        Synthetic(**options)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(RectoolError, match="--seed must not be negative"):
        generate(Synthetic(users=10, items=40), -1)
