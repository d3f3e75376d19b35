"""What the objectives of prompts share: a language model with what stands around it, read at each prompt's last token.

Shapes: N samples   B samples that are computed together   H hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, device, nn

from rectool.data.batches import shuffled_batches
from rectool.llm.body import Soft, last_hidden, on, pack, packed_last_hidden
from rectool.llm.compress import compressed
from rectool.llm.mask_plan import MaskKind
from rectool.llm.masks import packed_spans, spans_of
from rectool.llm.soft import SoftTokens
from rectool.prompts.tokens import TokenRows
from rectool.training.token_parts import LINE_TOKENS, TokenParts

Layers = tuple[MaskKind, ...]
"""The mask of each layer, from the bottom up; none where all are causal."""


class Criterion(Protocol):
    """What is minimised, given what a language model makes of prompts."""

    def __call__(self, hidden: Tensor, samples: NDArray[np.int64]) -> Tensor:
        """The sum of the losses of samples (B,), whose prompts end in the hidden states (B, H)."""


class Trainable(nn.Module):
    """A language model, its soft tokens and its head, if it has a head of its own; what is frozen is in evaluation."""

    def __init__(self, model: nn.Module, soft: SoftTokens | None = None, head: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.soft, self.head = model, soft, head

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of the language model is trained."""
        return not any(parameter.requires_grad for parameter in self.model.parameters())

    def train(self, mode: bool = True) -> Trainable:
        super().train(mode)
        if self.is_frozen:
            self.model.eval()
            for layer in self.model.modules():  # a layer computes its activations twice only where it is in training
                layer.training = mode and bool(getattr(layer, "gradient_checkpointing", False))
        return self


class PromptObjective:
    """Each sample is a prompt that is read at its last token; no logits of the vocabulary are made.

    Args:
        module: what is trained, a language model in it.
        model: the language model, with adapters or without.
        tokens: (N,) prompts; with spans, where `layers` are not causal.
        measure: what validation finds.
    """

    def __init__(
        self,
        module: nn.Module,
        model: nn.Module,
        tokens: TokenRows,
        criterion: Criterion,
        parts: TokenParts,
        measure: Callable[[], Mapping[str, float]],
        device: device,
        layers: Layers = (),
    ) -> None:
        self.module, self.model, self.criterion, self.layers = module, model, criterion, layers
        self.tokens, self.lengths = tokens, tokens.lengths
        self.token_parts, self.measure, self.device = parts, measure, device

    def batches(self, size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        return shuffled_batches(self.lengths, np.ones_like(self.lengths), size, seed)

    def targets(self, batch: NDArray[np.int64]) -> int:
        return len(batch)

    def parts(self, samples: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        return [samples[part] for part in self.token_parts.cut(self.lengths[samples], count)]

    def loss(self, samples: NDArray[np.int64]) -> Tensor:
        return self.criterion(self.hidden(samples), samples)

    def hidden(self, samples: NDArray[np.int64]) -> Tensor:
        """The hidden states (B, H) at the ends of prompts."""
        return self.read(samples)

    def validate(self) -> Mapping[str, float]:
        return self.measure()

    def read(self, samples: NDArray[np.int64], soft: Soft | None = None) -> Tensor:
        """The same, in lines that are packed, or padded on the right.

        Args:
            soft: what ids below 0 stand for.
        """
        model, tokens, layers = self.model, self.tokens, self.layers
        if self.token_parts.packed:
            width = max(LINE_TOKENS, int(tokens.lengths[samples].max()))
            packed = pack(tokens, samples, width, self.device)
            if not layers:
                return packed_last_hidden(model, packed, soft)
            with compressed(model, layers, packed_spans(tokens, samples, packed)) as masks:
                return packed_last_hidden(model, packed, soft, masks)
        ids, lengths = on(self.device, *tokens.padded(samples))
        if not layers:
            return last_hidden(model, ids, lengths, soft)
        with compressed(model, layers, spans_of(tokens, samples, ids.shape[1], self.device), lengths) as masks:
            return last_hidden(model, ids, lengths, soft, masks)
