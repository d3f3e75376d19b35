"""What is counted of the train rows, and the priors told beside every model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rectool.data.dataset import Dataset
from rectool.evaluation.auc import auc
from rectool.evaluation.scorer import CollaborativeScorer
from rectool.models.priors import SMOOTHINGS
from rectool.models.saved import Trained
from rectool.training.counting import counted, prior, training_rows
from rectool.training.run import Run
from rectool.training.train_cf import untrained
from rectool.training.validation import Validation

CPU = torch.device("cpu")
RUN = Run(0, CPU)


@pytest.fixture
def new(chosen: Callable[..., Any]) -> Callable[..., Trained]:
    """An untrained model: `new(dataset, "mf", task="ctr")`."""
    return lambda data, model, **given: untrained(data, chosen(data, model, **given)[0], RUN)


# What is observed


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["ctr", "next-item"])
@pytest.mark.parametrize(
    ("model", "rule"), [("mf", {}), ("markov", {"history": "all"}), ("markov", {"history": "liked"})]
)
def test_training_rows_are_the_train_rows_with_the_last_item_before_them(
    seed: int,
    task: str,
    model: str,
    rule: dict[str, str],
    random_log: Callable[..., Dataset],
    new: Callable[..., Trained],
) -> None:
    data = random_log(seed)
    rows = training_rows(data, new(data, model, task=task, **rule))
    train_rows = data.targets("train").tolist()
    assert rows.user.tolist() == data.user[train_rows].tolist()
    assert rows.item.tolist() == data.item[train_rows].tolist()
    assert rows.label.tolist() == (data.label[train_rows].tolist() if task == "ctr" else [-1] * len(train_rows))
    expected = []
    for row in train_rows:
        before = [r for r in range(row) if data.user[r] == data.user[row]]
        if rule.get("history") == "liked":
            before = [r for r in before if data.label[r] == 1]
        expected.append(int(data.item[before[-1]]) if before else -1)
    assert rows.previous.tolist() == expected
    assert (rows.users, rows.items) == (data.users, data.items)


def test_nobody_likes_anything(log: Callable[..., Dataset], new: Callable[..., Trained]) -> None:
    data = log([0, 0, 1], [0, 1, 0], [0, 0, 0])
    assert training_rows(data, new(data, "markov", task="ctr")).previous.tolist() == [-1, -1, -1]


def test_a_markov_model_counts_what_it_will_read(log: Callable[..., Dataset], new: Callable[..., Trained]) -> None:
    """Of liked items only: the disliked row between them leads nowhere."""
    data = log([0, 0, 0], [0, 1, 2], [1, 0, 1])
    made = new(data, "markov", task="ctr", smoothing=1.0)
    made.model.observe(training_rows(data, made))
    assert made.model.transition.tolist() == [0 * 3 + 2]


# What is counted


@pytest.mark.parametrize(("metric", "sign"), [("uauc", 1), ("log_loss", -1)])
def test_smoothing_is_the_best_on_validation(
    metric: str, sign: int, dataset: Dataset, new: Callable[..., Trained], capsys: pytest.CaptureFixture[str]
) -> None:
    made = new(dataset, "bias")
    rows, validation = training_rows(dataset, made), Validation.of(dataset, made.task, CPU, None, 0)
    found = counted(made, rows, validation, metric).model.settings.smoothing
    assert f"smoothing {found:g}, the best of 6 by {metric} on validation" in capsys.readouterr().err
    values = {}
    for smoothing in SMOOTHINGS:
        each = new(dataset, "bias", smoothing=smoothing)
        values[smoothing] = sign * validation(CollaborativeScorer(counted(each, rows, validation, metric), CPU))[metric]
    assert values[found] == max(values.values())
    assert len(set(values.values())) > 1


def test_without_validation_rows_nothing_is_claimed(
    log: Callable[..., Dataset], new: Callable[..., Trained], capsys: pytest.CaptureFixture[str]
) -> None:
    data = log([0, 0, 1], [0, 1, 0], [1, 0, 1])
    made = new(data, "bias")
    found = counted(made, training_rows(data, made), Validation.of(data, made.task, CPU, None, 0), "auc")
    assert found.model.settings.smoothing in SMOOTHINGS
    assert "the best of" not in capsys.readouterr().err


# Priors


def test_the_priors_of_ctr(dataset: Dataset) -> None:
    """With users and without: the mean logits of items, smoothed as does best, rank the rows."""
    validation = Validation.of(dataset, "ctr", CPU, None, 0)
    both = prior(dataset, "ctr", True, validation, "auc")
    items = prior(dataset, "ctr", True, validation, "auc", users=False)
    assert both.keys() == items.keys() == {"model", "auc", "uauc", "log_loss"}
    assert both["model"] == "bias"
    train, valid = dataset.targets("train"), dataset.targets("valid")
    mean = (dataset.label[train] == 1).mean()
    best = 0.0
    for smoothing in SMOOTHINGS:
        likes = np.bincount(dataset.item[train], dataset.label[train] == 1, minlength=dataset.items)
        means = (likes + smoothing * mean) / (np.bincount(dataset.item[train], minlength=dataset.items) + smoothing)
        best = max(best, auc(dataset.label[valid], means[dataset.item[valid]]))
    assert items["auc"] == pytest.approx(best, abs=0.005)  # means are smoothed towards (likes + 1/2) / (rows + 1)
    assert both["auc"] != items["auc"]


def test_without_probabilities_a_prior_has_none(dataset: Dataset) -> None:
    assert "log_loss" not in prior(dataset, "ctr", False, Validation.of(dataset, "ctr", CPU, None, 0), "auc")


def test_the_prior_of_next_item(dataset: Dataset) -> None:
    found = prior(dataset, "next-item", False, Validation.of(dataset, "next-item", CPU, None, 0), "ndcg@10")
    assert found.keys() == {"model", "ndcg@10", "hr@10", "mrr@10"}
    assert found["model"] == "popularity"
