"""The objective of yes/no prompts: cross-entropy of the answer, read off at the last token of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool.data.batches import shuffled_batches
from rectool.llm.body import Soft, last_hidden, on, pack, packed_last_hidden
from rectool.llm.head import AnswerHead
from rectool.prompts.tokens import TokenRows
from rectool.training import losses
from rectool.training.token_parts import LINE_TOKENS, TokenParts


class AnswerObjective:
    """Each sample is a prompt with one answer.

    Only two rows of the output head are read, at one position of each prompt: no logits of the vocabulary are made.

    Args:
        module: the language model, with adapters or without.
        tokens: (N,) prompts.
        labels: (N,) 1 for the first answer, 0 for the second.
        measure: what validation finds.
    """

    def __init__(
        self,
        module: nn.Module,
        head: AnswerHead,
        tokens: TokenRows,
        labels: NDArray[np.int8],
        parts: TokenParts,
        measure: Callable[[], Mapping[str, float]],
        device: torch.device,
    ) -> None:
        self.module, self.head = module, head
        self.tokens, self.lengths = tokens, tokens.lengths
        self.labels = torch.from_numpy(labels.astype(np.float32))
        self.token_parts, self.measure, self.device = parts, measure, device

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        return shuffled_batches(self.lengths, np.ones_like(self.lengths), size, seed)

    def targets(self, batch: NDArray[np.int64]) -> int:
        return len(batch)

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        return [samples[part] for part in self.token_parts.cut(self.lengths[samples], count)]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        labels = self.labels[torch.from_numpy(samples)].to(self.device)
        return losses.pointwise_bce(self.head.scores(self.hidden(samples)), labels)

    def hidden(self, samples: NDArray[np.int64]) -> Tensor:
        """The hidden states (B, H) that answers are read off."""
        return read(self.module, self.tokens, samples, self.token_parts.packed, self.device)

    def validate(self) -> Mapping[str, float]:
        return self.measure()


def read(
    model: nn.Module,
    tokens: TokenRows,
    samples: NDArray[np.int64],
    packed: bool,
    device: torch.device,
    soft: Soft | None = None,
) -> Tensor:
    """The hidden state at the last token (B, H) of prompts (B,), in lines that are packed, or padded on the right."""
    if packed:
        width = max(LINE_TOKENS, int(tokens.lengths[samples].max()))
        return packed_last_hidden(model, pack(tokens, samples, width, device), soft)
    ids, lengths = on(device, *tokens.padded(samples))
    return last_hidden(model, ids, lengths, soft)
