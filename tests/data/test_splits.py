"""Each rule of --split against its definition, written as a plain loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest

from rectool.data.settings import Filters, Preparation, Resources, Split
from rectool.errors import RectoolError

Event = tuple[str, str, int]
JANUARY = 978_307_200  # 2001-01-01 00:00:00 UTC


def in_time(events: Sequence[Event], rows: Sequence[int]) -> list[int]:
    return sorted(rows, key=lambda row: (events[row][2], row))


def by_user(events: Sequence[Event]) -> list[list[int]]:
    """The rows of each user, in time order."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row in in_time(events, range(len(events))):
        rows[events[row][0]].append(row)
    return list(rows.values())


def naive_ratio(events: Sequence[Event], targets: Sequence[int], parts: Sequence[str]) -> dict[int, str]:
    sizes = [Fraction(part) for part in parts]
    ordered = in_time(events, targets)
    first = int(len(ordered) * sizes[0] / sum(sizes))
    second = int(len(ordered) * (sizes[0] + sizes[1]) / sum(sizes))
    return {row: "train" if n < first else "valid" if n < second else "test" for n, row in enumerate(ordered)}


def naive_months(events: Sequence[Event], parts: Sequence[str], since: int | None) -> dict[int, str]:
    sizes = [Fraction(part) for part in parts]
    ordered = [row for row in in_time(events, range(len(events))) if since is None or events[row][2] >= since]
    start = datetime.fromtimestamp(since if since is not None else events[ordered[0]][2], UTC)
    months: dict[int, list[int]] = defaultdict(list)
    for row in ordered:
        date = datetime.fromtimestamp(events[row][2], UTC)
        months[(date.year - start.year) * 12 + date.month - start.month].append(row)
    splits = {}
    for month, rows in months.items():
        if month >= sum(sizes):
            continue
        for place, row in enumerate(rows):
            before = [
                month < int(cut) or (month == int(cut) and place < int(len(rows) * (cut - int(cut))))
                for cut in (sizes[0], sizes[0] + sizes[1])
            ]
            splits[row] = "train" if before[0] else "valid" if before[1] else "test"
    return splits


def naive_windows(events: Sequence[Event], length: int, parts: Sequence[str]) -> dict[int, str]:
    targets = []
    for rows in by_user(events):
        targets += rows[-1:] if len(rows) <= length else rows[length - 1 :]
    return dict.fromkeys(range(len(events)), "context") | naive_ratio(events, targets, parts)


def naive_leave_one_out(events: Sequence[Event]) -> dict[int, str]:
    splits = dict.fromkeys(range(len(events)), "train")
    for rows in by_user(events):
        if len(rows) >= 3:
            splits[rows[-1]], splits[rows[-2]] = "test", "valid"
    return splits


def naive(events: Sequence[Event], split: str, since: int | None = None) -> dict[int, str]:
    rule, *rest = split.split(":")
    parts = rest[-1].split(",") if rest else []
    if rule == "ratio":
        return naive_ratio(events, range(len(events)), parts)
    if rule == "months":
        return naive_months(events, parts, since)
    if rule == "windows":
        return naive_windows(events, int(rest[0]), parts)
    return naive_leave_one_out(events)


def assert_in_time_order(events: Sequence[Event], splits: dict[int, str]) -> None:
    """No target of an earlier split is later than one of a later split."""
    for earlier, later in (("train", "valid"), ("valid", "test"), ("train", "test")):
        ends = [(events[row][2], row) for row, split in splits.items() if split == earlier]
        begins = [(events[row][2], row) for row, split in splits.items() if split == later]
        if ends and begins:
            assert max(ends) < min(begins)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "split",
    [
        "ratio:8,1,1",
        "ratio:1,1,1",
        "ratio:0.8,0.15,0.05",
        "ratio:1,0,0",
        "months:4,1,1",
        "months:3,0.5,0.5",
        "months:1.25,2.5,3.25",
        "months:2,0,5",
        "windows:11:8,1,1",
        "windows:2:1,1,1",
        "windows:5:6,2,2",
        "leave-one-out",
    ],
)
def test_each_rule_is_its_definition(prepared: Any, random_events: Any, split: str, seed: int) -> None:
    events = random_events(seed)
    made = prepared(events, split)
    assert made.splits == naive(events, split)
    if split != "leave-one-out":
        assert_in_time_order(events, made.splits)
    rows = {name: list(made.splits.values()).count(name) for name in set(made.splits.values())}
    assert {name: counts["rows"] for name, counts in made.metrics["splits"].items()} == rows


@pytest.mark.parametrize("split", ["ratio:8,1,1", "windows:3:8,1,1"])
def test_all_at_the_same_time_go_by_their_row(prepared: Any, split: str) -> None:
    events = [(f"u{row % 3}", "i", JANUARY) for row in range(30)]
    made = prepared(events, split)
    assert made.splits == naive(events, split)
    assert_in_time_order(events, made.splits)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_leave_one_out_of_short_histories(prepared: Any, rows: int) -> None:
    events = [("u", f"i{row}", JANUARY - row) for row in range(rows)]  # the last row is the first in time
    expected = {1: ["train"], 2: ["train", "train"], 3: ["test", "valid", "train"]}
    splits = prepared(events, "leave-one-out").splits
    assert [splits[row] for row in range(rows)] == expected.get(rows, ["test", "valid", "train", "train"])


@pytest.mark.parametrize(("rows", "targets"), [(1, 1), (2, 1), (10, 1), (11, 1), (12, 2), (15, 5)])
def test_windows_of_a_person(prepared: Any, rows: int, targets: int) -> None:
    """At most 11 rows give one window with all of them, n > 11 give n - 10."""
    events = [("u", f"i{row}", JANUARY + row) for row in range(rows)]
    splits = prepared(events, "windows:11:8,1,1").splits
    assert [row for row, split in splits.items() if split != "context"] == list(range(rows - targets, rows))


