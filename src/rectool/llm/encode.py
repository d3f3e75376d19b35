"""Hidden states of many prompts: hardly any padding, nothing computed twice, memory bounded.

Shapes: N rows   B rows of a batch   H hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rectool.llm import isolate, prefix, sharing
from rectool.llm.body import Soft, refuse_too_long
from rectool.llm.mask_plan import CAUSAL, MaskPlan
from rectool.llm.reading import Budget, Encoded, Reader, default_budget, in_batches
from rectool.prompts.spans import refuse_lost_spans
from rectool.prompts.tokens import TokenRows


def hidden_states(
    model: nn.Module,
    tokens: TokenRows,
    *,
    soft: Soft | None = None,
    device: torch.device,
    budget: int | None = None,
    groups: NDArray[np.integer[Any]] | None = None,
    progress: Callable[[int], None] | None = None,
    layer: int | None = None,
    mask: MaskPlan = CAUSAL,
) -> Iterator[Encoded]:
    """The hidden state at each row's last token: the one that predicts what comes next.

    Rows of about one length are encoded together. What rows of a group begin with alike is encoded once, and its keys
    and values are read by all of them; which prefixes are worth it is found from the tokens. In float32 every row's
    state is that of the row alone, within 1e-5, whatever the budget. Where memory runs out the budget is halved.

    Args:
        model: causal, with adapters or without.
        soft: the vectors that ids below 0 refer to, or what makes them a batch at a time; rows share them as they share
            ids.
        budget: tokens of a batch, padding included; None for what suits the device.
        groups: (N,) rows of different groups share nothing; zeros let all rows share; None shares nothing.
        progress: told how many more rows are done.
        layer: read the state after this many layers, before the final norm (0: the embeddings); None or the number of
            all layers for the model's output, after the final norm.
        mask: which tokens see which, by the spans that rows have then. Masked rows share no prefixes, but titles where
            the plan isolates them; see `isolate`.

    Yields:
        Each row once, in no particular order: (places (B,), states (B, H) in the model's dtype, on the device).

    Raises:
        RectoolError: a row is longer than the model can read, there is no such layer, the mask does not fit the model,
            a title has no token of its own, or one row alone is too much.
        ValueError: rows have references, but there is no `soft`; or the mask wants spans, but there are none.
    """
    if soft is None and tokens.ids.min(initial=0) < 0:
        raise ValueError("rows refer to vectors, but none are given")
    reader = Reader(model, layer, soft, mask)
    refuse_too_long(tokens, reader.config)
    if reader.is_masked:
        refuse_lost_spans(tokens)
    room = Budget(budget or default_budget(reader.config, reader.dtype, device), device)
    lengths = tokens.lengths
    clusters = None
    if groups is not None and not reader.is_masked and prefix.can_share(reader, int(lengths.max(initial=0)), device):
        clusters = sharing.find(tokens, groups)
    rows = np.arange(len(tokens)) if clusters is None else clusters.alone
    found = in_batches(rows, lengths[rows], partial(reader.last_hidden, tokens, device), room)
    if clusters is not None:
        found = chain(prefix.encoded(reader, tokens, clusters, room), found)
    elif reader.is_masked and isolate.can(reader, tokens):
        found = isolate.encoded(reader, tokens, room)
    for places, states in found:
        if progress is not None:
            progress(len(places))
        yield places, states
