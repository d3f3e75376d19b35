"""One vector of each text: the state at its last token, the mean over its tokens, or the state at its first one.

Shapes: N rows   B rows of a batch   L tokens of the longest   H hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from rectool.llm.body import on, refuse_too_long
from rectool.llm.distill_settings import Pooling
from rectool.llm.encode import hidden_states
from rectool.llm.reading import Budget, Encoded, Longs, Reader, default_budget, in_batches
from rectool.prompts.tokens import TokenRows


def pooled_states(
    model: nn.Module,
    tokens: TokenRows,
    pooling: Pooling,
    *,
    causal: bool,
    device: torch.device,
    budget: int | None = None,
    layer: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Encoded]:
    """The pooled state of each row; what all rows begin with is encoded once where it is pooled by its last token.

    Args:
        pooling: "last" of causal models only.
        causal: whether a token sees only what stands before it.
        budget, layer: see `encode.hidden_states`.

    Yields:
        Each row once, in no particular order: (places (B,), states (B, H)).

    Raises:
        RectoolError: as `encode.hidden_states`.
    """
    if pooling == "last":
        yield from hidden_states(
            model,
            tokens,
            device=device,
            budget=budget,
            groups=np.zeros(len(tokens), np.int64),
            progress=progress,
            layer=layer,
        )
        return
    reader = Reader(model, layer)
    refuse_too_long(tokens, reader.config)

    def pooled(places: Longs) -> Tensor:
        ids, lengths = on(device, *tokens.padded(places))
        real = torch.arange(ids.shape[1], device=device) < lengths[:, None]  # (B, L)
        states = reader.states(ids, **({"use_cache": False} if causal else {"attention_mask": real.long()}))
        if pooling == "cls":
            return states[:, 0]
        return (states.float() * real[:, :, None]).sum(1) / lengths[:, None]

    room = Budget(budget or default_budget(reader.config, reader.dtype, device), device)
    for places, states in in_batches(np.arange(len(tokens)), tokens.lengths, pooled, room):
        progress(len(places))
        yield places, states
