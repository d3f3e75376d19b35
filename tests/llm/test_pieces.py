"""Pieces take about as long whatever the model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from rectool.llm import pieces

CPU = torch.device("cpu")


def test_a_piece_is_so_many_operations(loaded: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("llama")
    lengths = np.full(1000, 50)
    assert pieces.pieces(lengths, model, CPU) == [(0, 1000)]
    layers = sum(parameter.numel() for parameter in model.model.layers.parameters())
    monkeypatch.setattr(pieces, "LEAST_TOKENS", 1)
    monkeypatch.setitem(pieces.OPERATIONS, "cpu", 2 * layers * 50 * 101)
    cuts = pieces.pieces(lengths, model, CPU)
    assert cuts[0] == (0, 100)  # 101, but for the few weights of the final norm
    assert (cuts[-1][1], len(cuts)) == (1000, 10)
    assert all(stop == start for (_, stop), (start, _) in pairwise(cuts))
