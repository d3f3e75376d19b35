"""Published figures on real data, which RECTOOL_TEST_DATA names; nothing of it is kept here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rectool.artifacts import open_artifact
from rectool.data.dataset import Dataset


@pytest.fixture
def prep(rectool: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run `rectool prep` into tmp_path/data; its JSON."""

    def run(*arguments: object) -> dict[str, Any]:
        outcome = rectool("prep", *arguments, "--out", tmp_path / "data", "--json")
        assert outcome.code == 0, outcome.stderr
        result: dict[str, Any] = outcome.json
        return result

    return run


def rows(made: dict[str, Any]) -> dict[str, int]:
    return {name: figures["rows"] for name, figures in made["metrics"]["splits"].items()}


def test_movielens_100k(prep: Any, real_data: Path, tmp_path: Path) -> None:
    made = prep("movielens", "--variant", "100k", "--source", real_data / "ml-100k")
    assert made["counts"] == {"interactions": 100_000, "users": 943, "items": 1_682}
    assert rows(made) == {"train": 80_000, "valid": 10_000, "test": 10_000}
    assert made["metrics"]["label_share"] == pytest.approx(0.55375)
    titles = pq.read_table(tmp_path / "data" / "items.parquet", columns=["title"]).column(0).to_pylist()
    assert "Shawshank Redemption, The (1994)" in titles
    assert "Misérables, Les (1995)" in titles


def test_movielens_1m_in_months(prep: Any, real_data: Path) -> None:
    made = prep(
        *("movielens", "--variant", "1m", "--source", real_data / "ml-1m-half"),
        *("--split", "months:10,5,5", "--from", "2001-06", "--until", "2003-02"),
    )
    assert rows(made) == {"train": 21_848, "valid": 5_979, "test": 4_115}
    assert any("of users.dat have no interactions" in note for note in made["metrics"]["notes"])


def test_the_collm_split(prep: Any, real_data: Path) -> None:
    folder = real_data / "collm-ml-1m"
    made = prep("table", folder / "interactions.parquet", "--items", folder / "items.parquet")
    assert made["counts"] == {"interactions": 51_623, "users": 838, "items": 3_255}
    assert rows(made) == {"train": 33_891, "valid": 10_401, "test": 7_331}
    test = made["metrics"]["splits"]["test"]
    assert test["rows_of_unseen_items"] == test["groups"]["cold-item"] + test["groups"]["cold-both"] == 93
    assert test["users"] == 320
    assert test["users_with_both_labels"] == 224


@pytest.mark.parametrize("liked_only", [True, False])
def test_histories_are_the_earlier_rows_of_the_file(
    prep: Any, real_data: Path, tmp_path: Path, liked_only: bool
) -> None:
    """For all 51,623 rows; with likes only, these are the histories that CoLLM ships."""
    folder = real_data / "collm-ml-1m"
    prep("table", folder / "interactions.parquet", "--items", folder / "items.parquet")
    original = pq.read_table(folder / "interactions.parquet")
    expected: dict[str, list[tuple[str, int, list[str]]]] = defaultdict(list)
    earlier: dict[str, list[str]] = defaultdict(list)
    columns = (original.column(name).to_pylist() for name in ("user_id", "item_id", "timestamp", "label"))
    for user, item, time, label in zip(*columns, strict=True):
        expected[user].append((item, time, list(earlier[user])))
        if label == 1 or not liked_only:
            earlier[user].append(item)

    data = Dataset(open_artifact(tmp_path / "data", "dataset"))
    users = pq.read_table(tmp_path / "data" / "users.parquet").column("user_id").to_pylist()
    items = np.array(pq.read_table(tmp_path / "data" / "items.parquet").column("item_id").to_pylist())
    found, offsets = data.histories(liked_only=liked_only).ragged(np.arange(51_623))
    found = items[found]
    made: dict[str, list[tuple[str, int, list[str]]]] = defaultdict(list)
    for row, (user, item, time) in enumerate(zip(data.user, data.item, data.timestamp, strict=True)):
        made[users[user]].append((items[item], int(time), found[offsets[row] : offsets[row + 1]].tolist()))
    assert made == expected
    assert sum(map(len, made.values())) == 51_623


def test_office_windows(prep: Any, real_data: Path) -> None:
    folder = real_data / "amazon-office-2014"
    made = prep("table", folder / "interactions.parquet", "--items", folder / "items.parquet")
    assert made["counts"]["users"] == 19_250
    assert made["counts"]["items"] == 2_414
    targets = rows(made)
    assert targets.pop("context") == made["counts"]["interactions"] - 19_250
    assert targets == {"train": 15_400, "valid": 1_925, "test": 1_925}
    assert made["metrics"]["splits"]["test"]["rows_of_unseen_items"] == 896


def test_clothing_windows(prep: Any, real_data: Path) -> None:
    folder = real_data / "amazon-clothing-2014"
    made = prep("table", folder / "interactions.parquet", "--items", folder / "items.parquet")
    assert made["counts"]["items"] == 22_948
    assert {name: rows(made)[name] for name in ("train", "test")} == {"train": 44_351, "test": 5_544}
    assert made["metrics"]["splits"]["test"]["rows_of_unseen_items"] == 207
    assert "no row is in the split valid" in made["metrics"]["notes"]


def test_our_windows_are_those_of_the_papers(prep: Any, real_data: Path, tmp_path: Path) -> None:
    """Office's people, put together again from their windows, give each as many targets as it had windows."""
    original = pq.read_table(real_data / "amazon-office-2014" / "interactions.parquet")
    windows: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for window, owner, item in zip(
        *(original.column(n).to_pylist() for n in ("user_id", "owner", "item_id")), strict=True
    ):
        windows[owner][int(window.removeprefix(owner + "-"))].append(item)
    log = ["user_id,item_id,timestamp"]
    for owner, by_number in windows.items():
        first, *later = (by_number[number] for number in sorted(by_number))
        log += [f"{owner},{item},{time}" for time, item in enumerate([*first, *(items[-1] for items in later)])]
    (tmp_path / "people.csv").write_text("\n".join(log))

    made = prep("table", tmp_path / "people.csv", "--split", "windows:11:8,1,1")
    interactions = pq.read_table(tmp_path / "data" / "interactions.parquet")
    users = pq.read_table(tmp_path / "data" / "users.parquet").column("user_id").to_pylist()
    targets = Counter(
        interactions.filter(pc.not_equal(interactions.column("split"), "context")).column("user").to_pylist()
    )
    assert {users[user]: count for user, count in targets.items()} == {
        owner: len(by_number) for owner, by_number in windows.items()
    }
    assert {name: count for name, count in rows(made).items() if name != "context"} == {
        "train": 15_400,
        "valid": 1_925,
        "test": 1_925,
    }
