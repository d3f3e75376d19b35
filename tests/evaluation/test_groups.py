"""Warm and cold rows, by hand and against loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rectool.artifacts import open_artifact
from rectool.artifacts.schemas import SPLITS
from rectool.data.dataset import Dataset
from rectool.errors import RectoolError
from rectool.evaluation.groups import GROUPS, REPORTED, WarmRule, group_rows, members, training_counts

TRAIN, VALID, TEST, CONTEXT = range(4)


@pytest.mark.parametrize("text", ["seen", "count>0", "count>3", "count>25"])
def test_rules_are_read_as_they_are_written(text: str) -> None:
    assert str(WarmRule.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "Seen", "count", "count>", "count>-1", "count>=3", "count>1.5", "count<3", "3", "count>1234567890"]
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(RectoolError, match="--warm"):
        WarmRule.parse(text)


def test_the_context_of_a_train_row_is_seen(log: Callable[..., Dataset]) -> None:
    """User 0's context item 1 stands before a train row, user 1's context item 2 before none."""
    data = log(
        [0, 0, 0, 0, 0, 1, 1, 1],
        [1, 0, 3, 2, 4, 2, 1, 0],
        split=[CONTEXT, TRAIN, CONTEXT, TEST, TEST, CONTEXT, TEST, TEST],
    )
    users, items = WarmRule.parse("seen").warm(data)
    assert users.tolist() == [True, False]
    assert items.tolist() == [True, True, False, False, False]
    assert group_rows(data, data.targets("test"), WarmRule(None)).tolist() == [
        "cold-item",
        "cold-item",
        "cold-user",
        "cold-user",
    ]
    counted = group_rows(data, data.targets("test"), WarmRule(0)).tolist()
    assert counted == ["cold-item", "cold-item", "cold-both", "cold-user"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", ["seen", "count>0", "count>1", "count>3"])
def test_the_definitions_as_loops(random_log: Callable[..., Dataset], seed: int, text: str) -> None:
    data = random_log(seed, rows=120, users=15, items=25)
    rows = list(zip(data.user.tolist(), data.item.tolist(), (SPLITS[code] for code in data.split), strict=True))
    train = [(user, item) for user, item, split in rows if split == "train"]
    by_user, by_item = Counter(user for user, _ in train), Counter(item for _, item in train)
    if text == "seen":
        users = set(by_user)
        items = set(by_item)
        for place, (user, item, split) in enumerate(rows):
            later = any(other == user and kind == "train" for other, _, kind in rows[place:])
            if split == "context" and later:
                items.add(item)
    else:
        least = int(text.removeprefix("count>"))
        users = {user for user, count in by_user.items() if count > least}
        items = {item for item, count in by_item.items() if count > least}

    targets = data.targets("test")
    found = group_rows(data, targets, WarmRule.parse(text))

    names = {(True, True): "warm", (False, True): "cold-user", (True, False): "cold-item", (False, False): "cold-both"}
    assert found.tolist() == [names[rows[row][0] in users, rows[row][1] in items] for row in targets]
    assert sum(members(found, group).astype(int) for group in GROUPS).tolist() == [1] * len(targets)
    assert np.array_equal(members(found, "cold"), ~members(found, "warm"))
    assert training_counts(data).tolist() == [by_item[item] for item in range(25)]


@pytest.mark.parametrize("split", ["ratio:5,2,3", "windows:4:5,2,3"])
def test_seen_is_what_the_manifest_counts(tmp_path: Path, rectool: Callable[..., Any], split: str) -> None:
    out = tmp_path / "data"
    flags = ("--users", 60, "--items", 200, "--split", split, "--seed", 3)
    assert rectool("prep", "synthetic", *flags, "--out", out).code == 0
    data = Dataset(open_artifact(out, "dataset"))
    for part in ("train", "valid", "test"):
        found = Counter(group_rows(data, data.targets(part), WarmRule.parse("seen")).tolist())
        counted = data.artifact.manifest.metrics["splits"][part]["groups"]
        assert {group: found[group] for group in GROUPS} == counted
    assert len(found) > 1


def test_reports_have_the_groups_of_the_statistics() -> None:
    assert set(REPORTED) == {"all", "cold", *GROUPS}
