"""Matrix factorisation: <e_u, e_i>, with biases b_u + b_i + c on demand (Koren et al. 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from rectool.models.model import FactorModel, ItemBias, Sequences, Size, TrainingRows
from rectool.models.priors import start_biases, zero_unknown


@dataclass(frozen=True)
class MatrixFactorizationSettings:
    """Size of the embeddings, their starting spread, and whether users and items have biases."""

    embedding_size: int = 64
    init_scale: float = 0.1
    biases: bool = True


class MatrixFactorization(FactorModel):
    """Biases ride along as two more columns: queries end in (b_u, 1), keys in (1, b_i + c)."""

    Settings: ClassVar = MatrixFactorizationSettings
    settings: MatrixFactorizationSettings

    def __init__(self, settings: MatrixFactorizationSettings, size: Size) -> None:
        super().__init__(settings, size)
        self.user = nn.Embedding(size.users, settings.embedding_size)
        self.item = nn.Embedding(size.items, settings.embedding_size)
        self.user_bias = nn.Embedding(size.users, 1) if settings.biases else None
        self.bias = ItemBias(size.items) if settings.biases else None
        nn.init.normal_(self.user.weight, std=settings.init_scale)
        nn.init.normal_(self.item.weight, std=settings.init_scale)
        if self.user_bias is not None:
            nn.init.zeros_(self.user_bias.weight)

    def observe(self, rows: TrainingRows) -> None:
        zero_unknown(self.user, rows.user)
        zero_unknown(self.item, rows.item)
        if self.bias is not None:
            start_biases(rows, self.bias, self.user_bias)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users (U, D) and of all items (I, D)."""
        return self.user.weight, self.item.weight

    def factors(self, users: Tensor, sequences: Sequences, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        user_table, item_table = self.tables()
        queries = functional.embedding(users, user_table)
        keys = item_table if items is None else functional.embedding(items, item_table)
        if self.user_bias is not None and self.bias is not None:
            queries = torch.cat((queries, self.user_bias(users), queries.new_ones(len(queries), 1)), -1)
            keys = torch.cat((keys, keys.new_ones(len(keys), 1), self.bias(items)[:, None]), -1)
        return queries, keys

    def queries(self, users: Tensor, sequences: Sequences) -> Tensor:
        return self.factors(users, sequences, users[:0])[0]

    def keys(self, items: Tensor | None = None) -> Tensor:
        nobody = torch.zeros(0, dtype=torch.int64, device=self.item.weight.device)
        return self.factors(nobody, Sequences(nobody[:, None], nobody), items)[1]

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        return functional.embedding(users, self.tables()[0])

    def item_vectors(self) -> Tensor:
        return self.tables()[1]

    def user_biases(self, users: Tensor) -> Tensor | None:
        return None if self.user_bias is None else self.user_bias(users)[:, 0]

    def item_biases(self) -> Tensor | None:
        return None if self.bias is None else self.bias()
