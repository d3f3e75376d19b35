"""Each metric against scikit-learn, or against its definition as a loop."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as peer

from rectool.errors import RectoolError
from rectool.evaluation.metrics import CALIBRATION_BINS, CTR, best_threshold, metric, ranking
from rectool.evaluation.targets import Targets

ROWS, ITEMS = 400, 30


def some_targets(seed: int, decimals: int = 8, **more: Any) -> Targets:
    """Rows of 40 users in no order, the first of them with one class only; ties with few decimals."""
    random = np.random.default_rng(seed)
    user = random.integers(0, 40, ROWS)
    label = (random.random(ROWS) < user / 40).astype(np.int8)
    probability = np.round(np.clip(0.3 * label + 0.7 * random.random(ROWS), 0, 1), decimals).astype(np.float32)
    lists = np.array([random.permutation(ITEMS)[:10] for _ in range(ROWS)])
    lists[::3, 7:] = -1
    columns: dict[str, Any] = {
        "row": 3 * np.arange(ROWS),
        "user": 7 * user + 2,
        "label": label,
        "score": probability,
        "probability": probability,
        "threshold": 0.6,
        "rank": random.integers(1, 30, ROWS),
        "lists": lists,
        "item_counts": random.integers(0, 500, ITEMS),
    }
    return Targets(**columns | more)


@pytest.mark.parametrize("decimals", [1, 8])
def test_scikit_learn_agrees(decimals: int) -> None:
    targets = some_targets(1, decimals)
    assert targets.probability is not None
    label, probability = targets.label, targets.probability
    predicted = (probability >= np.float32(0.6)).astype(int)
    expected = {
        "auc": peer.roc_auc_score(label, probability),
        "log_loss": peer.log_loss(label, np.stack([1 - probability, probability], axis=1)),
        "accuracy": peer.accuracy_score(label, predicted),
        "precision": peer.precision_score(label, predicted),
        "recall": peer.recall_score(label, predicted),
        "f1": peer.f1_score(label, predicted),
        "macro_precision": peer.precision_score(label, predicted, average="macro"),
        "macro_recall": peer.recall_score(label, predicted, average="macro"),
        "macro_f1": peer.f1_score(label, predicted, average="macro"),
        "brier": peer.brier_score_loss(label, probability),
    }
    assert set(CTR) - set(expected) == {"uauc", "ece"}
    for name, value in expected.items():
        assert metric(name).of(targets) == pytest.approx(value, rel=1e-6), name


def test_uauc_is_the_mean_over_users_with_both_classes() -> None:
    targets = some_targets(2, 1)
    values = []
    for user in np.unique(targets.user):
        mine = targets.user == user
        if 0 < targets.label[mine].sum() < mine.sum():
            values.append(peer.roc_auc_score(targets.label[mine], targets.score[mine]))
    assert len(values) < targets.users
    assert metric("uauc").of(targets) == pytest.approx(np.mean(values))


@pytest.mark.parametrize("decimals", [1, 8])
def test_calibration_error_by_its_definition(decimals: int) -> None:
    targets = some_targets(3, decimals)
    assert targets.probability is not None
    bins: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for probability, label in zip(targets.probability.tolist(), targets.label.tolist(), strict=True):
        bins[min(math.floor(probability * CALIBRATION_BINS), CALIBRATION_BINS - 1)].append((probability, label))
    expected = 0.0
    for held in bins.values():
        confidence = sum(probability for probability, _ in held) / len(held)
        share = sum(label for _, label in held) / len(held)
        expected += len(held) / ROWS * abs(share - confidence)
    assert metric("ece").of(targets) == pytest.approx(expected)
    certain = replace(targets, probability=targets.label.astype(np.float32))
    assert metric("ece").of(certain) == 0


def test_log_loss_of_certain_mistakes_is_finite_and_is_that_of_scikit_learn() -> None:
    probability = np.array([0, 1, 1, 0], dtype=np.float32)
    label = np.array([1, 0, 1, 0], dtype=np.int8)
    targets = Targets(np.arange(4), np.arange(4), label, probability, probability)
    both = np.stack([1 - probability, probability], axis=1)
    assert metric("log_loss").of(targets) == pytest.approx(peer.log_loss(label, both), rel=1e-6)
    assert metric("log_loss").of(targets) == pytest.approx(-math.log(2**-23) / 2, rel=1e-6)


@pytest.mark.parametrize(("label", "predicted"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_one_class_divides_by_zero_as_zero(label: int, predicted: int) -> None:
    labels, decisions = np.full(6, label), np.full(6, predicted)
    targets = some_targets(0).part(np.arange(6))
    targets = replace(targets, label=labels, probability=decisions.astype(np.float32))
    given: dict[str, Any] = {"labels": [0, 1], "zero_division": 0}
    for name, function in (
        ("precision", peer.precision_score),
        ("recall", peer.recall_score),
        ("f1", peer.f1_score),
    ):
        assert metric(name).of(targets) == function(labels, decisions, zero_division=0), name
        assert metric(f"macro_{name}").of(targets) == function(labels, decisions, average="macro", **given), name
    assert np.isnan(metric("auc").of(targets))
    assert np.isnan(metric("uauc").of(targets))
    assert metric("accuracy").of(targets) == float(label == predicted)


def test_no_rows_have_no_values_and_no_warnings() -> None:
    targets = some_targets(0).part(np.zeros(ROWS, bool))
    for found in (*CTR.values(), *ranking([5])):
        if found.name.startswith("coverage"):
            continue
        value = found.of(targets)
        assert np.isnan(value) or (value == 0 and "threshold" in found.needs), found.name


@pytest.mark.parametrize("k", [1, 5, 10])
def test_ranking_metrics_by_their_definitions(k: int) -> None:
    targets = some_targets(4)
    assert targets.rank is not None
    assert targets.lists is not None
    assert targets.item_counts is not None
    ranks = targets.rank.tolist()
    by_user: dict[int, list[int]] = defaultdict(list)
    for user, rank in zip(targets.user.tolist(), ranks, strict=True):
        by_user[user].append(rank)
    listed = [item for best in targets.lists.tolist() for item in best[:k] if item >= 0]
    expected = {
        "hr": sum(rank <= k for rank in ranks) / ROWS,
        "ndcg": sum(1 / math.log2(1 + rank) for rank in ranks if rank <= k) / ROWS,
        "mrr": sum(1 / rank for rank in ranks if rank <= k) / ROWS,
        "recall": sum(sum(rank <= k for rank in own) / len(own) for own in by_user.values()) / len(by_user),
        "coverage": len(set(listed)) / ITEMS,
        "popularity": sum(int(targets.item_counts[item]) for item in listed) / len(listed),
    }
    assert [found.name for found in ranking([k])] == [f"{name}@{k}" for name in expected]
    for name, value in expected.items():
        assert metric(f"{name}@{k}").of(targets) == pytest.approx(value), name


def test_values_under_weights_are_those_of_repeated_users() -> None:
    """The user with weight 2 counts as two users with the same rows."""
    targets = some_targets(5, 1)
    random = np.random.default_rng(0)
    weights = random.integers(0, 3, (3, targets.users))
    names = [*CTR, "hr@5", "ndcg@5", "mrr@5", "recall@5", "popularity@5"]
    for draw in weights:
        copies = [targets.part(draw[targets.owner] > 0), targets.part(draw[targets.owner] == 2)]
        copies[1] = replace(copies[1], user=copies[1].user + 10_000)
        joined = {
            column: np.concatenate([getattr(copy, column) for copy in copies])
            for column in ("row", "user", "label", "score", "probability", "rank", "lists")
        }
        repeated = replace(targets, **joined)
        for name in names:
            found = metric(name).statistic(targets)(draw[None].astype(float))[0]
            assert found == pytest.approx(metric(name).of(repeated)), name


def test_the_best_threshold_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for rows, decimals in [(400, 2), (400, 8)] + [(8, 1)] * 60:
        probability = np.round(random.random(rows), decimals).astype(np.float32)
        label = random.integers(0, 2, rows)
        label[0] = 1
        f1 = {limit: peer.f1_score(label, probability >= np.float32(limit)) for limit in set(probability.tolist())}
        best = max(f1.values())
        assert best_threshold(label, probability) == max(limit for limit in f1 if f1[limit] >= best - 1e-12)
    with pytest.raises(RectoolError, match="--threshold"):
        best_threshold(np.zeros(3, np.int8), np.array([0.1, 0.2, 0.3]))


def test_a_threshold_is_compared_in_the_precision_of_the_probabilities() -> None:
    probability = np.array([0.7, 0.2], np.float32)  # 0.7 as float32 is below 0.7
    targets = Targets(np.arange(2), np.arange(2), np.array([1, 0]), probability, probability, threshold=0.7)
    assert metric("accuracy").of(targets) == 1


def test_which_way_is_better() -> None:
    lower = {found.name for found in (*CTR.values(), *ranking([5, 10])) if found.higher_is_better is False}
    assert lower == {"log_loss", "brier", "ece"}
    assert metric("popularity@5").higher_is_better is None


@pytest.mark.parametrize("name", ["acc", "hr", "hr@0", "hr@-1", "auc@5", "ndcg@five", ""])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(RectoolError, match=r"the metrics are auc, uauc, .*hr@K, .*popularity@K"):
        metric(name)


def test_what_is_missing_is_named() -> None:
    targets = some_targets(0)
    for name, column in (("log_loss", "probability"), ("f1", "threshold"), ("hr@5", "rank"), ("coverage@5", "lists")):
        with pytest.raises(RectoolError, match=f"{name} needs a {column}"):
            metric(name).of(replace(targets, **{column: None}))
    labels = targets.label.copy()
    labels[4] = -1
    with pytest.raises(RectoolError, match="row 12 has no label"):
        metric("auc").of(replace(targets, label=labels))
    scores = targets.score.copy()
    scores[4] = np.nan
    for name in ("auc", "uauc"):
        with pytest.raises(RectoolError, match=r"row 4 .* is NaN"):
            metric(name).of(replace(targets, score=scores))
