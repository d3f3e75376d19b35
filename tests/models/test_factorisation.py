"""Matrix factorisation and LightGCN against dense algebra."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rectool.models.model import Sequences, TrainingRows

USERS, NOBODY = torch.arange(6), torch.zeros(6, dtype=torch.int64)
NO_HISTORY = Sequences(torch.zeros(6, 0, dtype=torch.int64), NOBODY)


def test_matrix_factorisation(build: Any) -> None:
    plain, biased = build("mf", biases=False), build("mf", biases=True)
    product = plain.user.weight @ plain.item.weight.T
    torch.testing.assert_close(plain.rank(USERS, NO_HISTORY)(0, 9), product)
    expected = biased.user.weight @ biased.item.weight.T + biased.user_bias.weight
    expected = expected + biased.bias.weight + biased.bias.constant
    torch.testing.assert_close(biased.rank(USERS, NO_HISTORY)(0, 9), expected)


def test_who_is_unknown_scores_by_biases(build: Any) -> None:
    model = build("mf", fresh=True, biases=True)
    scores = model.rank(USERS, NO_HISTORY)(0, 9)
    torch.testing.assert_close(scores[5], model.bias())
    torch.testing.assert_close(scores[:, 8], (model.user_bias.weight[:, 0] + model.bias.constant))


def dense(model: Any, rows: TrainingRows) -> tuple[Tensor, Tensor]:
    """The paper's E in float64, users before items."""
    adjacency = torch.zeros(15, 15, dtype=torch.float64)
    for user, item, label in zip(rows.user.tolist(), rows.item.tolist(), rows.label.tolist(), strict=True):
        if label != 0:
            adjacency[user, 6 + item] = adjacency[6 + item, user] = 1
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, degree**-0.5, 0)
    normalised = scale[:, None] * adjacency * scale
    layer = torch.cat((model.user.weight, model.item.weight)).double()
    total = layer
    for _ in range(model.settings.layers):
        layer = normalised @ layer
        total = total + layer
    mean = total / (model.settings.layers + 1)
    return mean[:6], mean[6:]


@pytest.mark.parametrize("layers", [1, 3])
def test_lightgcn_is_the_dense_formula(build: Any, rows: TrainingRows, layers: int) -> None:
    rows = TrainingRows(6, 9, *(column[:25] for column in (rows.user, rows.item, rows.label, rows.previous)))
    model = build("lightgcn", layers=layers, biases=False, observed=rows)
    users, items = dense(model, rows)
    with torch.no_grad():
        found = model.user_vectors(USERS, NO_HISTORY), model.item_vectors()
    torch.testing.assert_close(found[0].double(), users, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].double(), items, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1][8], model.item.weight[8] / (layers + 1))  # has no edge


def test_lightgcn_has_the_gradient_of_the_dense_formula(build: Any, rows: TrainingRows) -> None:
    model = build("lightgcn", biases=False)
    users, items = torch.tensor([0, 3, 5, 0]), torch.tensor([2, 8, 1, 2])
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0])
    gradients = []
    for double in (False, True):
        model.zero_grad()
        if double:
            user_table, item_table = dense(model, rows)
            scores = (user_table[users] * item_table[items]).sum(1)
        else:
            scores = model.train().score(users, items, NO_HISTORY)
        functional.binary_cross_entropy_with_logits(scores, labels.to(scores)).backward()
        gradients.append((model.user.weight.grad.clone(), model.item.weight.grad.clone()))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert expected.abs().sum() > 0


def test_lightgcn_keeps_its_tables_while_it_may(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("lightgcn")
    calls = []
    propagated = model.propagated
    monkeypatch.setattr(model, "propagated", lambda: calls.append(1) or propagated())

    def score() -> Tensor:
        result: Tensor = model.score(USERS, USERS, NO_HISTORY)
        return result

    with torch.no_grad():
        first = score()
        torch.testing.assert_close(score(), first)
    assert len(calls) == 1
    assert score().requires_grad  # gradients need the whole way
    assert len(calls) == 2

    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    with torch.no_grad():
        model.user.weight.mul_(2)
        model.eval()
        doubled = score()
        assert not torch.equal(doubled, first)
        model.restore(state)
        torch.testing.assert_close(score(), first)
        model.load_state_dict({**state, "user.weight": 2 * state["user.weight"]})
        torch.testing.assert_close(score(), doubled)
        model.double()
        assert score().dtype == torch.float64


def test_lightgcn_propagates_once_per_step(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("lightgcn").train()
    calls = []
    propagated = model.propagated
    monkeypatch.setattr(model, "propagated", lambda: calls.append(1) or propagated())
    model.factors(USERS, NO_HISTORY)
    model.score(USERS, USERS, NO_HISTORY)
    assert len(calls) == 2
