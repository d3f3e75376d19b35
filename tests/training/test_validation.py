"""What validation measures, against the definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from rectool.data.dataset import Dataset
from rectool.evaluation.scorer import CollaborativeScorer
from rectool.training import validation
from rectool.training.run import Run
from rectool.training.train_cf import untrained
from rectool.training.validation import Validation

CPU = torch.device("cpu")


@pytest.fixture
def trained(dataset: Dataset, chosen: Callable[..., Any]) -> Callable[..., Any]:
    """Matrix factorisation with random weights."""

    def make(task: str, **given: Any) -> Any:
        choice, _ = chosen(dataset, "mf", task=task, embedding_size=4, init_scale=1.0, **given)
        return untrained(dataset, choice, Run(0, CPU))

    return make


def measured(dataset: Dataset, trained: Any) -> dict[str, float]:
    return Validation.of(dataset, trained.task, CPU, None, 0)(CollaborativeScorer(trained, CPU))


def scores(trained: Any) -> np.ndarray:
    """(U, I)"""
    model = trained.model
    with torch.no_grad():
        return (model.user.weight @ model.item.weight.T).numpy()


def test_ctr(dataset: Dataset, trained: Callable[..., Any]) -> None:
    made = trained("ctr")
    rows = dataset.targets("valid")
    user, label = dataset.user[rows], dataset.label[rows]
    own = scores(made)[user, dataset.item[rows]].astype(np.float64)
    by_user = [
        roc_auc_score(label[user == each], own[user == each])
        for each in np.unique(user)
        if len(set(label[user == each])) == 2
    ]
    assert measured(dataset, made) == pytest.approx(
        {
            "auc": roc_auc_score(label, own),
            "uauc": np.mean(by_user),
            "log_loss": log_loss(label, 1 / (1 + np.exp(-own))),
        },
        rel=1e-5,
    )


def test_log_loss_only_of_probabilities(dataset: Dataset, trained: Callable[..., Any]) -> None:
    made = trained("ctr", loss="squared-error")
    assert measured(dataset, made).keys() == {"auc", "uauc"}


def test_next_item(dataset: Dataset, trained: Callable[..., Any]) -> None:
    made = trained("next-item")
    rows = dataset.targets("valid")
    table, item = scores(made)[dataset.user[rows]], dataset.item[rows]
    ranks = 1 + (table > table[np.arange(len(rows)), item][:, None]).sum(1)
    hit = ranks <= 10
    assert measured(dataset, made) == pytest.approx(
        {
            "ndcg@10": float(np.mean(hit / np.log2(1 + ranks))),
            "hr@10": float(np.mean(hit)),
            "mrr@10": float(np.mean(hit / ranks)),
        },
        rel=1e-5,
    )


def test_no_more_rows_than_the_limit(dataset: Dataset, trained: Callable[..., Any]) -> None:
    made, everything = trained("next-item"), dataset.targets("valid")
    found = [Validation.of(dataset, made.task, CPU, 20, seed).rows for seed in (0, 0, 1)]
    assert [len(rows) for rows in found] == [20, 20, 20]
    assert found[0].tolist() == found[1].tolist() == sorted(set(found[0].tolist()))
    assert set(found[0].tolist()) <= set(everything.tolist())
    assert found[0].tolist() != found[2].tolist()
    for limit in (None, len(everything)):
        assert Validation.of(dataset, made.task, CPU, limit, 0).rows.tolist() == everything.tolist()


def test_without_a_limit_there_is_one(log: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "ROWS", 7)
    data = log([0] * 10, [0] * 10, [1] * 10, ["train"] + ["valid"] * 9)
    for task in ("ctr", "next-item"):
        assert len(Validation.of(data, task, CPU, None, 0).rows) == 7


def test_rows_without_a_label_are_not_for_ctr(log: Callable[..., Dataset]) -> None:
    data = log([0] * 4, [0] * 4, [1, -1, 0, -1], ["train", "valid", "valid", "test"])
    for task, rows in (("ctr", [2]), ("next-item", [1, 2])):
        assert Validation.of(data, task, CPU, None, 0).rows.tolist() == rows


def test_without_rows_or_with_one_class_there_is_less_to_tell(
    log: Callable[..., Dataset], chosen: Callable[..., Any]
) -> None:
    for split, expected in (("train", set()), ("valid", {"log_loss"})):
        data = log([0, 0], [0, 1], [1, 1], ["train", split])
        made = untrained(data, chosen(data, "mf", task="ctr")[0], Run(0, CPU))
        assert measured(data, made).keys() == expected
