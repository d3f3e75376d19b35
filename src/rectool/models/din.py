"""DIN, the deep interest network (Zhou et al. 2018): the target asks the history what matters to it.

    a_j = MLP([h_j ; t ; h_j - t ; h_j * t])        one hidden layer, PReLU; no softmax over j
    interest = sum_j a_j h_j
    logit = MLP([interest ; t ; interest * t]) (+ b_u + b_t + c)

As in the paper the weights are not normalised, so that a long history of one taste says it louder.
Of the user's profile, which the paper puts beside the history, only the bias b_u is there. A history
without items has the interest 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from rectool.models.model import CatalogueScores, ItemBias, Model, Sequences, Size, TrainingRows, by_pairs
from rectool.models.priors import start_biases, zero_unknown


@dataclass(frozen=True)
class DeepInterestNetworkSettings:
    """Size of the embeddings, longest history, widths of both perceptrons, dropout, starting spread, item biases."""

    embedding_size: int = 32
    max_length: int = 25
    hidden_size: int = 64
    dropout: float = 0.0
    init_scale: float = 0.1
    biases: bool = True


class DeepInterestNetwork(Model):
    """Users' vectors are the mean of their history's embeddings: the interest that asks for nothing."""

    Settings: ClassVar = DeepInterestNetworkSettings
    reads_history: ClassVar = True
    new_users: ClassVar = True
    settings: DeepInterestNetworkSettings

    def __init__(self, settings: DeepInterestNetworkSettings, size: Size) -> None:
        super().__init__(settings, size)
        width, hidden = settings.embedding_size, settings.hidden_size
        self.item = nn.Embedding(size.items, width)
        self.activation_in = nn.Linear(4 * width, hidden)
        self.activation_out = nn.Sequential(nn.PReLU(), nn.Linear(hidden, 1))
        self.output = nn.Sequential(
            nn.Linear(3 * width, hidden),
            nn.PReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, max(1, hidden // 2)),
            nn.PReLU(),
            nn.Linear(max(1, hidden // 2), 1),
        )
        self.user_bias = nn.Embedding(size.users, 1) if settings.biases else None
        self.bias = ItemBias(size.items) if settings.biases else None
        nn.init.normal_(self.item.weight, std=settings.init_scale)
        if self.user_bias is not None:
            nn.init.zeros_(self.user_bias.weight)

    def observe(self, rows: TrainingRows) -> None:
        zero_unknown(self.item, rows.item)
        if self.bias is not None:
            start_biases(rows, self.bias, self.user_bias)

    def score(self, users: Tensor, items: Tensor, sequences: Sequences) -> Tensor:
        logits = self.logits_of(sequences, self.item(items)[:, None])[:, 0]
        if self.bias is None or self.user_bias is None:
            return logits
        biased: Tensor = logits + self.bias_of(users, self.user_bias) + self.bias(items)
        return biased

    def rank(self, users: Tensor, sequences: Sequences) -> CatalogueScores:
        def scores(start: int, stop: int) -> Tensor:
            logits = self.logits_of(sequences, self.item.weight[None, start:stop])
            if self.bias is None or self.user_bias is None:
                return logits
            biased: Tensor = logits + self.bias_of(users, self.user_bias)[:, None] + self.bias()[start:stop]
            return biased

        width = self.settings.embedding_size + 3 * self.settings.hidden_size
        return by_pairs(users, width * max(1, sequences.items.shape[1]), scores)

    def bias_of(self, users: Tensor, table: nn.Embedding) -> Tensor:
        """b_u (B,); 0 for a new user."""
        known = users < self.size.users
        biases: Tensor = table(users * known)[:, 0]
        return biases * known

    def logits_of(self, sequences: Sequences, target: Tensor) -> Tensor:
        """Logits (B, C) of targets (B or 1, C, D)."""
        history = self.item(sequences.items)  # (B, L, D)
        weights = self.weights(history, target)  # (B, C, L)
        interest = weights.masked_fill(~sequences.mask[:, None], 0) @ history  # (B, C, D)
        target = target.expand_as(interest)
        logits: Tensor = self.output(torch.cat((interest, target, interest * target), -1))[..., 0]
        return logits

    def weights(self, history: Tensor, target: Tensor) -> Tensor:
        """What each target (B or 1, C, D) makes of each item of the history (B, L, D): (B, C, L).

        The first layer is linear in [h ; t ; h - t ; h * t], so that only h * t is computed for pairs.
        """
        of_history, of_target, of_difference, of_product = self.activation_in.weight.chunk(4, -1)  # (H, D) each
        pair = functional.linear(history[:, None] * target[:, :, None], of_product)  # (B, C, L, H)
        pair = pair + functional.linear(history, of_history + of_difference)[:, None]
        pair = pair + functional.linear(target, of_target - of_difference, self.activation_in.bias)[:, :, None]
        weights: Tensor = self.activation_out(pair)[..., 0]
        return weights

    def user_vectors(self, users: Tensor, sequences: Sequences) -> Tensor:
        vectors: Tensor = self.item(sequences.items) * sequences.mask[..., None]
        return vectors.sum(1) / sequences.lengths.clamp(min=1)[:, None]

    def item_vectors(self) -> Tensor:
        return self.item.weight

    def item_biases(self) -> Tensor | None:
        return None if self.bias is None else self.bias()
