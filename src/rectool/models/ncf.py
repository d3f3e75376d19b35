"""NeuMF (He et al. 2017), neural collaborative filtering: a generalised product beside a perceptron.

    score = <w, [p_u * q_i ; MLP([p'_u ; q'_i])]> + c        ReLU in the MLP, whose layers halve

p, q and p', q' are embeddings of one size D (the paper lets them differ); the MLP goes from 2 D to
D, D / 2 and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from rectool.models.model import CatalogueScores, Model, Sequences, Size, TrainingRows, by_pairs
from rectool.models.priors import zero_unknown


@dataclass(frozen=True)
class NeuralCollaborativeFilteringSettings:
    """Size of each embedding, layers of the perceptron, dropout between them, starting spread."""

    embedding_size: int = 32
    layers: int = 3
    dropout: float = 0.0
    init_scale: float = 0.1


class NeuralCollaborativeFiltering(Model):
    """Vectors are the embeddings of both parts side by side (2 D)."""

    Settings: ClassVar = NeuralCollaborativeFilteringSettings
    settings: NeuralCollaborativeFilteringSettings

    def __init__(self, settings: NeuralCollaborativeFilteringSettings, size: Size) -> None:
        super().__init__(settings, size)
        width = settings.embedding_size
        self.user = nn.Embedding(size.users, 2 * width)  # (p, p')
        self.item = nn.Embedding(size.items, 2 * width)  # (q, q')
        self.first = nn.Linear(2 * width, width)
        self.later = nn.ModuleList(
            nn.Linear(max(1, width >> layer), max(1, width >> layer + 1)) for layer in range(settings.layers - 1)
        )
        self.last = nn.Linear(width + max(1, width >> settings.layers - 1), 1)
        self.dropout = nn.Dropout(settings.dropout)
        for embedding in (self.user, self.item):
            nn.init.normal_(embedding.weight, std=settings.init_scale)

    def observe(self, rows: TrainingRows) -> None:
        zero_unknown(self.user, rows.user)
        zero_unknown(self.item, rows.item)

    def score(self, users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
        return self.logits_of(self.user(users), self.item(items))

    def rank(self, users: Tensor, sequences: Sequences) -> CatalogueScores:
        user = self.user(users)[:, None]  # (B, 1, 2 D)

        def scores(start: int, stop: int) -> Tensor:
            return self.logits_of(user, self.item.weight[start:stop])

        return by_pairs(users, 3 * self.settings.embedding_size, scores)

    def logits_of(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores (...) of vectors (..., 2 D), broadcast: what only one side enters is computed on that side."""
        width = self.settings.embedding_size
        user_part = functional.linear(user[..., width:], self.first.weight[:, :width], self.first.bias)
        item_part = functional.linear(item[..., width:], self.first.weight[:, width:])
        hidden = self.dropout(functional.relu(user_part + item_part))
        for layer in self.later:
            hidden = self.dropout(functional.relu(layer(hidden)))
        product = (user[..., :width] * item[..., :width]) @ self.last.weight[0, :width]
        logits: Tensor = product + hidden @ self.last.weight[0, width:] + self.last.bias
        return logits

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        vectors: Tensor = self.user(users)
        return vectors

    def item_vectors(self) -> Tensor:
        return self.item.weight
