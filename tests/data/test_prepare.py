"""What a data set is, however it came about: numbers, order, labels, schema, statistics, bytes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rectool.artifacts import digests, schemas
from rectool.data.settings import Filters, Resources
from rectool.errors import RectoolError

JANUARY = 978_307_200  # 2001-01-01 00:00:00 UTC


def test_numbers_go_by_first_appearance_and_ties_by_id_as_text(prepared: Any) -> None:
    events = [
        ("9", "x", JANUARY + 5),
        ("10", "y", JANUARY + 1),  # "10" before "9" where times are equal: ids are text
        ("9", "z", JANUARY + 1),
        ("b", "é", JANUARY),
        ("B", "x", JANUARY),
        ("10", "y", JANUARY + 9),
    ]
    made = prepared(events)
    assert [user["user_id"] for user in made.users] == ["B", "b", "10", "9"]
    assert [item["item_id"] for item in made.items] == ["x", "é", "y", "z"]
    assert [(row["user"], row["item"]) for row in made.interactions] == [(0, 0), (1, 1), (2, 2), (2, 2), (3, 3), (3, 0)]


def test_integer_ids_are_numbered_as_text_too(prepared: Any) -> None:
    table = pa.table(
        {
            "user_id": pa.array([9, 10, 100], pa.int64()),
            "item_id": pa.array([7, 70, 8], pa.int32()),
            "timestamp": pa.array([JANUARY] * 3, pa.int64()),
            "rating": pa.array([0, 1, 2], pa.float32()),
        }
    )
    made = prepared(table)
    assert [user["user_id"] for user in made.users] == ["10", "100", "9"]
    assert [item["item_id"] for item in made.items] == ["7", "70", "8"]


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_sorted_by_user_time_and_raw_row(prepared: Any, random_events: Any, seed: int) -> None:
    events = random_events(seed, rows=400)
    made = prepared(events)
    number = {user["user_id"]: place for place, user in enumerate(made.users)}
    assert made.order == sorted(range(400), key=lambda row: (number[events[row][0]], events[row][2], row))
    for stored, row in zip(made.interactions, made.order, strict=True):
        user, item, time = events[row]
        assert (made.users[stored["user"]]["user_id"], made.items[stored["item"]]["item_id"]) == (user, item)
        assert stored["timestamp"] == time


def test_schemas_are_the_documented_ones(prepared: Any, random_events: Any) -> None:
    made = prepared(random_events(1))
    assert pq.read_schema(made.path / "interactions.parquet").equals(schemas.INTERACTIONS)
    assert pq.read_schema(made.path / "items.parquet").equals(schemas.ITEMS)
    assert pq.read_schema(made.path / "users.parquet").equals(schemas.USERS)


def log(rows: int, **columns: pa.Array) -> pa.Table:
    return pa.table(
        {
            "user_id": ["u"] * rows,
            "item_id": [f"i{row}" for row in range(rows)],
            "timestamp": pa.array(range(JANUARY, JANUARY + rows), pa.int64()),
            **columns,
        }
    )


def labels(made: Any) -> list[int | None]:
    return [row["label"] for row in made.interactions]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(4.0, [0, 0, 1, 1]), (3.3, [0, 1, 1, 1]), (5.0, [0, 0, 0, 1]), (-1.0, [1, 1, 1, 1]), (1e-05, [1, 1, 1, 1])],
)
def test_labels_from_ratings(prepared: Any, threshold: float, expected: list[int]) -> None:
    """3.3 is not the same number in 32 and in 64 bits; a rating of 3.3 is a like from 3.3 on all the same."""
    ratings = pa.array([1, 3.3, 4, 5], pa.float32())
    made = prepared(log(4, rating=ratings), like_at_least=threshold)
    assert labels(made) == expected
    assert [row["rating"] for row in made.interactions] == ratings.to_pylist()


def test_a_label_column_goes_before_the_ratings(prepared: Any) -> None:
    table = log(3, rating=pa.array([1, 5, 5], pa.float32()), label=pa.array([1, 0, 1], pa.float32()))
    assert labels(prepared(table)) == [1, 0, 1]


def test_implicit_events_have_neither_rating_nor_label(prepared: Any) -> None:
    made = prepared(log(3))
    assert labels(made) == [None] * 3
    assert [row["rating"] for row in made.interactions] == [None] * 3
    assert made.metrics["label_share"] is None
    assert made.metrics["splits"]["train"]["label_share"] is None


def test_context_needs_no_label(prepared: Any) -> None:
    label, split = pa.array([None, 0, 1], pa.float32()), pa.array(["context", "train", "test"])
    assert labels(prepared(log(3, label=label, split=split), split="given")) == [None, 0, 1]


def test_labels_are_checked_before_they_are_rounded(prepared: Any) -> None:
    with pytest.raises(RectoolError, match="log, row 2: the label is neither 0 nor 1"):
        prepared(log(2, label=pa.array([1, 0.4], pa.float32())))


def test_what_is_known_of_items_and_users_is_kept(prepared: Any) -> None:
    events = [("u", "b", JANUARY), ("v", "a", JANUARY + 1)]
    catalogue = pa.table(
        {
            "item_id": ["a", "b", "unused"],
            "title": [" Alpha ", "Beta", "Gamma"],
            "text": ["  ", "A text.", None],
            "genres": pa.array([["x", "y"], [], None], pa.list_(pa.string())),
            "year": pa.array([1999, None, 3], pa.int16()),
        }
    )
    people = pa.table({"user_id": ["v", "w"], "age": pa.array([33, 44], pa.int16())})
    made = prepared(events, catalogue=catalogue, people=people)
    assert made.items == [
        {"item_id": "b", "title": "Beta", "text": "A text.", "genres": [], "year": None},
        {"item_id": "a", "title": "Alpha", "text": None, "genres": ["x", "y"], "year": 1999},
    ]
    assert made.users == [{"user_id": "u", "age": None}, {"user_id": "v", "age": 33}]
    assert made.metrics["notes"][:2] == [
        "1 users of people have no interactions: not stored",
        "1 users are not in people: their attributes are null",
    ]


@pytest.mark.parametrize("untitled", ["error", "drop", "id"])
def test_items_without_a_title(prepared: Any, untitled: str) -> None:
    events = [("u", "a", JANUARY), ("u", "b", JANUARY + 1), ("v", "c", JANUARY + 2), ("v", "b", JANUARY + 3)]
    catalogue = pa.table({"item_id": ["a", "b"], "title": ["Alpha", " "]})
    if untitled == "error":
        with pytest.raises(
            RectoolError, match=r"log, row 2: item b has no title in catalogue \(2 such items in 3 rows\)"
        ):
            prepared(events, catalogue=catalogue, untitled=untitled)
        return
    made = prepared(events, catalogue=catalogue, untitled=untitled)
    titles = [item["title"] for item in made.items]
    assert titles == (["Alpha"] if untitled == "drop" else ["Alpha", "b", "c"])
    assert len(made.interactions) == (1 if untitled == "drop" else 4)
    assert any("2 items without a title in catalogue" in note for note in made.metrics["notes"])


def test_invalid_rows_are_dropped_and_counted(prepared: Any) -> None:
    table = pa.table(
        {
            "user_id": ["u", None, "u", "", "u", "u", "u"],
            "item_id": ["a", "a", None, "a", "b", "c", "d"],
            "timestamp": pa.array([JANUARY, 1, 2, 3, None, JANUARY, JANUARY + 1], pa.int64()),
            "rating": pa.array([0, 1, 2, 3, 4, float("nan"), 6], pa.float32()),
        }
    )
    made = prepared(table, invalid_rows="drop")
    assert made.order == [0, 6]
    assert made.metrics["notes"][:4] == [
        "2 rows of log dropped: no user",
        "1 rows of log dropped: no item",
        "1 rows of log dropped: no timestamp",
        "1 rows of log dropped: the rating is not a number",
    ]
    with pytest.raises(RectoolError, match="log, row 2: no user"):
        prepared(table)
    with pytest.raises(RectoolError, match="log has no valid row"):
        prepared(table.slice(1, 3), invalid_rows="drop")


def windows_log(random_events: Any, seed: int) -> pa.Table:
    """A ready-made split with context, users who are context only, and labels."""
    events = random_events(seed, rows=600, users=40, items=200)
    users, items, times = zip(*events, strict=True)
    random = np.random.default_rng(seed)
    order = np.argsort(np.asarray(times), kind="stable")
    split = np.empty(600, object)
    split[order] = ["train"] * 300 + ["valid"] * 150 + ["test"] * 150
    split[random.random(600) < 0.4] = "context"
    return pa.table(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": pa.array(times, pa.int64()),
            "label": pa.array((random.random(600) < 0.6).astype(np.float32)),
            "split": pa.array(split, pa.string()),
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_statistics_are_what_pandas_counts(prepared: Any, random_events: Any, seed: int) -> None:
    pandas = pytest.importorskip("pandas")
    made = prepared(windows_log(random_events, seed), split="given")
    frame = pandas.read_parquet(made.path / "interactions.parquet")
    metrics = made.metrics

    assert metrics["users"] == frame["user"].nunique() == len(made.users)
    assert metrics["items"] == frame["item"].nunique() == len(made.items)
    assert metrics["interactions"] == len(frame) == 600
    assert metrics["density"] == pytest.approx(600 / (len(made.users) * len(made.items)))
    assert metrics["label_share"] == pytest.approx(frame["label"].mean())
    assert (metrics["first"], metrics["last"]) == (
        date(pandas, frame["timestamp"].min()),
        date(pandas, frame["timestamp"].max()),
    )

    # Seen: in a train row, or in the context that a train row of the same user has before it.
    trained = frame[frame["split"] == "train"]
    last = trained.reset_index().groupby("user")["index"].max()
    before = frame.index <= frame["user"].map(last).fillna(-1)
    seen_items = set(frame[before & frame["split"].isin(["train", "context"])]["item"])
    seen_users = set(trained["user"])
    assert seen_items - set(trained["item"])  # else context would not matter on this log
    assert set(frame[frame["split"] == "context"]["item"]) - seen_items

    assert set(metrics["splits"]) == {"train", "valid", "test", "context"}
    for name, figures in metrics["splits"].items():
        rows = frame[frame["split"] == name]
        by_user = rows.groupby("user")["label"].nunique()
        assert figures["rows"] == len(rows)
        assert figures["users"] == rows["user"].nunique()
        assert figures["items"] == rows["item"].nunique()
        assert figures["label_share"] == pytest.approx(rows["label"].mean())
        assert figures["users_with_both_labels"] == (by_user == 2).sum()
        assert figures["rows_of_unseen_items"] == (~rows["item"].isin(seen_items)).sum()
        assert figures["first"] == date(pandas, rows["timestamp"].min())
        assert figures["last"] == date(pandas, rows["timestamp"].max())
        if name == "context":
            assert "groups" not in figures
            continue
        warm_user, warm_item = rows["user"].isin(seen_users), rows["item"].isin(seen_items)
        assert figures["groups"] == {
            "warm": (warm_user & warm_item).sum(),
            "cold-user": (~warm_user & warm_item).sum(),
            "cold-item": (warm_user & ~warm_item).sum(),
            "cold-both": (~warm_user & ~warm_item).sum(),
        }
        assert sum(figures["groups"].values()) == len(rows)


def date(pandas: Any, seconds: int) -> str:
    return str(pandas.Timestamp(int(seconds), unit="s"))


def test_duckdb_pandas_and_polars_read_the_same(prepared: Any, random_events: Any) -> None:
    import duckdb

    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    events = random_events(3)
    catalogue = pa.table(
        {
            "item_id": [f"i{item}" for item in range(10)],
            "title": [f'Tïtle "{item}",\n' for item in range(10)],
            "year": pa.array([None, *range(1990, 1999)], pa.int16()),
            "genres": pa.array([None, [], *[["a", "b"]] * 8], pa.list_(pa.string())),
        }
    )
    made = prepared(events, catalogue=catalogue)
    for name, expected in (("interactions", made.interactions), ("items", made.items), ("users", made.users)):
        path = str(made.path / f"{name}.parquet")
        assert expected
        found = duckdb.connect().execute("SELECT * FROM read_parquet(?)", [path])
        columns = [column[0] for column in found.description]
        assert [dict(zip(columns, row, strict=True)) for row in found.fetchall()] == expected
        assert polars.read_parquet(path).to_dicts() == expected
        frame = pandas.read_parquet(path)
        assert list(frame.columns) == columns
        assert [plain(row) for row in frame.to_dict("records")] == expected


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of pandas, whose absent values are NaN and whose lists are arrays."""
    values = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
    return {name: None if value != value else value for name, value in values.items()}


