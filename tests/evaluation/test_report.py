"""The list of metrics.json."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rectool.errors import RectoolError
from rectool.evaluation.bootstrap import interval, replicates
from rectool.evaluation.metrics import CTR, metric
from rectool.evaluation.predictions import Predictions
from rectool.evaluation.report import measure_ctr, measure_ranking

ROWS, ITEMS = 200, 12


def predictions(seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    probability = random.random(ROWS).astype(np.float32)
    return Predictions(
        row=np.arange(ROWS) + 50,
        user=np.sort(random.integers(0, 30, ROWS)).astype(np.int32),
        item=random.integers(0, ITEMS, ROWS).astype(np.int32),
        label=random.integers(0, 2, ROWS).astype(np.int8),
        score=np.log(probability / (1 - probability)),
        probability=probability,
        group=random.choice(["warm", "cold-user", "cold-item"], ROWS),
        rank=random.integers(1, ITEMS, ROWS),
    )


def by_name(lines: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    found = {(line["group"], line["metric"]): line for line in lines}
    assert len(found) == len(lines)
    json.dumps(lines, allow_nan=False)
    return found


def test_every_metric_of_every_group_with_rows() -> None:
    found = predictions()
    lines = measure_ctr(found, threshold=0.4, draws=40, seed=7, confidence=0.8)

    groups = ["all", "warm", "cold", "cold-user", "cold-item"]
    assert [(line["group"], line["metric"]) for line in lines] == [(group, name) for group in groups for name in CTR]
    for (group, name), line in by_name(lines).items():
        targets = found.targets(found.members(group), threshold=0.4)
        assert line["value"] == pytest.approx(metric(name).of(targets))
        assert (line["users"], line["rows"]) == (targets.users, len(targets.row))
        drawn = replicates([metric(name).statistic(targets)], targets.users, 40, seed=7)[0]
        assert (line["low"], line["high"]) == pytest.approx(interval(drawn, 0.8))


def test_users_of_one_class_are_counted_beside_uauc() -> None:
    found = predictions()
    one_class = sum(len(set(found.label[found.user == user])) == 1 for user in np.unique(found.user))
    lines = by_name(measure_ctr(found, draws=0))
    assert one_class > 0
    assert lines["all", "uauc"]["skipped_users"] == one_class
    assert {line["skipped_users"] for (_, name), line in lines.items() if name != "uauc"} == {0}


def test_without_probabilities_only_what_ranks_is_measured() -> None:
    lines = by_name(measure_ctr(replace(predictions(), probability=None, group=None), draws=5))
    assert list(lines) == [("all", "auc"), ("all", "uauc")]
    undecided = by_name(measure_ctr(replace(predictions(), group=None), threshold=None, draws=5))
    assert [name for _, name in undecided] == ["auc", "uauc", "log_loss", "brier", "ece"]


def test_one_class_and_one_user_have_nulls() -> None:
    found = predictions()
    group = np.where(found.user == found.user[0], "cold-user", "warm")
    label = np.where(group == "warm", 1, found.label).astype(np.int8)
    lines = by_name(measure_ctr(replace(found, group=group, label=label), draws=10))

    for name in ("auc", "uauc"):
        assert [lines["warm", name][key] for key in ("value", "low", "high")] == [None, None, None]
    assert lines["warm", "log_loss"]["low"] < lines["warm", "log_loss"]["high"]
    assert lines["cold-user", "users" and "brier"]["value"] is not None
    assert [lines["cold-user", "brier"][key] for key in ("low", "high", "users")] == [None, None, 1]
    assert ("cold-item", "auc") not in lines


def test_no_draws_no_intervals() -> None:
    lines = by_name(measure_ctr(predictions(), draws=0))
    assert {(line["low"], line["high"]) for line in lines.values()} == {(None, None)}
    assert all(line["value"] is not None for line in lines.values())


def test_no_rows() -> None:
    nothing = predictions()
    empty = Predictions(nothing.row[:0], nothing.user[:0], nothing.item[:0], nothing.label[:0], nothing.score[:0])
    assert measure_ctr(empty, draws=5) == []


def test_a_row_without_a_label() -> None:
    found = predictions()
    label = found.label.copy()
    label[3] = -1
    with pytest.raises(RectoolError, match="row 53 has no label"):
        measure_ctr(replace(found, label=label))


def test_ranking_by_group() -> None:
    found = predictions()
    random = np.random.default_rng(1)
    topk = np.array([random.permutation(ITEMS)[:10] for _ in range(ROWS)], np.int32)
    counts = random.integers(0, 90, ITEMS)

    lines = by_name(measure_ranking(found, topk, ks=(2, 10), item_counts=counts, draws=20))

    names = [f"{name}@{k}" for k in (2, 10) for name in ("hr", "ndcg", "mrr", "recall", "coverage", "popularity")]
    assert [name for group, name in lines if group == "cold"] == names
    cold = found.members("cold-item")
    assert lines["cold-item", "hr@2"]["value"] == pytest.approx((found.rank[cold] <= 2).mean())  # type: ignore[index]
    assert lines["cold-item", "popularity@2"]["value"] == pytest.approx(counts[topk[cold, :2]].mean())
    assert lines["all", "coverage@2"]["value"] == len(np.unique(topk[:, :2])) / ITEMS
    for name in names:
        line = lines["all", name]
        assert (line["low"] is None) == name.startswith("coverage")
        if line["low"] is not None:
            assert line["low"] <= line["value"] <= line["high"]


def test_ranking_needs_no_labels_and_no_lists() -> None:
    found = replace(predictions(), label=np.full(ROWS, -1, np.int8), group=None, probability=None)
    lines = by_name(measure_ranking(found, ks=(5,), draws=5))
    assert [name for _, name in lines] == ["hr@5", "ndcg@5", "mrr@5", "recall@5"]
    for wrong, message in (
        ({"topk": np.zeros((ROWS, 3), int), "item_counts": np.ones(9, int)}, "too short"),
        ({"topk": np.zeros((ROWS, 5), int)}, "training rows"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_ranking(found, ks=(5,), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ranks"):
        measure_ranking(replace(found, rank=None), ks=(5,))
