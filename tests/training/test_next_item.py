"""Next-item objectives against a loop that scores one target after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rectool.data.dataset import Dataset
from rectool.models.model import Sequences
from rectool.models.saved import Trained
from rectool.training.counting import training_rows
from rectool.training.next_item import BlockObjective, CatalogueObjective, RowObjective, training_targets
from rectool.training.run import Run
from rectool.training.train_cf import untrained
from rectool.training.validation import Validation

CPU = torch.device("cpu")
SMALL = {
    "mf": {"embedding_size": 6},
    "lightgcn": {"embedding_size": 6, "biases": True},
    "ncf": {"embedding_size": 6},
    "din": {"embedding_size": 6, "hidden_size": 5, "max_length": 4},
    "gru4rec": {"embedding_size": 6, "max_length": 4, "biases": True},
    "sasrec": {"embedding_size": 6, "heads": 2, "max_length": 4},
}
PAIRWISE = ("ncf", "din")
SEQUENCE = ("gru4rec", "sasrec")


@pytest.fixture
def make(chosen: Callable[..., Any]) -> Callable[..., CatalogueObjective]:
    """The objective of an untrained model with random weights, in eval mode: nothing is dropped."""

    def objective(data: Dataset, model: str, **given: Any) -> CatalogueObjective:
        choice, settings = chosen(data, model, task="next-item", **SMALL[model], **given)
        trained = untrained(data, choice, Run(0, CPU))
        trained.model.observe(training_rows(data, trained))
        with torch.no_grad():
            for parameter in trained.model.parameters():
                parameter.normal_(std=0.4)
        trained.model.eval()
        kind = BlockObjective if model in SEQUENCE else RowObjective
        return kind(trained, data, settings, choice.loss, Validation.of(data, trained.task, CPU, 10, 0), CPU)

    return objective


def cases() -> list[Any]:
    found = []
    for model in SMALL:
        for loss in ("full-softmax", "sampled-softmax", "bce", "bpr"):
            if model in PAIRWISE and "softmax" in loss:
                continue
            draws = {} if loss == "full-softmax" else {"negatives": 7, "negatives_by": "popularity"}
            found.append((model, {"loss": loss, **draws}))
            if model not in PAIRWISE:
                found.append((model, {"loss": loss, **draws, "robust": 0.3, "robust_temperature": 0.5}))
        if model not in PAIRWISE:
            found.append((model, {"loss": "sampled-softmax", "negatives": 7, "log_q": True}))
    return [pytest.param(*case, id=" ".join(map(str, (case[0], *case[1].values())))) for case in found]


@pytest.mark.parametrize(("model", "given"), cases())
def test_the_loss_is_that_of_a_naive_loop(
    model: str, given: dict[str, Any], random_log: Callable[..., Dataset], make: Callable[..., Any]
) -> None:
    data = random_log(5, rows=32, labels=False)
    objective = make(data, model, **given)
    for batch in objective.batches(12, (0, 0)):
        torch.manual_seed(7)
        value = objective.loss(batch).detach()
        rows = objective.samples.queries(batch)[1] if model in SEQUENCE else objective.samples.rows[batch]
        torch.manual_seed(7)
        negatives = objective.drawn(torch.zeros(len(rows)))
        scores = [scores_of(objective, row) for row in rows.tolist()]
        expected = sum(
            one_loss(score, int(data.item[row]), drawn, objective, given)
            for score, row, drawn in zip(scores, rows.tolist(), spread(negatives, len(rows)), strict=True)
        )
        assert float(value) == pytest.approx(expected, rel=1e-4)
        assert objective.targets(batch) == len(rows)


def spread(negatives: torch.Tensor, rows: int) -> list[list[int]]:
    """The negatives of each row."""
    return negatives.tolist() if negatives.ndim == 2 else [negatives.tolist()] * rows


def scores_of(objective: Any, row: int) -> list[float]:
    """All items' scores for one row, its history (or what its block holds of it) read by itself."""
    trained: Trained = objective.trained
    data, model = objective.dataset, trained.model
    items: list[int] = []
    if trained.history is not None:
        liked_only = trained.history.liked_only
        before = [r for r in range(row) if data.user[r] == data.user[row] and (data.label[r] == 1 or not liked_only)]
        items = data.item[before].tolist()[-trained.history.length :]
    user = torch.tensor([data.user[row]])
    with torch.no_grad():
        if isinstance(objective, BlockObjective):
            return (in_block(objective, row) @ model.keys().T).tolist()
        sequences = Sequences(torch.tensor([items], dtype=torch.int64), torch.tensor([len(items)]))
        return [float(model.score(user, torch.tensor([item]), sequences)) for item in range(data.items)]


