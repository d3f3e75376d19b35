"""Transitions against a dictionary."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from rectool.models.model import Sequences, TrainingRows


@pytest.mark.parametrize("smoothing", [0.5, 20.0])
def test_against_a_dictionary(build: Any, rows: TrainingRows, smoothing: float) -> None:
    triples = zip(rows.previous.tolist(), rows.item.tolist(), rows.label.tolist(), strict=True)
    liked = [(previous, item) for previous, item, label in triples if label != 0]
    pairs = Counter(pair for pair in liked if pair[0] >= 0)
    left = Counter(previous for previous, _ in liked if previous >= 0)
    popularity = Counter(item for _, item in liked)
    shares = [(popularity[item] + 1) / (len(liked) + 9) for item in range(9)]
    assert max(pairs.values()) > 1
    assert len(pairs) < 64

    model = build("markov", smoothing=smoothing)
    sequences = Sequences(torch.tensor([[7, last] for last in range(9)] + [[0, 0]]), torch.tensor([2] * 9 + [0]))
    scores = model.rank(torch.zeros(10, dtype=torch.int64), sequences)(0, 9)
    for last in range(9):
        for item in range(9):
            share = (pairs[last, item] + smoothing * shares[item]) / (left[last] + smoothing)
            assert float(scores[last, item]) == pytest.approx(math.log(share), abs=1e-5)
    assert scores[9].tolist() == pytest.approx([math.log(share) for share in shares], abs=1e-5)
    assert scores[8].tolist() == pytest.approx(scores[9].tolist(), abs=1e-5)  # nobody went on from item 8
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(10))
    assert model.item_vectors()[:, 0].tolist() == pytest.approx(scores[9].tolist(), abs=1e-5)