def test_digests_are_those_of_the_files(prepared: Any, random_events: Any) -> None:
    made = prepared(random_events(2))
    assert set(made.digests) == {"items", "users", "interactions", "training"}
    assert made.digests == digests.of_dataset(made.path)


def test_manifest_holds_digests_settings_and_statistics(rectool: Any, tmp_path: Path) -> None:
    from rectool.artifacts import open_artifact

    table = tmp_path / "log.csv"
    rows = "".join(f"u{n % 7},i{n % 5},{n % 5 + 1},{JANUARY + n}\n" for n in range(60))
    table.write_text("user_id,item_id,rating,timestamp\n" + rows)
    outcome = rectool(
        "prep", "table", table, "--out", tmp_path / "out", "--like-at-least", "3", "--k-core", "2", "--json"
    )
    assert outcome.code == 0
    manifest = open_artifact(tmp_path / "out", "dataset").manifest
    assert {name: manifest.digests[name] for name in ("items", "users", "interactions", "training")} == (
        digests.of_dataset(tmp_path / "out")
    )
    assert manifest.settings["like_at_least"] == 3.0
    assert manifest.settings["k_core"] == 2
    assert manifest.counts == {"interactions": 60, "items": 5, "users": 7}
    assert manifest.metrics["label_share"] == pytest.approx(0.6)
    assert outcome.json["metrics"] == manifest.metrics
    assert [parent.role for parent in manifest.parents] == ["interactions"]


