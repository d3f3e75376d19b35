"""SASRec (Kang and McAuley 2018) as SASRecLLM's section 3.1 reads it: pre-LayerNorm residuals throughout.

    x <- x + Dropout(Attention(LayerNorm(x)))        causal, multi-head
    x <- x + Dropout(FFN(LayerNorm(x)))              two 1-wide convolutions with ReLU between

A convolution of width 1 is the same linear map at every position, and is written as that.
Positions are counted from the most recent item, which is what padding on the left amounts to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from rectool.errors import RectoolError
from rectool.models.model import ItemBias, SequenceModel, Sequences, Size


@dataclass(frozen=True)
class SASRecSettings:
    """SASRecLLM's values."""

    embedding_size: int = 64
    max_length: int = 25
    layers: int = 2
    heads: int = 4
    dropout: float = 0.2
    init_scale: float = 0.02
    biases: bool = False

    def __post_init__(self) -> None:
        if self.embedding_size % self.heads:
            raise RectoolError(f"--embedding-size {self.embedding_size} is not a multiple of --heads {self.heads}")


class SASRec(SequenceModel):
    """Self-attentive sequential recommendation."""

    Settings: ClassVar = SASRecSettings
    defaults: ClassVar = {"ctr": {"biases": True}}
    settings: SASRecSettings

    def __init__(self, settings: SASRecSettings, size: Size) -> None:
        super().__init__(settings, size)
        width = settings.embedding_size
        self.item = nn.Embedding(size.items, width)
        self.position = nn.Embedding(settings.max_length, width)
        self.empty = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, settings.heads, settings.dropout) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(settings.dropout)
        self.bias = ItemBias(size.items) if settings.biases else None
        for embedding in (self.item, self.position):
            nn.init.normal_(embedding.weight, std=settings.init_scale)

    def encode(self, sequences: Sequences) -> Tensor:
        length = sequences.items.shape[1]
        ages = sequences.lengths[:, None] - 1 - torch.arange(length, device=sequences.items.device)  # (B, L)
        x = self.item(sequences.items) * self.settings.embedding_size**0.5
        x = self.dropout(x + self.position(ages.clamp(min=0)))  # (B, L, D)
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden


class Block(nn.Module):
    """One layer. Rows are padded on the right, so that the causal mask keeps padding out of sight."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward_in = nn.Linear(width, width)
        self.feed_forward_out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, D / heads)
            for part in self.attention_in(self.attention_norm(x)).chunk(3, -1)
        )
        rate = self.dropout.p if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=rate)
        x = x + self.dropout(self.attention_out(attended.transpose(1, 2).flatten(2)))
        inner = self.dropout(functional.relu(self.feed_forward_in(self.feed_forward_norm(x))))
        out: Tensor = x + self.dropout(self.feed_forward_out(inner))
        return out
