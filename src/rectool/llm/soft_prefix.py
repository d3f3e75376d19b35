"""Training what stands in a prompt of a frozen language model: only what follows the first soft vector has a gradient.

What stands before it is the same in each step. It is run without gradient, once for all rows of a batch that begin
alike, and its keys and values are read by the rest; they may be kept from one epoch to the next.

Shapes: N rows   B rows of a batch   C prefixes   P tokens of the longest   H hidden size   D layers   A key heads
   W their width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rectool.llm.body import Soft, body_of, causal_of, context_of, evaluating, last_hidden, on, read_inputs
from rectool.llm.prefix import Prefixes, can_share
from rectool.llm.reading import Longs, Reader, token_bytes
from rectool.prompts.tokens import TokenRows

KeysValues = tuple[Tensor, Tensor]
"""Of one prefix, both (D, A, P, W)."""


class PrefixCache:
    """Keys and values of prefixes, kept for as long as the model does not change.

    The first to come are kept, none is ever dropped: rows that come by in another order each epoch would drop each
    other.

    Args:
        capacity: bytes that it may take.
        device: where they are kept.

    Attributes:
        taken: bytes that it takes.
        hits, misses: how many prefixes were found here, and how many were not.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity, self.device = capacity, device
        self.taken = self.hits = self.misses = 0
        self._kept: dict[bytes, KeysValues] = {}

    def find(self, prefix: bytes) -> KeysValues | None:
        found = self._kept.get(prefix)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def offer(self, prefix: bytes, states: KeysValues) -> None:
        """Keep them if there is room."""
        keys, values = states
        size = len(prefix) + keys.nbytes + values.nbytes
        if self.taken + size <= self.capacity:
            self._kept[prefix] = keys.to(self.device), values.to(self.device)
            self.taken += size


def prefix_lengths(tokens: TokenRows) -> Longs:
    """(N,) tokens before the first reference of each row; of a row without one all but the last."""
    softs = np.flatnonzero(tokens.ids < 0)
    first = np.append(softs, len(tokens.ids))[np.searchsorted(softs, tokens.offsets[:-1])]
    least: Longs = np.minimum(first - tokens.offsets[:-1], tokens.lengths - 1)
    return least


def cache_bytes(model: nn.Module, tokens: TokenRows) -> int:
    """About what a `PrefixCache` of all prefixes takes, each of them once."""
    text = causal_of(model).config.get_text_config(decoder=True)
    kept = token_bytes(text, causal_of(model).get_input_embeddings().weight.dtype)[1] * text.num_hidden_layers
    different = set(_prefixes(tokens, prefix_lengths(tokens)))
    return sum(int(len(prefix) * (1 + kept / tokens.ids.itemsize)) for prefix in different)


def can_prefix(model: nn.Module, longest: int | None = None) -> bool:
    """Whether `prefixed_last_hidden` can run this model: none of it is trained, and rows can read a prefix.

    Not with checkpointing, which drops keys and values. Otherwise found by trying, see `prefix.can_share`.

    Args:
        longest: tokens of the longest row; None for as many as the model can read.
    """
    trained = any(parameter.requires_grad for parameter in model.parameters())
    if trained or any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
        return False
    reader = Reader(model)
    return can_share(reader, longest or context_of(reader.config), next(model.parameters()).device)


def prefixed_last_hidden(
    model: nn.Module,
    tokens: TokenRows,
    samples: NDArray[np.integer[Any]],
    soft: Soft | None,
    device: torch.device,
    cache: PrefixCache | None = None,
) -> Tensor:
    """The hidden state (B, H) at the last token of each of some rows (B,), after the final norm.

    The same as `body.last_hidden` in evaluation mode, with the same gradients for the soft vectors.

    Args:
        model: for which `can_prefix` has been asked; it is run in evaluation mode.
        soft: what references stand for.
        cache: where prefixes are kept from call to call; of this model alone.
    """
    batch = tokens.take(samples)
    lengths = prefix_lengths(batch)
    if lengths.max(initial=0) == 0:
        ids, sizes = on(device, *batch.padded(np.arange(len(batch))))
        with evaluating(model):
            return last_hidden(model, ids, sizes, soft)
    order: dict[bytes, int] = {}
    owners = np.array([order.setdefault(prefix, len(order)) for prefix in _prefixes(batch, lengths)])
    rows = np.unique(owners, return_index=True)[1]  # the first with each prefix
    prefixes = _encoded(Reader(model), batch, rows, lengths[rows], list(order), device, cache)
    rest = prefixes.rest(batch, np.arange(len(batch)), owners)
    with evaluating(model):
        states: Tensor = body_of(model)(**read_inputs(model, rest.ids, soft), **rest.options).last_hidden_state
    return rest.last(states)


def _prefixes(tokens: TokenRows, lengths: Longs) -> list[bytes]:
    """What tells the prefixes of these lengths (N,) of all rows apart."""
    starts = tokens.offsets[:-1]
    return [tokens.ids[start : start + length].tobytes() for start, length in zip(starts, lengths, strict=True)]


def _encoded(
    reader: Reader,
    tokens: TokenRows,
    rows: Longs,
    lengths: Longs,
    keys: Sequence[bytes],
    device: torch.device,
    cache: PrefixCache | None,
) -> Prefixes:
    """What rows (C,) begin with: from the cache where it is there, and put there where it was not.

    With a cache a CPU runs each prefix by itself: what it rounds to then depends on no other row, so that a run that
    was stopped, whose cache is empty again, goes on bit for bit.
    """
    if cache is None:
        return Prefixes.encode(reader, tokens, rows, lengths, device)
    found = [cache.find(prefix) if prefix else None for prefix in keys]
    missing = np.flatnonzero([states is None and bool(prefix) for states, prefix in zip(found, keys, strict=True)])
    together = 1 if device.type == "cpu" else max(1, len(missing))
    for start in range(0, len(missing), together):
        part = missing[start : start + together]
        new = Prefixes.encode(reader, tokens, rows[part], lengths[part], device)
        for place, (row, length) in enumerate(zip(part, lengths[part], strict=True)):
            own = [[part[place, :, :length] for part in layer] for layer in new.layers]
            states = torch.stack([layer[0] for layer in own]), torch.stack([layer[1] for layer in own])
            found[row] = states
            cache.offer(keys[int(row)], states)
    parts = [_side_by_side([states and states[kind] for states in found], lengths, device) for kind in (0, 1)]
    return Prefixes(list(zip(*(part.unbind(1) for part in parts), strict=True)), lengths)


def _side_by_side(several: Sequence[Tensor | None], lengths: Longs, device: torch.device) -> Tensor:
    """(C, D, A, P, W), zeros after the end of each; None is all zeros."""
    shape = next(list(part.shape) for part in several if part is not None)
    dtype = next(part.dtype for part in several if part is not None)
    shape[2] = int(lengths.max())
    together = torch.zeros([len(several), *shape], dtype=dtype, device=device)
    for place, (part, length) in enumerate(zip(several, lengths, strict=True)):
        if part is not None:
            together[place, :, :, :length] = part
    return together
