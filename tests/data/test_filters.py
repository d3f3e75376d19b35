"""Each filter against its definition, and all of them together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rectool.data.settings import Filters
from rectool.errors import RectoolError

Event = tuple[str, str, int]
JANUARY = 978_307_200  # 2001-01-01 00:00:00 UTC
DAY = 86_400


def counts(events: Sequence[Event], rows: Sequence[int], column: int) -> Counter[str]:
    return Counter(events[row][column] for row in rows)


def naive_counts(events: Sequence[Event], rows: Sequence[int], users: int, items: int) -> list[int]:
    """Rows whose user and item are frequent enough, both counted on the same rows."""
    by_user, by_item = counts(events, rows, 0), counts(events, rows, 1)
    return [row for row in rows if by_user[events[row][0]] >= users and by_item[events[row][1]] >= items]


def naive_core(events: Sequence[Event], rows: Sequence[int], k: int) -> list[int]:
    while True:
        left = naive_counts(events, rows, k, k)
        if len(left) == len(rows):
            return left
        rows = left


def naive_duplicates(events: Sequence[Event], rows: Sequence[int], policy: str) -> list[int]:
    if policy == "all":
        return list(rows)
    kept: dict[tuple[str, str], int] = {}
    for row in sorted(rows, key=lambda row: (events[row][2], row), reverse=policy == "first"):
        kept[events[row][:2]] = row
    return sorted(kept.values())


def naive_ids(events: Sequence[Event], rows: Sequence[int], column: int) -> list[str]:
    """Ids numbered by first appearance in time, ties by the id."""
    first: dict[str, int] = {}
    for row in rows:
        name = events[row][column]
        first[name] = min(first.get(name, events[row][2]), events[row][2])
    return sorted(first, key=lambda name: (first[name], name))


def naive_caps(events: Sequence[Event], rows: Sequence[int], user: int | None, item: int | None) -> list[int]:
    users, items = naive_ids(events, rows, 0), naive_ids(events, rows, 1)
    users = users if user is None else users[: user + 1]
    items = items if item is None else items[: item + 1]
    return [row for row in rows if events[row][0] in users and events[row][1] in items]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 3, 6, 9])
def test_the_core_is_the_fixed_point(prepared: Any, random_events: Any, k: int, seed: int) -> None:
    events = random_events(seed, rows=200, users=25, items=25)
    expected = naive_core(events, range(len(events)), k)
    once = naive_counts(events, range(len(events)), k, k)
    if not expected:
        with pytest.raises(RectoolError, match=f"{k}-core"):
            prepared(events, filters=Filters(k_core=k))
        return
    made = prepared(events, filters=Filters(k_core=k))
    assert sorted(made.order) == expected
    assert made.metrics["filters"] == [{"filter": f"{k}-core", "rows": len(expected)}]
    if k == 6:
        assert len(expected) < len(once)  # else these logs would not tell a fixed point from one pass


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("users", "items"), [(5, 1), (1, 8), (7, 8), (2, 2)])
def test_minimum_counts_are_counted_once_on_the_same_rows(
    prepared: Any, random_events: Any, users: int, items: int, seed: int
) -> None:
    events = random_events(seed, rows=200, users=25, items=25)
    expected = naive_counts(events, range(len(events)), users, items)
    made = prepared(events, filters=Filters(min_user_count=users, min_item_count=items))
    assert sorted(made.order) == expected
    if (users, items) == (7, 8):
        assert len(naive_counts(events, expected, users, items)) < len(expected)  # a second pass would go further


@pytest.mark.parametrize("policy", ["all", "first", "last"])
@pytest.mark.parametrize("seed", range(3))
def test_duplicates(prepared: Any, random_events: Any, policy: str, seed: int) -> None:
    events = random_events(seed, rows=200, users=6, items=6, days=3)
    expected = naive_duplicates(events, range(len(events)), policy)
    assert sorted(prepared(events, filters=Filters(duplicates=policy)).order) == expected
    assert policy == "all" or len(expected) <= 36


@pytest.mark.parametrize(("policy", "kept"), [("all", [0, 1, 2]), ("first", [0]), ("last", [2])])
def test_duplicates_at_the_same_time_go_by_their_row(prepared: Any, policy: str, kept: list[int]) -> None:
    assert prepared([("u", "i", JANUARY)] * 3, filters=Filters(duplicates=policy)).order == kept


@pytest.mark.parametrize(("user", "item"), [(3, None), (None, 4), (5, 5), (0, 0), (99, 99)])
def test_id_caps_act_on_dense_ids_and_number_anew(
    prepared: Any, random_events: Any, user: int | None, item: int | None
) -> None:
    events = random_events(5, users=12, items=12)
    expected = naive_caps(events, range(len(events)), user, item)
    made = prepared(events, filters=Filters(max_user_id=user, max_item_id=item))
    assert sorted(made.order) == expected
    assert [row["user_id"] for row in made.users] == naive_ids(events, expected, 0)
    assert [row["item_id"] for row in made.items] == naive_ids(events, expected, 1)
    assert {row["user"] for row in made.interactions} == set(range(len(made.users)))
    assert {row["item"] for row in made.interactions} == set(range(len(made.items)))


@pytest.mark.parametrize(
    ("since", "until", "kept"),
    [
        ("2001", None, [1, 2, 3, 4, 5]),
        ("2001-02", None, [3, 4, 5]),
        ("2001-01-02", None, [2, 3, 4, 5]),
        (None, "2001-01-02", [0, 1]),
        (None, "2001-02", [0, 1, 2]),
        (None, "2002", [0, 1, 2, 3, 4]),
        ("2001-01-01", "2001-02-01", [1, 2]),
        (None, None, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_dates_are_utc_and_until_is_exclusive(
    prepared: Any, since: str | None, until: str | None, kept: list[int]
) -> None:
    times = [JANUARY - 1, JANUARY, JANUARY + DAY, JANUARY + 31 * DAY, JANUARY + 365 * DAY - 1, JANUARY + 365 * DAY]
    events = [("u", f"i{row}", time) for row, time in enumerate(times)]
    assert prepared(events, filters=Filters(from_=since, until=until)).order == kept


def test_filters_act_in_the_documented_order(prepared: Any, random_events: Any) -> None:
    """Dates, duplicates, id caps, minimum counts, core: each on what the ones before it leave."""
    events = random_events(13, rows=900, users=40, items=40)
    since, until = JANUARY + 31 * DAY, JANUARY + 120 * DAY
    filters = Filters(
        from_="2001-02",
        until="2001-05",
        duplicates="last",
        max_user_id=22,
        max_item_id=30,
        min_user_count=5,
        min_item_count=4,
        k_core=4,
    )
    steps: list[Callable[[Sequence[int]], list[int]]] = [
        lambda rows: [row for row in rows if since <= events[row][2] < until],
        lambda rows: naive_duplicates(events, rows, "last"),
        lambda rows: naive_caps(events, rows, 22, 30),
        lambda rows: naive_counts(events, rows, 5, 4),
        lambda rows: naive_core(events, rows, 4),
    ]

    def apply(order: Sequence[int]) -> list[list[int]]:
        rows: list[int] = list(range(len(events)))
        after = []
        for step in order:
            rows = steps[step](rows)
            after.append(rows)
        return after

    expected = apply(range(5))
    other_orders = [apply(order)[-1] for order in itertools.permutations(range(5)) if order != (0, 1, 2, 3, 4)]
    assert sum(other == expected[-1] for other in other_orders) < 30  # the order matters on this log

    made = prepared(events, filters=filters)
    assert sorted(made.order) == expected[-1]
    names = ["until 2001-05", "duplicates last", "id caps", "minimum counts", "4-core"]
    reported = [(step["filter"], step["rows"]) for step in made.metrics["filters"]]
    assert reported[0][0] == "from 2001-02"
    assert reported[1:] == [(name, len(rows)) for name, rows in zip(names, expected, strict=True)]


@pytest.mark.parametrize(
    ("filters", "name"),
    [
        (Filters(from_="2030"), "from 2030"),
        (Filters(until="1990-05-05"), "until 1990-05-05"),
        (Filters(from_="2001-03", until="2001-04"), "until 2001-04"),
        (Filters(min_user_count=4), "minimum counts"),
        (Filters(min_item_count=9), "minimum counts"),
        (Filters(k_core=7), "7-core"),
    ],
)
def test_a_filter_that_leaves_nothing_is_named(prepared: Any, filters: Filters, name: str) -> None:
    events = [("u", "i", JANUARY), ("u", "j", JANUARY), ("v", "i", JANUARY + 200 * DAY)]
    with pytest.raises(RectoolError, match=f"no rows are left after the filter: {name}; loosen it"):
        prepared(events, filters=filters)


def test_without_filters_all_stays_and_nothing_is_reported(prepared: Any, random_events: Any) -> None:
    made = prepared(random_events(1))
    assert sorted(made.order) == list(range(150))
    assert made.metrics["filters"] == []


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"from_": "2001-13"}, "--from 2001-13"),
        ({"from_": "yesterday"}, "--from yesterday"),
        ({"until": "2001-02-30"}, "--until 2001-02-30"),
        ({"until": "0"}, "--until 0"),
        ({"from_": "2002", "until": "2002-01-01"}, "--from 2002 is not before --until 2002-01-01"),
        ({"min_user_count": 0}, "--min-user-count 0"),
        ({"min_item_count": -1}, "--min-item-count -1"),
        ({"k_core": 0}, "--k-core 0"),
        ({"max_user_id": -1}, "--max-user-id -1"),
        ({"max_item_id": -5}, "--max-item-id -5"),
    ],
)
def test_impossible_filters_are_refused_by_name(setting: dict[str, Any], flag: str) -> None:
    with pytest.raises(RectoolError) as raised:
        Filters(**setting)
    assert str(raised.value).startswith(flag)
