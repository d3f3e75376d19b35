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
from torch import Tensor

from rectool.data.batches import shuffled_batches
from rectool.data.dataset import Dataset
from rectool.llm.references import Wanted
from rectool.llm.soft_prefix import PrefixCache, prefix_lengths, prefixed_last_hidden
from rectool.prompts.tokens import TokenRows
from rectool.training.prompted import Criterion, Layers, PromptObjective, Trainable
from rectool.training.token_parts import TokenParts

DRAWS = 1
"""Tells what an epoch draws apart from its order, which has the same seed."""


@dataclass(frozen=True)
class Asked:
    """The rows that are trained on.

    Attributes:
        rows: (N,) rows of the log.
        tokens: (N,) their prompts, with places for soft tokens.
        text: (N,) the same prompts of text alone; None where none are mixed in.
    """

    dataset: Dataset
    rows: NDArray[np.int64]
    tokens: TokenRows
    text: TokenRows | None


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


class SoftObjective(PromptObjective):
    """Each sample is a prompt: sample n + N is prompt n in text alone.

    Args:
        module: a language model with soft tokens.
        criterion: told of prompts by number, whether of text alone or not.
        prefixed: run what stands before the first soft token without gradient; for `soft_prefix.can_prefix`.
        cache: where that is kept from epoch to epoch.
    """

    def __init__(
        self,
        module: Trainable,
        criterion: Criterion,
        asked: Asked,
        drawing: Drawing,
        parts: TokenParts,
        measure: Callable[[], Mapping[str, float]],
        device: torch.device,
        layers: Layers = (),
        *,
        prefixed: bool = False,
        cache: PrefixCache | None = None,
    ) -> None:
        super().__init__(module, module.model, asked.tokens, criterion, parts, measure, device, layers)
        assert module.soft is not None
        self.soft, self.asked, self.drawing = module.soft, asked, drawing
        self.prefixed, self.cache = prefixed, cache
        self.wanted: Wanted | None = None

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        chance = np.random.default_rng((*seed, DRAWS))
        asked, count = self.asked, len(self.asked.rows)
        hidden = chance.random((2, count)) < np.array(self.drawing.hidden)[:, None]
        resolved = self.soft.resolve(asked.dataset, asked.rows, asked.tokens, as_unknown=(hidden[0], hidden[1]))
        self.wanted, self.tokens = resolved.wanted, resolved.tokens
        batches = shuffled_batches(asked.tokens.lengths, np.ones(count, np.int64), size, seed)
        if asked.text is not None:
            self.tokens = TokenRows.joined([resolved.tokens, asked.text])
            luck, epoch = chance.random(count), seed[-1]
            steps = self.drawing.steps or max(1, self.drawing.epochs * len(batches))
            shares = [self.drawing.text_share((epoch * len(batches) + k) / steps) for k in range(len(batches))]
            batches = [
                np.where(luck[batch] < share, batch + count, batch)
                for batch, share in zip(batches, shares, strict=True)
            ]
        self.lengths = self.tokens.lengths - prefix_lengths(self.tokens) if self.prefixed else self.tokens.lengths
        return batches

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        return self.criterion(self.hidden(samples), samples % len(self.asked.rows))

    def hidden(self, samples: NDArray[np.int64]) -> Tensor:
        if self.prefixed:
            return prefixed_last_hidden(self.model, self.tokens, samples, self.vectors, self.device, self.cache)
        return self.read(samples, self.vectors)

    def vectors(self, references: NDArray[np.int64]) -> Tensor:
        """The vectors (K, H) of this epoch's references."""
        assert self.wanted is not None
        return self.soft.vectors(self.wanted, references)
