"""The language-model objective: cross-entropy of each next token of a text.

Shapes: B texts   L tokens of the longest   N tokens to predict   V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping

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


class LanguageObjective:
    """Each sample is a text, and each of its tokens but the first is a target.

    Texts of like length go into one batch, so that hardly anything is padding, and none sees another.

    Args:
        module: a causal language model whose head is a plain matrix.
        tokens: texts to train on, of two tokens at least.
        held_out: texts to validate on, likewise.
        chapters: (B,) which chapter each text to train on is of, from 0; an epoch reads one after the other.
    """

    def __init__(
        self,
        module: nn.Module,
        tokens: TokenRows,
        held_out: TokenRows,
        parts: TokenParts,
        device: torch.device,
        chapters: NDArray[np.int64] | None = None,
    ) -> None:
        self.module, self.tokens, self.held_out = module, tokens, held_out
        self.lengths = tokens.lengths
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
        return int((self.lengths[batch] - 1).sum())

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        return [samples[part] for part in self.token_parts.cut(self.lengths[samples], count)]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        return next_token_loss(self.module, *on(self.device, *self.tokens.padded(samples)))

    def validate(self) -> Mapping[str, float]:
        """The mean loss of a held-out token; several processes share the texts."""
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        lengths = self.held_out.lengths
        for part in self.token_parts.cut(lengths)[processes.rank() :: processes.world_size()]:
            total[0] += next_token_loss(self.module, *on(self.device, *self.held_out.padded(part)))
            total[1] += float((lengths[part] - 1).sum())
        loss, targets = processes.all_reduce_sum(total).tolist()
        return {"loss": loss / targets} if targets else {}


def next_token_loss(model: nn.Module, ids: Tensor, lengths: Tensor) -> Tensor:
    """The sum of the cross-entropies of all tokens but the first of each text; logits exist for a few at a time.

    Args:
        ids: (B, L) int64, padded on the right with any id of the vocabulary.
        lengths: (B,) int64.
    """
    states = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, L - 1, H)
    real = torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None]  # (B, L - 1)
    keys = causal_of(model).get_output_embeddings().weight  # (V, H)
    return catalogue_loss(states[real], keys, ids[:, 1:][real])  # N of them
