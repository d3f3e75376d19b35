"""CTR objectives against a loop that scores one labelled row after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rectool.data.dataset import Dataset
from rectool.models.model import Sequences
from rectool.training.counting import training_rows
from rectool.training.ctr import BlockwiseObjective, PointwiseObjective, labelled_rows
from rectool.training.run import Run
from rectool.training.train_cf import untrained
from rectool.training.validation import Validation

CPU = torch.device("cpu")
SMALL = {
    "mf": {"embedding_size": 6},
    "lightgcn": {"embedding_size": 6},
    "ncf": {"embedding_size": 6},
    "din": {"embedding_size": 6, "hidden_size": 5, "max_length": 4},
    "gru4rec": {"embedding_size": 6, "max_length": 50},
    "sasrec": {"embedding_size": 6, "heads": 2, "max_length": 50},
}


@pytest.fixture
def make(chosen: Callable[..., Any]) -> Callable[..., Any]:
    """The objective of an untrained model with random weights, in eval mode."""

    def objective(data: Dataset, model: str, **given: Any) -> Any:
        choice, _ = chosen(data, model, task="ctr", **{**SMALL[model], **given})
        trained = untrained(data, choice, Run(0, CPU))
        trained.model.observe(training_rows(data, trained))
        with torch.no_grad():
            for parameter in trained.model.parameters():
                parameter.normal_(std=0.4)
        trained.model.eval()
        kind = BlockwiseObjective if model in ("gru4rec", "sasrec") else PointwiseObjective
        return kind(trained, data, choice.loss, Validation.of(data, trained.task, CPU, 10, 0), CPU)

    return objective


@pytest.fixture
def data(random_log: Callable[..., Dataset]) -> Dataset:
    """Some of its rows have no label: they are history, and no targets."""
    made = random_log(2, rows=60)
    made.label[::5] = -1
    return made


def naive_score(objective: Any, row: int) -> float:
    """The score of a row from its own history, of at most the model's length."""
    data, model, rule = objective.dataset, objective.trained.model, objective.trained.history
    items: list[int] = []
    if rule is not None:
        before = [
            r for r in range(row) if data.user[r] == data.user[row] and (data.label[r] == 1 or not rule.liked_only)
        ]
        items = data.item[before].tolist()[-rule.length :]
    sequences = Sequences(torch.tensor([items], dtype=torch.int64), torch.tensor([len(items)]))
    with torch.no_grad():
        return float(model.score(torch.tensor([data.user[row]]), torch.tensor([data.item[row]]), sequences))


def naive_loss(score: float, label: int, loss: str) -> float:
    if loss == "squared-error":
        return (score - label) ** 2
    return math.log1p(math.exp(-score if label else score))


@pytest.mark.parametrize("loss", ["bce", "squared-error"])
@pytest.mark.parametrize("model", ["mf", "lightgcn", "ncf", "din"])
@pytest.mark.parametrize("history", ["liked", "all"])
def test_rows_by_themselves(model: str, loss: str, history: str, data: Dataset, make: Callable[..., Any]) -> None:
    if history == "all" and model != "din":
        history = ""  # which reads none
    objective = make(data, model, loss=loss, **({"history": history} if model == "din" else {}))
    seen: list[int] = []
    for batch in objective.batches(9, (0, 0)):
        rows = objective.samples.rows[batch].tolist()
        seen += rows
        expected = sum(naive_loss(naive_score(objective, row), int(data.label[row]), loss) for row in rows)
        assert float(objective.loss(batch).detach()) == pytest.approx(expected, rel=1e-4)
        assert objective.targets(batch) == len(batch) <= 9
    assert sorted(seen) == [row for row in data.targets("train").tolist() if data.label[row] >= 0]


@pytest.mark.parametrize("loss", ["bce", "squared-error"])
@pytest.mark.parametrize("model", ["gru4rec", "sasrec"])
def test_rows_of_a_user_in_one_pass(model: str, loss: str, data: Dataset, make: Callable[..., Any]) -> None:
    """A recurrent state is what the row's own history gives as long as it fits into one block.

    Positions are counted from a block's end, so that those of an attention model must be flat for that.
    """
    objective = make(data, model, loss=loss)
    if model == "sasrec":
        with torch.no_grad():
            objective.module.position.weight.fill_(0.1)
    seen = 0
    for batch in objective.batches(9, (0, 0)):
        rows = objective.samples.queries(batch)[1].tolist()
        seen += len(rows)
        expected = sum(naive_loss(naive_score(objective, row), int(data.label[row]), loss) for row in rows)
        assert float(objective.loss(batch).detach()) == pytest.approx(expected, rel=1e-4)
        assert objective.targets(batch) == len(rows)
    assert seen == len(labelled_rows(data))


def test_rows_without_a_label_are_no_targets(data: Dataset) -> None:
    rows = labelled_rows(data)
    assert (data.label[rows] >= 0).all()
    assert set(rows.tolist()) == set(data.targets("train").tolist()) & set(np.flatnonzero(data.label >= 0).tolist())
