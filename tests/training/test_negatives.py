"""Negatives are drawn as often as their weights say, and their expected counts are what is expected."""

from __future__ import annotations

import math

import pytest
import torch

from rectool.training.negatives import Negatives

CPU = torch.device("cpu")
WEIGHTS = torch.tensor([0, 5, 1, 0, 0, 30, 2, 12, 0])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["uniform", "popularity"])
def test_items_are_drawn_as_their_weights_say(weights: torch.Tensor | None) -> None:
    torch.manual_seed(1)
    draws, items = 50_000, len(WEIGHTS)
    shares = torch.full((items,), 1 / items) if weights is None else weights / weights.sum()
    counts = torch.bincount(Negatives(items, weights).draw((draws // 5, 5), CPU).flatten(), minlength=items)
    assert len(counts) == items
    assert not counts[shares == 0].any()
    expected = draws * shares[shares > 0]
    chi_square = float(((counts[shares > 0] - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_seed_decides(weights: torch.Tensor | None) -> None:
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(Negatives(len(WEIGHTS), weights).draw((100,), CPU))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
    assert drawn[0].dtype == torch.int64


def test_the_first_and_the_last_item_are_drawn_too() -> None:
    torch.manual_seed(0)
    drawn = Negatives(3, torch.tensor([1, 0, 1])).draw((1000,), CPU)
    assert set(drawn.tolist()) == {0, 2}
    only = Negatives(3, torch.tensor([0, 1, 0])).draw((1000,), CPU)
    assert set(only.tolist()) == {1}


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_log_expected_is_the_log_of_draws_times_probability(weights: torch.Tensor | None) -> None:
    items = len(WEIGHTS)
    drawn = torch.tensor([1, 5, 7, 5])
    found = Negatives(items, weights).log_expected(drawn)
    shares = [1 / items] * items if weights is None else (weights / weights.sum()).tolist()
    assert found.shape == drawn.shape
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([math.log(4 * shares[item]) for item in drawn.tolist()], rel=1e-5)


def test_weights_of_a_million_items_lose_nothing() -> None:
    """Sums in single precision would make the last items unreachable."""
    items = 1_000_000
    weights = torch.ones(items)
    weights[0] = 1e8
    torch.manual_seed(0)
    drawn = Negatives(items, weights).draw((20_000,), CPU)
    share = float((drawn > 0).float().mean())
    assert share == pytest.approx(items / (items + 1e8), rel=0.3)
    assert float((drawn > items // 2).float().mean()) == pytest.approx(share / 2, rel=0.4)
