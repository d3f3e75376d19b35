"""Counts and means against dictionaries."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from rectool.models import priors
from rectool.models.model import ItemBias, TrainingRows


def listed(rows: TrainingRows) -> list[tuple[int, int, int, int]]:
    columns = (column.tolist() for column in (rows.user, rows.item, rows.label, rows.previous))
    return list(zip(*columns, strict=True))


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def naive_bias(rows: TrainingRows, user: int, item: int, smoothing: float) -> float:
    labels = [label for _, _, label, _ in listed(rows) if label >= 0]
    mean = (sum(labels) + 0.5) / (len(labels) + 1)
    total = logit(mean)
    for column, wanted in ((0, user), (1, item)):
        own = [row[2] for row in listed(rows) if row[column] == wanted and row[2] >= 0]
        total += logit((sum(own) + smoothing * mean) / (len(own) + smoothing)) - logit(mean)
    return total


@pytest.fixture
def mixed(rows: TrainingRows) -> TrainingRows:
    """Every fifth row has no label."""
    label = torch.where(torch.arange(len(rows.label)) % 5 == 0, -1, rows.label)
    return TrainingRows(rows.users, rows.items, rows.user, rows.item, label, rows.previous)


@pytest.mark.parametrize("smoothing", [1.0, 7.5])
def test_mean_logits(mixed: TrainingRows, smoothing: float) -> None:
    users, items, mean = priors.mean_logits(mixed, smoothing)
    for user in range(6):
        for item in range(9):
            found = float(users[user] + items[item] + mean)
            assert found == pytest.approx(naive_bias(mixed, user, item, smoothing), abs=1e-12)
    assert users[5] == items[8] == 0


def test_means_of_one_class_are_finite(rows: TrainingRows) -> None:
    for label in (0, 1):
        one_class = TrainingRows(
            rows.users, rows.items, rows.user, rows.item, torch.full_like(rows.label, label), rows.previous
        )
        users, items, mean = priors.mean_logits(one_class, 1.0)
        assert torch.cat((users, items, mean[None])).isfinite().all()
        assert bool(mean > 0) == bool(label)


def test_popularity_and_shares(mixed: TrainingRows) -> None:
    counts = Counter(item for _, item, label, _ in listed(mixed) if label != 0)
    assert priors.popularity(mixed).tolist() == [counts[item] for item in range(9)]
    total = sum(counts.values()) + 9
    expected = [math.log((counts[item] + 1) / total) for item in range(9)]
    assert priors.log_shares(mixed).tolist() == pytest.approx(expected)
    assert float(priors.log_shares(mixed).exp().sum()) == pytest.approx(1)


def test_biases_start_from_means_of_labels(rows: TrainingRows) -> None:
    bias, user_bias = ItemBias(9), nn.Embedding(6, 1)
    priors.start_biases(rows, bias, user_bias)
    for user in range(6):
        for item in range(9):
            found = (user_bias.weight[user, 0] + bias()[item]).item()
            assert found == pytest.approx(naive_bias(rows, user, item, priors.START_SMOOTHING), abs=1e-5)
    assert bias.weight.requires_grad


def test_biases_start_from_popularity_without_labels(rows: TrainingRows) -> None:
    """A softmax of them is the items' shares; against one uniform negative they are the log odds."""
    rows = TrainingRows(rows.users, rows.items, rows.user, rows.item, torch.full_like(rows.label, -1), rows.previous)
    bias, user_bias = ItemBias(9), nn.Embedding(6, 1)
    nn.init.zeros_(user_bias.weight)
    priors.start_biases(rows, bias, user_bias)
    shares = priors.log_shares(rows).exp().float()
    torch.testing.assert_close(bias().softmax(0), shares)
    torch.testing.assert_close(bias().sigmoid(), shares / (shares + 1 / 9))
    assert not user_bias.weight.any()


def test_zero_unknown() -> None:
    table = nn.Embedding(5, 3)
    before = table.weight.detach().clone()
    priors.zero_unknown(table, torch.tensor([3, 0, 3]))
    assert torch.equal(table.weight[[0, 3]], before[[0, 3]])
    assert not table.weight[[1, 2, 4]].any()
    assert table.weight.requires_grad


def test_the_bias_model(build: Any, rows: TrainingRows) -> None:
    model = build("bias", smoothing=3.0)
    scores = model.rank(torch.arange(6), None)(0, 9)
    for user in range(6):
        for item in range(9):
            assert float(scores[user, item]) == pytest.approx(naive_bias(rows, user, item, 3.0), abs=1e-5)


def test_the_popularity_model(build: Any, rows: TrainingRows) -> None:
    counts = Counter(item for _, item, label, _ in listed(rows) if label != 0)
    assert build("popularity").rank(torch.arange(2), None)(0, 9).tolist() == [[counts[item] for item in range(9)]] * 2