def in_block(objective: Any, row: int) -> torch.Tensor:
    """The query of a row (D'), its block encoded by itself."""
    blocks, model = objective.samples.blocks, objective.module
    at = int(np.flatnonzero(blocks.row == row)[0])
    block = int(np.searchsorted(blocks.first, at, side="right")) - 1
    items = objective.samples.items[blocks.start[block] : blocks.stop[block]].astype(np.int64)
    place = int(blocks.place[at])
    if place == 0:
        return model.with_ones(model.empty)
    states = model.encode(Sequences(torch.from_numpy(items)[None], torch.tensor([len(items)])))
    return model.with_ones(states[0, place - 1])


def one_loss(
    scores: list[float], target: int, negatives: list[int], objective: CatalogueObjective, given: dict[str, Any]
) -> float:
    """The loss of one target, by its formula."""
    data = objective.dataset
    counts = np.bincount(data.item[data.targets("train")], minlength=data.items)
    popularity = counts / counts.sum()
    total = 0.0
    if "robust" in given:
        rates = popularity / given["robust_temperature"]
        errors = [score - (item == target) for item, score in enumerate(scores)]
        terms = [math.exp(rate * error**2) for rate, error in zip(rates, errors, strict=True)]
        total += given["robust"] * math.log(sum(terms))
    positive, others = scores[target], [scores[item] for item in negatives]
    if given["loss"] == "full-softmax":
        return total + math.log(sum(map(math.exp, scores))) - positive
    if given["loss"] == "bce":
        return total - log_sigma(positive) - sum(log_sigma(-other) for other in others) / len(others)
    if given["loss"] == "bpr":
        return total - sum(log_sigma(positive - other) for other in others) / len(others)
    share = 1 / data.items  # log_q is tried with uniform negatives
    shift = math.log(len(negatives) * share) if given.get("log_q") else 0.0
    weights = [math.exp(other - shift) for item, other in zip(negatives, others, strict=True) if item != target]
    return total + math.log(math.exp(positive) + sum(weights)) - positive


def log_sigma(score: float) -> float:
    return -math.log1p(math.exp(-score))


def test_log_q_is_taken_from_popularity(random_log: Callable[..., Dataset], make: Callable[..., Any]) -> None:
    """Sampled by popularity and corrected for it, the loss is nearly that of the whole catalogue."""
    data = random_log(5, rows=200, labels=False)
    # Every item is a target: one that is never drawn cannot be estimated.
    assert np.bincount(data.item[data.targets("train")], minlength=data.items).all()
    draws = {"loss": "sampled-softmax", "negatives": 20_000, "negatives_by": "popularity"}
    full, corrected, plain = (
        make(data, "mf", **given) for given in ({"loss": "full-softmax"}, {**draws, "log_q": True}, draws)
    )
    batch = np.arange(len(full.samples.rows))
    torch.manual_seed(0)
    with torch.no_grad():
        assert float(corrected.loss(batch)) == pytest.approx(float(full.loss(batch)), rel=0.01)
        assert float(plain.loss(batch)) > 2 * float(full.loss(batch))


@pytest.mark.parametrize("model", ["mf", "sasrec"])
def test_every_train_row_is_a_target_once(
    model: str, random_log: Callable[..., Dataset], make: Callable[..., Any]
) -> None:
    data = random_log(6)
    objective = make(data, model)
    batches = objective.batches(10, (0, 0))
    assert sum(objective.targets(batch) for batch in batches) == len(data.targets("train"))
    assert all(objective.targets(batch) <= 10 or len(batch) == 1 for batch in batches)


def test_defaults(random_log: Callable[..., Dataset], make: Callable[..., Any]) -> None:
    data = random_log(5)
    assert make(data, "sasrec").loss_name == "full-softmax"
    targets = torch.zeros(9, dtype=torch.int64)
    assert make(data, "sasrec", loss="sampled-softmax").drawn(targets).shape == (512,)
    assert make(data, "sasrec", loss="bpr").drawn(targets).shape == (9, 1)


# Targets


def test_context_is_a_target_only_where_it_was_asked_for(log: Callable[..., Dataset]) -> None:
    """Context rows after a user's last train row belong to validation, and those of other users too."""
    split = ["context", "train", "context", "train", "context", "valid", "context", "context", "test"]
    data = log([0, 0, 0, 0, 0, 0, 1, 1, 1], range(9), split=split)
    assert training_targets(data, autoregressive=False).tolist() == [1, 3]
    assert training_targets(data, autoregressive=True).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_training_targets_are_the_definition(seed: int, random_log: Callable[..., Dataset]) -> None:
    data = random_log(seed)
    train = data.targets("train").tolist()
    expected = [
        row
        for row in range(len(data.user))
        if row in train
        or (row in data.targets("context") and any(r > row and data.user[r] == data.user[row] for r in train))
    ]
    assert training_targets(data, autoregressive=True).tolist() == expected


def test_autoregressive_training_learns_from_context(
    random_log: Callable[..., Dataset], make: Callable[..., Any]
) -> None:
    data = random_log(5)
    for model in ("mf", "sasrec"):
        objective = make(data, model, autoregressive=True)
        targets = sum(objective.targets(batch) for batch in objective.batches(10, (0, 0)))
        assert targets == len(training_targets(data, autoregressive=True)) > len(data.targets("train"))
