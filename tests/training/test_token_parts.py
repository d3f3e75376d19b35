"""Steps of prompts, cut into parts of at most so many tokens."""

from __future__ import annotations

import numpy as np
import pytest

from rectool.training.token_parts import TokenParts, padding_share


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("packed", [False, True])
def test_every_row_is_in_one_part_and_no_part_is_too_large(seed: int, packed: bool) -> None:
    chance = np.random.default_rng(seed)
    lengths = chance.integers(1, 60, chance.integers(1, 40))
    budget, count = int(chance.integers(1, 300)), int(chance.integers(1, 4))
    parts = TokenParts(budget, packed).cut(lengths, count)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    for part in parts:
        size = lengths[part].sum() if packed else len(part) * lengths[part].max()
        assert size <= budget // count or len(part) == 1
        assert (np.diff(lengths[part]) <= 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_as_few_as_can_be_and_even(seed: int) -> None:
    """As few as putting into each part what goes in; the largest is not larger than it must be."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(1, 60, 30)
    budget = int(chance.integers(60, 400))

    def greedy(budget: int) -> int:
        left, count = sorted(lengths.tolist(), reverse=True), 0
        while left:
            left, count = left[max(1, budget // left[0]) :], count + 1
        return count

    parts = TokenParts(budget).cut(lengths)
    largest = max(len(part) * lengths[part].max() for part in parts)
    assert len(parts) == greedy(budget)
    assert largest == int(lengths.max()) or greedy(largest - 1) > len(parts)


def test_rows_of_one_length_are_cut_in_even_parts() -> None:
    assert [len(part) for part in TokenParts(1000).cut(np.full(16, 90))] == [8, 8]
    assert [len(part) for part in TokenParts(2000).cut(np.full(16, 90))] == [16]
    assert [len(part) for part in TokenParts(2000).cut(np.full(16, 90), 4)] == [4, 4, 4, 4]
    assert [len(part) for part in TokenParts(10).cut(np.full(3, 90))] == [1, 1, 1]


def test_no_rows_no_parts() -> None:
    assert TokenParts(10).cut(np.empty(0, np.int64)) == []


def test_padding() -> None:
    lengths = np.array([3, 5, 2, 9, 4])
    batches = [np.array([0, 3]), np.array([1, 2, 4])]
    assert padding_share(lengths, batches, TokenParts(100)) == pytest.approx(1 - (3 + 9 + 5 + 2 + 4) / (18 + 15))
    assert padding_share(lengths, batches, TokenParts(10)) == pytest.approx(1 - (3 + 9 + 5 + 2 + 4) / (9 + 3 + 5 + 8))
    assert padding_share(lengths, [], TokenParts(10)) == 0
