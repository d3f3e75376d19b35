"""NCF and DIN, which score pair by pair, against their formulas in loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectool.models import model as contract
from rectool.models.model import Sequences, by_pairs

USERS = torch.arange(6)


@torch.no_grad()
def test_ncf_is_its_formula(build: Any, sequences: Sequences) -> None:
    model = build("ncf", layers=3).double()
    found = model.rank(USERS, sequences)(0, 9)
    for u in range(6):
        for i in range(9):
            p, deep_p = model.user.weight[u].chunk(2)
            q, deep_q = model.item.weight[i].chunk(2)
            hidden = torch.cat((deep_p, deep_q))
            assert [layer.out_features for layer in (model.first, *model.later)] == [8, 4, 2]
            for layer in (model.first, *model.later):
                hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
            expected = model.last.weight[0] @ torch.cat((p * q, hidden)) + model.last.bias
            torch.testing.assert_close(found[u, i], expected[0])


def through(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = layer.weight @ x + layer.bias
        elif isinstance(layer, nn.PReLU):
            x = torch.where(x > 0, x, layer.weight * x)
    return x[0]


@torch.no_grad()
def test_din_is_its_formula(build: Any, sequences: Sequences) -> None:
    model = build("din", biases=True).double()
    nn.init.normal_(model.user_bias.weight)
    found = model.rank(USERS, sequences)(0, 9)
    for row, length in enumerate(sequences.lengths.tolist()):
        for item in range(9):
            target = model.item.weight[item]
            interest = torch.zeros(8, dtype=torch.float64)
            for place in range(length):
                h = model.item.weight[sequences.items[row, place]]
                x = torch.cat((h, target, h - target, h * target))
                interest += through(nn.Sequential(model.activation_in, *model.activation_out), x) * h
            expected = through(model.output, torch.cat((interest, target, interest * target)))
            biases = model.user_bias.weight[USERS[row], 0] + model.bias()[item]
            torch.testing.assert_close(found[row, item], expected + biases)


@torch.no_grad()
def test_din_gives_users_the_mean_of_their_history(build: Any, sequences: Sequences) -> None:
    model = build("din")
    vectors = model.user_vectors(USERS, sequences)
    torch.testing.assert_close(vectors[0], model.item.weight[sequences.items[0, :3]].mean(0))
    assert not vectors[1].any()


@pytest.mark.parametrize(("budget", "largest"), [(1, 1), (4 * 2 * 5 * 3, 3), (1 << 20, 10)])
def test_pairs_are_scored_a_few_items_at_a_time(budget: int, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "PAIRS_BYTES", {"cpu": budget})
    table = torch.rand(2, 10)
    asked = []

    def scores(start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return table[:, start:stop]

    sliced = by_pairs(torch.arange(2), 5, scores)
    assert torch.equal(sliced(0, 10), table)
    assert max(asked) == largest
    assert torch.equal(sliced(3, 8), table[:, 3:8])
    assert sliced(3, 3).shape == (2, 0)
