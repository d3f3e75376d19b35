"""What the truth of synthetic data reaches, against a slow way, on data sets that are really made."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rectool.evaluation.truth import best_reachable


def made(rectool: Callable[..., Any], out: Path, task: str) -> Any:
    flags = ("--task", task, "--users", 30, "--items", 60, "--split", "windows:6:8,1,1", "--json")
    done = rectool("prep", "synthetic", *flags, "--out", out)
    assert done.code == 0, done.stderr
    return done.json["metrics"]


def test_sequences_reach_what_their_true_ranks_say(rectool: Callable[..., Any], tmp_path: Path) -> None:
    metrics = made(rectool, tmp_path / "data", "next-item")
    assert metrics["truth"] == best_reachable(tmp_path / "data")
    rows = pq.read_table(tmp_path / "data" / "interactions.parquet").to_pylist()
    assert {row["label"] for row in rows} == {row["rating"] for row in rows} == {None}
    for split in ("train", "valid", "test"):
        ranks = [row["true_rank"] for row in rows if row["split"] == split]
        assert 1 <= min(ranks) <= max(ranks) <= 60
        for k in (5, 10):
            hits = [rank for rank in ranks if rank <= k]
            assert metrics["truth"][split][f"hr@{k}"] == pytest.approx(len(hits) / len(ranks))
            gains = sum(1 / math.log2(1 + rank) for rank in hits)
            assert metrics["truth"][split][f"ndcg@{k}"] == pytest.approx(gains / len(ranks))


def test_ratings_reach_what_their_true_probabilities_say(rectool: Callable[..., Any], tmp_path: Path) -> None:
    metrics = made(rectool, tmp_path / "data", "ctr")
    rows = pq.read_table(tmp_path / "data" / "interactions.parquet").to_pylist()
    of_test = [(row["label"], row["true_probability"]) for row in rows if row["split"] == "test"]
    pairs = [(liked, not_) for one, liked in of_test for other, not_ in of_test if one == 1 and other == 0]
    expected = sum((liked > not_) + 0.5 * (liked == not_) for liked, not_ in pairs) / len(pairs)
    assert metrics["truth"]["test"]["auc"] == pytest.approx(expected)
    assert metrics["truth"] == best_reachable(tmp_path / "data")


def test_people_see_it_too(rectool: Callable[..., Any], tmp_path: Path) -> None:
    flags = ("--users", 30, "--items", 60, "--task")
    assert "NDCG@10" in rectool("prep", "synthetic", *flags, "next-item", "--out", tmp_path / "sequences").stdout
    assert "UAUC" in rectool("prep", "synthetic", *flags, "ctr", "--out", tmp_path / "ratings").stdout
