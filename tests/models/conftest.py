"""Small models with random weights, and rows to observe: 6 users and 9 items, the last of each in no row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rectool.models.model import Model, Sequences, Size, TrainingRows
from rectool.models.table import model_class

SIZE = Size(users=6, items=9)
SMALL: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_size": 6,
    "layers": 2,
    "heads": 2,
    "max_length": 7,
    "dropout": 0.0,
    "smoothing": 2.0,
}


def training_rows(labelled: bool = True, count: int = 200) -> TrainingRows:
    """Random rows of the first 5 users and 8 items, a fifth of them without a history."""
    random = np.random.default_rng(5)
    columns = {
        "user": random.integers(5, size=count),
        "item": random.integers(8, size=count),
        "label": random.integers(2, size=count) if labelled else np.full(count, -1),
        "previous": np.where(random.random(count) < 0.2, -1, random.integers(8, size=count)),
    }
    columns["user"][:5], columns["item"][:8] = range(5), range(8)
    return TrainingRows(users=6, items=9, **{name: torch.from_numpy(values) for name, values in columns.items()})


@pytest.fixture
def rows() -> TrainingRows:
    return training_rows()


@pytest.fixture
def sequences() -> Sequences:
    """(6, 7): lengths 3, 0, 7, 1, 5, 0."""
    lengths = torch.tensor([3, 0, 7, 1, 5, 0])
    items = torch.from_numpy(np.random.default_rng(6).integers(9, size=(6, 7)))
    return Sequences(torch.where(torch.arange(7) < lengths[:, None], items, 0), lengths)


@pytest.fixture
def build() -> Callable[..., Any]:
    """A small model by name, fresh as it comes, or with all parameters random."""

    def made(name: str, *, fresh: bool = False, observed: TrainingRows | None = None, **settings: Any) -> Model:
        torch.manual_seed(1)
        kind = model_class(name)
        known = {field.name for field in dataclasses.fields(kind.Settings)}
        model = kind(kind.Settings(**{k: v for k, v in SMALL.items() if k in known} | settings), SIZE)
        model.observe(observed or training_rows())
        if not fresh:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_(std=0.5)
        return model.eval()

    return made
