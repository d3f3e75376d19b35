"""Rows that begin alike: their common prefix is encoded once, and all read its keys and values.

The rows of a batch may have prefixes of different lengths: they stand at the left, a mask hides the hole before the
rest, and positions go on where the prefix ended.

Shapes: N rows   B rows of a batch   T tokens of the longest rest   C clusters   P tokens of the longest prefix
   H hidden size   A key heads   W their width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rectool.llm.body import context_of, on
from rectool.llm.reading import Budget, Encoded, Longs, Reader, in_batches, token_bytes
from rectool.llm.sharing import Clusters
from rectool.prompts.tokens import TokenRows

COPIES = 3
"""How often the keys and values of a layer are in memory, for each row, while it is run."""


class _SharedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of prefixes (C, A, P, W), read by each row of a batch; what the rows add is not kept."""

    def __init__(self, keys: Tensor, values: Tensor, owners: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._owners = owners  # (B,) the cluster of each row

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._before(self.keys, key_states), self._before(self.values, value_states)

    def _before(self, prefix: Tensor, rest: Tensor) -> Tensor:
        """(B, A, P + T, W)"""
        each = prefix.expand(len(rest), -1, -1, -1) if len(prefix) == 1 else prefix[self._owners]
        return torch.cat([each, rest], dim=2)


@dataclass(frozen=True)
class Rest:
    """What follows the prefixes of some rows, as the body reads it.

    Attributes:
        ids: (B, T); a shorter one is filled up with its last token.
        options: what else the body is called with: positions, mask, and the keys and values of the prefixes.
        ends: (B,) where the last token of each stands.
    """

    ids: Tensor
    options: dict[str, Any]
    ends: Tensor

    def last(self, states: Tensor) -> Tensor:
        """(B, H) of states (B, T, H)."""
        return states[torch.arange(len(states), device=states.device), self.ends]


@dataclass(frozen=True)
class Prefixes:
    """Prefixes that have been encoded.

    Attributes:
        layers: keys and values of each layer, both (C, A, P, W); after the end of a shorter prefix anything finite.
        lengths: (C,) tokens of each.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    lengths: Longs

    @staticmethod
    def encode(reader: Reader, tokens: TokenRows, rows: Longs, lengths: Longs, device: torch.device) -> Prefixes:
        """Encode what rows (C,) begin with, as many tokens as `lengths` (C,) says; not all of them 0."""
        ids = tokens.padded(rows)[0][:, : lengths.max()]
        ids[np.arange(ids.shape[1]) >= lengths[:, None]] = 0
        cache = DynamicCache()
        reader.states(*on(device, ids), past_key_values=cache, use_cache=True)
        return Prefixes([(layer.keys, layer.values) for layer in cache.layers], lengths)

    def rest(self, tokens: TokenRows, rows: Longs, owners: Longs) -> Rest:
        """What of rows (B,) follows their prefixes, at least one token of each.

        Args:
            owners: (B,) which of these prefixes each row begins with.
        """
        device = self.layers[0][0].device
        ids, lengths = tokens.padded(rows)
        prefixes, longest = self.lengths[owners], int(self.lengths.max())
        rest = lengths - prefixes
        places = prefixes[:, None] + np.minimum(np.arange(rest.max()), rest[:, None] - 1)  # (B, T)
        read, positions, ends, own = on(device, np.take_along_axis(ids, places, 1), places, rest - 1, owners)
        mask = None
        if (prefixes < longest).any():
            after = np.arange(longest + places.shape[1])  # (P + T,)
            mask = torch.from_numpy((after < prefixes[:, None]) | (after >= longest)).to(device)
        cache = self.cache(own)
        options = {"position_ids": positions, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        return Rest(read, options, ends)

    def cache(self, owners: Tensor) -> Cache:
        """Keys and values as the body is given them, for rows (B,) that begin with the prefixes of their owners."""
        return Cache(layers=[_SharedLayer(keys, values, owners) for keys, values in self.layers])

    def last_hidden(self, reader: Reader, tokens: TokenRows, rows: Longs, owners: Longs, batch: Longs) -> Tensor:
        """The hidden state (B, H) at the last token of a batch (B,) of rows (N,), whose prefixes are their owners'."""
        rest = self.rest(tokens, rows[batch], owners[batch])
        return rest.last(reader.states(rest.ids, **rest.options))


def encoded(reader: Reader, tokens: TokenRows, clusters: Clusters, room: Budget) -> Iterator[Encoded]:
    """The hidden state at the last token of each row of some clusters; several clusters are encoded together.

    What is kept of the prefixes, and what the rows read of them, counts into the budget like the tokens it is worth.
    """
    run, kept = token_bytes(reader.config, reader.dtype)
    kept_in_all = kept * reader.depth / run
    read = COPIES * kept / run
    order = np.argsort(-clusters.prefixes, kind="stable")
    done = 0
    while done < len(order):
        longest = clusters.prefixes[order[done]]
        several = order[done : done + max(1, int(room.tokens / (longest * (1 + kept_in_all))))]  # (C,)
        first = clusters.rows[clusters.bounds[several]]
        lengths = clusters.prefixes[several]
        prefixes = room.attempt(partial(Prefixes.encode, reader, tokens, first, lengths, room.device))
        if prefixes is None:
            room.halve(len(several))
            continue
        done += len(several)
        rows, owners = clusters.members(several)
        rest = tokens.lengths[rows] - clusters.prefixes[several][owners]
        work = partial(prefixes.last_hidden, reader, tokens, rows, owners)
        for batch, states in in_batches(np.arange(len(rows)), rest + read * (longest + rest), work, room):
            yield rows[batch], states
        del prefixes, work  # before there are others


def can_share(reader: Reader, longest: int, device: torch.device) -> bool:
    """Whether rows of this model can read the keys and values of a prefix; found by trying four short ones.

    Not where a window of attention is shorter than twice the longest row, nor with a recurrent state, nor for the
    embeddings alone.
    """
    text: PretrainedConfig = reader.config.get_text_config(decoder=True)
    for layer in DynamicCache(config=text).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return False
        if isinstance(layer, DynamicSlidingWindowLayer) and layer.sliding_window < 2 * longest:
            return False
    if context_of(text) < 8 or reader.layer == 0:
        return False
    ids = np.array([*range(1, 9), *range(1, 7), 9, 5, 4, 3, 2, 5, 4, 3, 6, 7], np.int32) % text.vocab_size
    tokens = TokenRows(ids, np.array([0, 8, 15, 19, 24]))
    clusters = Clusters(rows=np.arange(4), bounds=np.array([0, 2, 4]), prefixes=np.array([6, 3]))
    room = Budget(1 << 10, device)
    alone = torch.cat([reader.last_hidden(tokens, device, np.array([row])) for row in range(4)])
    try:
        shared = list(encoded(reader, tokens, clusters, room))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # it takes no such cache or positions
        return False
    states = torch.cat([states for _, states in shared])
    expected = alone[torch.from_numpy(np.concatenate([places for places, _ in shared])).to(alone.device)]
    tolerance = 1e-4 if reader.dtype == torch.float32 else 0.1
    return float((states - expected).abs().max()) <= tolerance * float((alone - alone.roll(1, 0)).abs().max())