@pytest.fixture(scope="module")
def large_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300,000 rows, many of them at the same time."""
    random = np.random.default_rng(0)
    rows = 300_000
    table = pa.table(
        {
            "user_id": pa.array(random.integers(0, 20_000, rows)).cast(pa.string()),
            "item_id": pa.array(random.integers(0, 5_000, rows)).cast(pa.string()),
            "timestamp": pa.array(JANUARY + random.integers(0, 3_000, rows) * 10_000),
            "rating": pa.array(random.integers(1, 6, rows).astype(np.float32)),
        }
    )
    path = tmp_path_factory.mktemp("large") / "log.parquet"
    pq.write_table(table, path)
    return path


def test_bytes_depend_on_neither_run_nor_threads_nor_memory(prepared: Any, large_log: Path) -> None:
    table = pq.read_table(large_log)
    filters = Filters(k_core=3, duplicates="last")
    made = [
        prepared(table, split="windows:5:8,1,1", filters=filters, resources=resources)
        for resources in (
            Resources(threads=2),
            Resources(threads=2),
            Resources(threads=1),
            Resources(threads=2, memory_limit="200MB"),
        )
    ]
    assert len(made[0].content()["interactions.parquet"]) > 500_000
    for other in made[1:]:
        assert other.content() == made[0].content()
        assert other.digests == made[0].digests
        assert other.metrics == made[0].metrics


def test_bytes_do_not_depend_on_the_hash_seed_or_the_time_zone(tmp_path: Path) -> None:
    table = tmp_path / "log.csv"
    rows = "".join(f"u{n % 70},i{n % 31},{n % 5 + 1},2001-01-{n % 28 + 1:02} 23:30:00\n" for n in range(500))
    table.write_text("user_id,item_id,rating,timestamp\n" + rows)
    content = []
    for number, (seed, zone) in enumerate((("1", "UTC"), ("2", "America/New_York"))):
        out = tmp_path / f"out-{number}"
        command = [sys.executable, "-m", "rectool", "prep", "table", table, "--timestamp-unit", "iso", "--out", out]
        environment = {"PYTHONHASHSEED": seed, "TZ": zone, "PATH": "/usr/bin:/bin"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        content.append([path.read_bytes() for path in sorted(out.glob("*.parquet"))])
    assert len(content[0]) == 3
    assert content[0] == content[1]


@pytest.mark.parametrize(
    "folder", ["a b", "it's", 'a "b"', "é ü", "a[1]", "a*b", "{a,b}", "split=test", "user=1", "%41", "a;b--"]
)
def test_folders_of_any_name(rectool: Any, tmp_path: Path, folder: str) -> None:
    """No part of a path is read as SQL, as a pattern, or as a partition's column."""
    rows = "user_id,item_id,rating,timestamp\n" + "".join(f"u{n % 4},i{n},4,{JANUARY + n}\n" for n in range(20))
    made = []
    for place in (tmp_path / "plain", tmp_path / folder):
        place.mkdir()
        for name in ("log.csv", "log-.csv"):
            (place / name).write_text(rows if name == "log.csv" else rows.replace("u1", "other"))
        outcome = rectool("prep", "table", place / "log.csv", "--out", place / "out", "--json")
        assert outcome.code == 0, outcome.stderr
        made.append(
            (outcome.json["metrics"], [path.read_bytes() for path in sorted((place / "out").glob("*.parquet"))])
        )
    assert made[0] == made[1]


def test_a_question_mark_in_the_folder_is_refused(rectool: Any, tmp_path: Path) -> None:
    outcome = rectool("prep", "synthetic", "--users", 20, "--items", 40, "--out", tmp_path / "what?" / "out")
    assert outcome.code == 2
    assert "?" in outcome.error
    assert "--temp-dir" in outcome.error
    again = ["--out", tmp_path / "what?" / "out", "--temp-dir", tmp_path / "temp"]
    assert rectool("prep", "synthetic", "--users", 20, "--items", 40, *again).code == 0


def test_settings_that_cannot_change_the_result_are_not_recorded() -> None:
    assert not any(field.metadata["recorded"] for field in dataclasses.fields(Resources))
