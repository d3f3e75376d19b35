"""The language-model objective: cross-entropy of each next token of a text.

Shapes: B texts   L tokens of the longest   N tokens to predict   V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool import processes
from rectool.data.batches import shuffled_batches
from rectool.llm.body import body_of, causal_of, on
from rectool.prompts.tokens import TokenRows
from rectool.training.losses import catalogue_loss
from rectool.training.token_parts import TokenParts


@dataclass(frozen=True)
class Texts:
    """Texts as tokens, and where what is learned of them begins.

    Attributes:
        tokens: rows of two tokens at least.
        first: (B,) int64, the first token of each row that is a target, from 1 on: those before it are only read.
    """

    tokens: TokenRows
    first: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> NDArray[np.int64]:
        """(B,) tokens to learn of each row."""
        return self.tokens.lengths - self.first

    def take(self, places: NDArray[np.int64]) -> Texts:
        """Some of them, in the order of `places`."""
        return Texts(self.tokens.take(places), self.first[places])


class LanguageObjective:
    """Each sample is a text, whose tokens from a certain one on are targets.

    Texts of like length go into one batch, so that hardly anything is padding, and none sees another.

    Args:
        module: a causal language model whose head is a plain matrix.
        texts: to train on.
        held_out: to validate on.
        chapters: (B,) which chapter each text to train on is of, from 0; an epoch reads one after the other.
    """

    def __init__(
        self,
        module: nn.Module,
        texts: Texts,
        held_out: Texts,
        parts: TokenParts,
        device: torch.device,
        chapters: NDArray[np.int64] | None = None,
    ) -> None:
        self.module, self.texts, self.held_out = module, texts, held_out
        self.lengths = texts.tokens.lengths
        self.token_parts, self.device = parts, device
        self.chapters = np.zeros_like(self.lengths) if chapters is None else chapters

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        found = []
        for chapter in np.unique(self.chapters):
            texts = np.flatnonzero(self.chapters == chapter)
            lengths = self.lengths[texts]
            found += [texts[batch] for batch in shuffled_batches(lengths, lengths - 1, size, seed)]
        return found

    def targets(self, batch: NDArray[np.int64]) -> int:
        return int(self.texts.targets[batch].sum())

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        return [samples[part] for part in self.token_parts.cut(self.lengths[samples], count)]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        return self._loss(self.texts, samples)

    def validate(self) -> Mapping[str, float]:
        """The mean loss of a held-out target; several processes share the texts."""
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        parts = self.token_parts.cut(self.held_out.tokens.lengths)
        for part in parts[processes.rank() :: processes.world_size()]:
            total[0] += self._loss(self.held_out, part)
            total[1] += float(self.held_out.targets[part].sum())
        loss, targets = processes.all_reduce_sum(total).tolist()
        return {"loss": loss / targets} if targets else {}

    def _loss(self, texts: Texts, places: NDArray[np.int64]) -> Tensor:
        ids, lengths, first = on(self.device, *texts.tokens.padded(places), texts.first[places])
        return next_token_loss(self.module, ids, lengths, first)


def next_token_loss(model: nn.Module, ids: Tensor, lengths: Tensor, first: Tensor) -> Tensor:
    """The sum of the cross-entropies of each text's tokens from a certain one on; logits exist for a few at a time.

    Args:
        ids: (B, L) int64, padded on the right with any id of the vocabulary.
        lengths: (B,) int64.
        first: (B,) int64, from 1 on.
    """
    states = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, L - 1, H)
    place = torch.arange(1, ids.shape[1], device=ids.device)
    learned = (place >= first[:, None]) & (place < lengths[:, None])  # (B, L - 1)
    keys = causal_of(model).get_output_embeddings().weight  # (V, H)
    return catalogue_loss(states[learned], keys, ids[:, 1:][learned])  # N of them
