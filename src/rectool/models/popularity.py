"""Popularity: how many training rows an item has that are not disliked, the same for everybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rectool.models import priors
from rectool.models.model import FactorModel, Sequences, Size, TrainingRows


@dataclass(frozen=True)
class PopularitySettings:
    """There is nothing to set."""


class Popularity(FactorModel):
    """Users' vectors are (1), those of items their counts."""

    Settings: ClassVar = PopularitySettings
    new_users: ClassVar = True
    counted: ClassVar = True
    logits: ClassVar = False
    count: Tensor  # (I,) float32

    def __init__(self, settings: PopularitySettings, size: Size) -> None:
        super().__init__(settings, size)
        self.register_buffer("count", torch.zeros(size.items))

    def observe(self, rows: TrainingRows) -> None:
        self.replace("count", priors.popularity(rows))

    def queries(self, users: Tensor, sequences: Sequences) -> Tensor:
        return self.count.new_ones(len(users), 1)

    def keys(self, items: Tensor | None = None) -> Tensor:
        return (self.count if items is None else self.count[items])[:, None]

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        return self.queries(users, sequences)

    def item_vectors(self) -> Tensor:
        return self.keys()
