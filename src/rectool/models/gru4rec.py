"""GRU4Rec (Hidasi et al. 2016): a gated recurrent network over the history, its state against item embeddings.

Items enter by the same embeddings that they are scored by, and states are as wide (Hidasi and
Karatzoglou 2018 call this constrained embeddings).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rectool.models.model import ItemBias, SequenceModel, Sequences, Size


@dataclass(frozen=True)
class GRU4RecSettings:
    """Size of embeddings and states, longest history, depth, dropout, starting spread, biases of items."""

    embedding_size: int = 64
    max_length: int = 25
    layers: int = 1
    dropout: float = 0.2
    init_scale: float = 0.1
    biases: bool = False


class GRU4Rec(SequenceModel):
    """Dropout acts on what enters each layer and on the last one's states."""

    Settings: ClassVar = GRU4RecSettings
    defaults: ClassVar = {"ctr": {"biases": True}}
    settings: GRU4RecSettings

    def __init__(self, settings: GRU4RecSettings, size: Size) -> None:
        super().__init__(settings, size)
        width = settings.embedding_size
        self.item = nn.Embedding(size.items, width)
        self.empty = nn.Parameter(torch.zeros(width))
        between = settings.dropout if settings.layers > 1 else 0.0
        self.recurrent = nn.GRU(width, width, settings.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(settings.dropout)
        self.bias = ItemBias(size.items) if settings.biases else None
        nn.init.normal_(self.item.weight, std=settings.init_scale)

    def encode(self, sequences: Sequences) -> Tensor:
        states, _ = self.recurrent(self.dropout(self.item(sequences.items)))  # (B, L, D)
        hidden: Tensor = self.dropout(states)
        return hidden
