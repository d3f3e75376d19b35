"""Users and items by what people call them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from rectool.data.dataset import Dataset
from rectool.data.finding import items_named, users_named
from rectool.errors import RectoolError

ITEMS = {
    "1": "Toy Story (1995)",
    "2": "Heat",
    "3": "Heat",
    "4": "Me; Myself; Irene",
    "5": "7",
    "6": "UP",
    "7": "Alien",
    "8": "Up",
    "9": "Toy Story 2 (1999)",
}


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    artifact: Any = SimpleNamespace(path="data")
    monkeypatch.setattr(Dataset, "titles", lambda _: pa.array(ITEMS.values()))
    monkeypatch.setattr(Dataset, "item_ids", lambda _: pa.array(ITEMS))
    monkeypatch.setattr(Dataset, "user_ids", lambda _: pa.array(["ann", "bob", "cat"]))
    return Dataset(artifact)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        ("Alien; Toy Story (1995)", [6, 0]),
        ("3;2 ; 1;", [2, 1, 0]),
        ("alien", [6]),
        ("Up; UP", [7, 5]),
        ("Me; Myself; Irene", [3]),
        ("id:7; id:5", [6, 4]),
        ("Alien; Alien", [6, 6]),
    ],
)
def test_items(dataset: Dataset, names: str, places: list[int]) -> None:
    assert items_named(dataset, names, "--likes").tolist() == places


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("Heat", "--likes: 'Heat' may be id:2 ('Heat'), id:3 ('Heat'); name one by its id"),
        ("7", "--likes: '7' may be id:5 ('7'), id:7 ('Alien'); name one by its id"),
        ("up", "--likes: 'up' may be id:6 ('UP'), id:8 ('Up'); name one by its id"),
        ("Toy Story", "--likes: data has no item 'Toy Story'; it has 'Toy Story (1995)', 'Toy Story 2 (1999)'"),
        ("Alein", "--likes: data has no item 'Alein'; it has 'Alien'"),
        ("xyzzy", "--likes: data has no item 'xyzzy'"),
        ("id:10", "--likes: data has no item with the id '10'; it has '1'"),
        (" ; ", "--likes: name titles or item ids, such as --likes 'Alien; Heat'"),
        ("x" * 100, f"--likes: data has no item '{'x' * 60}...'"),
    ],
)
def test_items_that_cannot_be_meant(dataset: Dataset, names: str, said: str) -> None:
    with pytest.raises(RectoolError) as problem:
        items_named(dataset, names, "--likes")
    assert str(problem.value) == said


def test_users(dataset: Dataset) -> None:
    assert users_named(dataset, ["cat", "ann", "cat"], ["x"] * 3).tolist() == [0, 2]
    assert users_named(dataset, [], []).tolist() == []
    with pytest.raises(RectoolError, match=r"^list.txt, line 2: data has no user 'bobb'; it has 'bob'$"):
        users_named(dataset, ["ann", "bobb"], ["list.txt, line 1", "list.txt, line 2"])
