"""SASRec against a loop over positions in float64, GRU4Rec against its equations step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectool.models.model import Sequences

USERS = torch.arange(6)


def normalised(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    mean = x.mean()
    variance = ((x - mean) ** 2).mean()
    return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


def attended(block: Any, states: list[Tensor], position: int) -> Tensor:
    """Attention of one position over itself and those before it, head by head."""
    width = len(states[0])
    seen = [block.attention_in.weight @ normalised(block.attention_norm, x) + block.attention_in.bias for x in states]
    size = width // block.heads
    heads = []
    for head in range(block.heads):
        own = slice(head * size, (head + 1) * size)
        query = seen[position][:width][own]
        weights = [
            math.exp(float(query @ each[width : 2 * width][own]) / math.sqrt(size)) for each in seen[: position + 1]
        ]
        values = [each[2 * width :][own] for each in seen[: position + 1]]
        heads.append(sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights))
    return block.attention_out.weight @ torch.cat(heads) + block.attention_out.bias


def naive_sasrec(model: Any, items: list[int]) -> list[Tensor]:
    """Hidden states of one history; the most recent item has position 0."""
    width = model.settings.embedding_size
    states = [
        model.item.weight[item] * math.sqrt(width) + model.position.weight[len(items) - 1 - place]
        for place, item in enumerate(items)
    ]
    for block in model.blocks:
        states = [x + attended(block, states, position) for position, x in enumerate(states)]
        inner = [
            (block.feed_forward_in.weight @ normalised(block.feed_forward_norm, x) + block.feed_forward_in.bias)
            for x in states
        ]
        outer = [block.feed_forward_out.weight @ x.clamp(min=0) + block.feed_forward_out.bias for x in inner]
        states = [x + change for x, change in zip(states, outer, strict=True)]
    return [normalised(model.norm, x) for x in states]


def naive_gru(model: Any, items: list[int]) -> list[Tensor]:
    """Hidden states of one history, by the equations in the documentation of nn.GRU."""
    inputs = [model.item.weight[item] for item in items]
    for layer in range(model.settings.layers):
        weight_in, weight_state, bias_in, bias_state = (
            getattr(model.recurrent, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state = torch.zeros(model.settings.embedding_size, dtype=torch.float64)
        states = []
        for x in inputs:
            reset_in, update_in, new_in = (weight_in @ x + bias_in).chunk(3)
            reset_state, update_state, new_state = (weight_state @ state + bias_state).chunk(3)
            reset, update = torch.sigmoid(reset_in + reset_state), torch.sigmoid(update_in + update_state)
            state = (1 - update) * torch.tanh(new_in + reset * new_state) + update * state
            states.append(state)
        inputs = states
    return inputs


@torch.no_grad()
@pytest.mark.parametrize(("name", "naive"), [("sasrec", naive_sasrec), ("gru4rec", naive_gru)])
def test_against_a_loop(build: Any, sequences: Sequences, name: str, naive: Any) -> None:
    model = build(name, biases=True).double()
    hidden = model.encode(sequences)
    scores = model.rank(USERS, sequences)(0, 9)
    for row, length in enumerate(sequences.lengths.tolist()):
        expected = naive(model, sequences.items[row, :length].tolist()) if length else []
        for position, state in enumerate(expected):
            torch.testing.assert_close(hidden[row, position], state)
        last = expected[-1] if expected else model.empty
        torch.testing.assert_close(model.user_vectors(USERS, sequences)[row], last)
        torch.testing.assert_close(scores[row], model.item.weight @ last + model.bias())


@torch.no_grad()
@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_no_position_sees_a_later_one(build: Any, name: str) -> None:
    model = build(name)
    items = torch.tensor([[1, 2, 3, 4, 5, 6]])
    lengths = torch.tensor([6])
    before = model.encode(Sequences(items, lengths))
    for place in range(6):
        changed = items.clone()
        changed[0, place] = 8
        after = model.encode(Sequences(changed, lengths))
        torch.testing.assert_close(after[:, :place], before[:, :place])
        assert ((after[:, place:] - before[:, place:]).abs().amax(-1) > 1e-4).all()


@torch.no_grad()
def test_sasrec_counts_positions_from_the_most_recent_item(build: Any) -> None:
    """Padding on the right or none: the last state is the same, and it depends on the order."""
    model = build("sasrec", layers=1)
    short = Sequences(torch.tensor([[3, 1, 4, 0, 0]]), torch.tensor([3]))
    turned = Sequences(torch.tensor([[1, 3, 4]]), torch.tensor([3]))
    exact = Sequences(torch.tensor([[3, 1, 4]]), torch.tensor([3]))
    user = torch.tensor([0])
    torch.testing.assert_close(model.user_vectors(user, short), model.user_vectors(user, exact))
    assert not torch.allclose(model.user_vectors(user, turned), model.user_vectors(user, exact))


def test_what_an_empty_history_is_can_be_learned(build: Any, sequences: Sequences) -> None:
    for name in ("sasrec", "gru4rec"):
        model = build(name)
        vectors = model.user_vectors(USERS, sequences)
        torch.testing.assert_close(vectors[[1, 5]], model.empty.expand(2, -1))
        vectors[[1, 5]].sum().backward()
        assert model.empty.grad.tolist() == [2.0] * 8
        assert not model.item.weight.grad.any()
