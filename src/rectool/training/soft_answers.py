"""The objective of prompts with soft tokens: what is trained stands in front of, or inside, a language model.

Each epoch draws anew which rows hide their user or their item, so that the vectors of the unknown learn from them, and
which rows are asked in text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool.data.batches import shuffled_batches
from rectool.data.dataset import Dataset
from rectool.llm.head import AnswerHead
from rectool.llm.soft import SoftTokens, Wanted
from rectool.llm.soft_prefix import PrefixCache, prefix_lengths, prefixed_last_hidden
from rectool.prompts.tokens import TokenRows
from rectool.training.answers import AnswerObjective, read
from rectool.training.token_parts import TokenParts

DRAWS = 1
"""Tells what an epoch draws apart from its order, which has the same seed."""


class Hybrid(nn.Module):
    """A language model and its soft tokens, of which frozen parts stay in evaluation mode."""

    def __init__(self, model: nn.Module, soft: SoftTokens) -> None:
        super().__init__()
        self.model, self.soft = model, soft

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of the language model is trained."""
        return not any(parameter.requires_grad for parameter in self.model.parameters())

    def train(self, mode: bool = True) -> Hybrid:
        super().train(mode)
        if self.is_frozen:
            self.model.eval()
            for layer in self.model.modules():  # a layer computes its activations twice only where it is in training
                layer.training = mode and bool(getattr(layer, "gradient_checkpointing", False))
        return self


@dataclass(frozen=True)
class Asked:
    """The rows that are trained on.

    Attributes:
        rows: (N,) rows of the log.
        tokens: (N,) their prompts, with places for soft tokens.
        text: (N,) the same prompts of text alone; None where none are mixed in.
        labels: (N,) 1 for the first answer, 0 for the second.
    """

    dataset: Dataset
    rows: NDArray[np.int64]
    tokens: TokenRows
    text: TokenRows | None
    labels: NDArray[np.int8]


@dataclass(frozen=True)
class Drawing:
    """What each epoch draws.

    Attributes:
        hidden: share of rows that hide their user, and share of rows that hide their item.
        text_share: share of rows of text alone, by the share of the steps that is done.
        steps: of the run at most, None for those of `epochs`.
    """

    hidden: tuple[float, float]
    text_share: Callable[[float], float]
    epochs: int
    steps: int | None


class SoftAnswerObjective(AnswerObjective):
    """Each sample is a prompt with one answer: sample n + N is prompt n in text alone.

    Args:
        prefixed: run what stands before the first soft token without gradient; for `soft_prefix.can_prefix`.
        cache: where that is kept from epoch to epoch.
    """

    def __init__(
        self,
        hybrid: Hybrid,
        head: AnswerHead,
        asked: Asked,
        drawing: Drawing,
        parts: TokenParts,
        measure: Callable[[], Mapping[str, float]],
        device: torch.device,
        *,
        prefixed: bool = False,
        cache: PrefixCache | None = None,
    ) -> None:
        super().__init__(hybrid, head, asked.tokens, asked.labels, parts, measure, device)
        self.hybrid, self.asked, self.drawing = hybrid, asked, drawing
        self.prefixed, self.cache = prefixed, cache
        self.wanted: Wanted | None = None
        if asked.text is not None:
            self.labels = self.labels.repeat(2)

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        chance = np.random.default_rng((*seed, DRAWS))
        asked, count = self.asked, len(self.asked.rows)
        hidden = chance.random((2, count)) < np.array(self.drawing.hidden)[:, None]
        resolved = self.hybrid.soft.resolve(asked.dataset, asked.rows, asked.tokens, as_unknown=(hidden[0], hidden[1]))
        self.wanted, self.tokens = resolved.wanted, resolved.tokens
        batches = shuffled_batches(asked.tokens.lengths, np.ones(count, np.int64), size, seed)
        if asked.text is not None:
            self.tokens = TokenRows.joined([resolved.tokens, asked.text])
            luck, epoch = chance.random(count), seed[-1]
            steps = self.drawing.steps or self.drawing.epochs * len(batches)
            shares = [self.drawing.text_share((epoch * len(batches) + k) / steps) for k in range(len(batches))]
            batches = [
                np.where(luck[batch] < share, batch + count, batch)
                for batch, share in zip(batches, shares, strict=True)
            ]
        self.lengths = self.tokens.lengths - prefix_lengths(self.tokens) if self.prefixed else self.tokens.lengths
        return batches

    def hidden(self, samples: NDArray[np.int64]) -> Tensor:
        model = self.hybrid.model
        if self.prefixed:
            return prefixed_last_hidden(model, self.tokens, samples, self.vectors, self.device, self.cache)
        return read(model, self.tokens, samples, self.token_parts.packed, self.device, self.vectors)

    def vectors(self, references: NDArray[np.int64]) -> Tensor:
        """The vectors (K, H) of this epoch's references."""
        assert self.wanted is not None
        return self.hybrid.soft.vectors(self.wanted, references)
