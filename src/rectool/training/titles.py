"""The objective of titles: the language model writes the next item's title after each prompt (BIGRec, LLaRA).

Shapes: N samples   B samples that are computed together   L tokens of the longest   T tokens to write, of all of them
   H hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool.errors import RectoolError
from rectool.llm.body import body_of, causal_of, context_of, heeded, on, pack, packed_last_hidden, read_inputs
from rectool.llm.masks import mask_inputs, packed_spans, spans_of
from rectool.llm.title_head import TitleHead
from rectool.prompts.tokens import TokenRows, within
from rectool.training.losses import catalogue_loss
from rectool.training.prompted import Layers, PromptObjective
from rectool.training.token_parts import LINE_TOKENS, TokenParts


class TitleCriterion:
    """Cross-entropy of each token that is to be written; logits exist for a few of them at a time.

    Args:
        outputs: (I,) what is written for each item, see `Prompts.outputs`.
        items: (N,) the item of each sample.
    """

    def __init__(self, head: TitleHead, outputs: TokenRows, items: NDArray[np.int32], device: torch.device) -> None:
        self.head, self.outputs, self.items, self.device = head, outputs, items, device

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens that are to be written of each sample."""
        return self.outputs.lengths[self.items]

    def written(self, samples: NDArray[np.int64]) -> TokenRows:
        """What is to be written of samples (B,)."""
        return self.outputs.take(self.items[samples])

    def __call__(self, hidden: Tensor, samples: NDArray[np.int64]) -> Tensor:
        """The sum over all tokens of samples (B,), given the hidden states (T, H) that predict them."""
        (targets,) = on(self.device, self.written(samples).ids.astype(np.int64))
        return catalogue_loss(hidden, self.head.keys, targets)


class TitleObjective(PromptObjective):
    """Each sample is a prompt and what is to be written after it, whose tokens, of no item, are the targets.

    A batch has so many prompts; its loss is the mean over all their tokens, as in the code of BIGRec.

    Args:
        module: what is trained, a language model in it.
        model: the language model, with adapters or without.
        tokens: (N,) prompts; with spans, where `layers` are not causal.
        measure: what validation finds.
        layers: the mask of each layer; none where all are causal.

    Raises:
        RectoolError: a prompt and its title are longer together than the model can read.
    """

    criterion: TitleCriterion

    def __init__(
        self,
        module: nn.Module,
        model: nn.Module,
        tokens: TokenRows,
        criterion: TitleCriterion,
        parts: TokenParts,
        measure: Callable[[], Mapping[str, float]],
        device: torch.device,
        layers: Layers = (),
    ) -> None:
        super().__init__(module, model, tokens, criterion, parts, measure, device, layers)
        self.lengths = tokens.lengths + criterion.lengths
        longest, most = int(self.lengths.max(initial=0)), context_of(causal_of(model).config)
        if longest > most:
            fitting = max(1, most - int(criterion.lengths.max()))
            raise RectoolError(
                f"a prompt and the title after it have {longest:,} tokens, but the model reads {most:,} at most; "
                f"leave room for titles with --max-tokens {fitting}"
            )

    def targets(self, batch: NDArray[np.int64]) -> int:
        return int(self.criterion.lengths[batch].sum())

    def hidden(self, samples: NDArray[np.int64]) -> Tensor:
        """The hidden states (T, H) that predict what is to be written, sample by sample."""
        outputs = self.criterion.written(samples)
        tokens = self.tokens.take(samples).followed_by(outputs)
        rows = np.arange(len(samples))
        row, place = on(self.device, np.repeat(rows, outputs.lengths), within(outputs.lengths))
        (counts,) = on(self.device, outputs.lengths)
        if self.token_parts.packed:
            packed = pack(tokens, rows, max(LINE_TOKENS, int(tokens.lengths.max())), self.device)
            masks = mask_inputs(self.layers, packed_spans(tokens, rows, packed)) if self.layers else None
            before = packed.ends - counts  # the place that predicts the first token
            return packed_last_hidden(
                self.model, replace(packed, lines=packed.lines[row], ends=before[row] + place), masks=masks
            )
        ids, lengths = on(self.device, *tokens.padded(rows))
        masks = mask_inputs(self.layers, spans_of(tokens, rows, ids.shape[1], self.device)) if self.layers else None
        inputs = read_inputs(self.model, ids, None) | heeded(self.model, masks)
        states: Tensor = body_of(self.model)(**inputs, use_cache=False).last_hidden_state  # (B, L, H)
        return states[row, (lengths - 1 - counts)[row] + place]