@pytest.mark.parametrize(
    ("since", "seconds"),
    [("2001-03", 983_404_800), ("2001-03-15", 984_614_400), ("2000-12", 975_628_800), ("2001", JANUARY)],
)
@pytest.mark.parametrize("split", ["months:2,1,1", "months:2,0.5,0.5"])
def test_months_count_from_the_month_of_from(
    prepared: Any, random_events: Any, split: str, since: str, seconds: int
) -> None:
    events = random_events(7)
    made = prepared(events, split, Filters(from_=since))
    assert made.splits == naive(events, split, seconds)
    assert len(made.splits) < len(events)


def test_rows_after_the_last_month_are_dropped_and_reported(prepared: Any) -> None:
    events = [("u", f"i{month}", JANUARY + month * 31 * 86_400) for month in range(6)]
    made = prepared(events, "months:1,1,1")
    assert made.splits == {0: "train", 1: "valid", 2: "test"}
    assert made.metrics["filters"] == [{"filter": "until 2001-04-01", "rows": 3}]
    assert made.metrics["last"].startswith("2001-03")


def test_an_earlier_until_ends_the_months(prepared: Any) -> None:
    events = [("u", f"i{month}", JANUARY + month * 31 * 86_400) for month in range(6)]
    made = prepared(events, "months:1,1,3", Filters(until="2001-04"))
    assert made.splits == {0: "train", 1: "valid", 2: "test"}
    assert made.metrics["filters"] == [{"filter": "until 2001-04", "rows": 3}]


@pytest.mark.parametrize("start", [253_402_214_400, -62_135_596_800])  # the last and the first day there is
def test_months_at_the_ends_of_the_calendar(prepared: Any, start: int) -> None:
    events = [("u", f"i{row}", start + row) for row in range(5)]
    assert set(prepared(events, "months:10,5,5").splits.values()) == {"train"}


def test_months_before_1970(prepared: Any) -> None:
    events = [("u", f"i{row}", -day * 86_400 - 1) for row, day in enumerate((0, 31, 61, 92))]  # ends of months
    assert prepared(events, "months:2,1,1").splits == {3: "train", 2: "train", 1: "valid", 0: "test"}


def test_an_empty_split_is_said(prepared: Any) -> None:
    made = prepared([("u", "i", JANUARY), ("u", "j", JANUARY + 1)], "ratio:8,1,1")
    assert "no row is in the split valid" in made.metrics["notes"]
    assert made.splits == {0: "train", 1: "test"}


def given_log(splits: Sequence[str | None]) -> pa.Table:
    rows = len(splits)
    return pa.table(
        {
            "user_id": ["u"] * rows,
            "item_id": [f"i{row}" for row in range(rows)],
            "timestamp": pa.array(range(JANUARY, JANUARY + rows), pa.int64()),
            "rating": pa.array(range(rows), pa.float32()),
            "split": pa.array(splits, pa.string()),
        }
    )


def test_a_given_split_stays(prepared: Any) -> None:
    names = ["test", "context", "train", "train", "valid"]
    made = prepared(given_log(names), "given")
    assert [made.splits[row] for row in range(5)] == names


@pytest.mark.parametrize("wrong", ["holdout", "Train", "", " test", None])
def test_a_given_split_of_another_name_is_refused(prepared: Any, wrong: str | None) -> None:
    with pytest.raises(RectoolError, match=r"log, row 2: split .* is none of train, valid, test, context"):
        prepared(given_log(["train", wrong, "test"]), "given")


@pytest.mark.parametrize("split", ["ratio:8,1,1", "months:3,0.5,0.5", "windows:5:8,1,1", "leave-one-out"])
def test_threads_and_memory_do_not_change_a_byte(prepared: Callable[..., Any], random_events: Any, split: str) -> None:
    events = random_events(11, rows=5000, users=300)
    made = [
        prepared(events, split, resources=resources).content()
        for resources in (Resources(threads=1), Resources(threads=4), Resources(threads=2, memory_limit="100MB"))
    ]
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 3


@pytest.mark.parametrize(
    "split",
    [
        *("", "random", "ratio", "ratio:", "ratio:8,1", "ratio:8,1,1,1", "ratio:a,b,c", "ratio:8,,1", "ratio:8,1,x"),
        *("ratio:-1,1,1", "ratio:0,1,1", "ratio:1/0,1,1", "ratio:nan,1,1", "ratio:inf,1,1", "ratio:1e999999999,1,1"),
        *("ratio:9999,1,1", "months", "months:10", "months:0,5,5", "months:99999,1,1", "leave-one-out:2", "given:x"),
        *("windows", "windows:11", "windows:1:8,1,1", "windows:0:8,1,1", "windows:-3:8,1,1", "windows:x:8,1,1"),
        *("windows::8,1,1", "windows:²:8,1,1", "windows:11:8,1", "windows:11:", "windows:99999999999:8,1,1"),
    ],
)
def test_other_forms_are_refused(split: str) -> None:
    with pytest.raises(RectoolError, match="--split") as raised:
        Preparation(split=split)
    assert "8,1,1" in str(raised.value)  # shows how it is written


def test_parts_are_exact() -> None:
    assert Split.parse("ratio:0.7,0.2,0.1").parts == (Fraction(7, 10), Fraction(1, 5), Fraction(1, 10))
    assert Split.parse("windows:11:8, 1 ,1") == Split("windows", (Fraction(8), Fraction(1), Fraction(1)), 11)
    assert Split.parse("ratio:1/3,1/3,1/3").parts == (Fraction(1, 3),) * 3
