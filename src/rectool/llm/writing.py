"""Beam search after many prompts at once: a prompt is encoded once, and all its beams read its keys and values.

The beams of a prompt stand side by side in one row of the cache, step after step; a mask lets each see the prompt and
what it has written itself. So nothing is copied or put in another order where beams fork and end.

Shapes: B prompts   P tokens of the longest   M beams of all of them that go on   K of one at most   T tokens written
   S of all beams in a row of the cache   C ways to go on   H hidden size   V vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rectool.errors import RectoolError
from rectool.llm.body import context_of, on
from rectool.llm.masks import Spans, mask_inputs, spans_of
from rectool.llm.reading import Longs, Reader
from rectool.llm.title_head import TitleHead
from rectool.prompts.tokens import TokenRows

LOGIT_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Of logits that exist at a time."""


class Guide(Protocol):
    """What may be written, as states that tokens lead to, from state 0."""

    @property
    def longest(self) -> int:
        """Tokens after which nothing goes on."""

    def steps(self, states: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How beams may go on.

        Args:
            states: (M,)
            logits: (M, V)

        Returns:
            Each (C,): which beam goes on, by which token, to which state.
        """

    def ends(self, states: Tensor) -> Tensor:
        """(C,) bool, whether what is written is complete."""

    def goes_on(self, states: Tensor) -> Tensor:
        """(C,) bool, whether more can be written; of what is complete, too."""


@dataclass(frozen=True)
class Beams:
    """What has been written so far, by prompt and the best first.

    Attributes:
        row: (M,) int64, which prompt.
        score: (M,) float32, the log-probability of the tokens.
        state: (M,) int64, where they lead.
        tokens: (M, T) int64, -1 after the end of a shorter one.
    """

    row: Tensor
    score: Tensor
    state: Tensor
    tokens: Tensor

    @staticmethod
    def empty(prompts: int, device: torch.device) -> Beams:
        """One for each prompt, with nothing written."""
        row = torch.arange(prompts, device=device)
        return Beams(row, torch.zeros(prompts, device=device), torch.zeros_like(row), row.new_empty(prompts, 0))

    def take(self, places: Tensor) -> Beams:
        return Beams(self.row[places], self.score[places], self.state[places], self.tokens[places])

    def padded(self, width: int) -> Beams:
        """With tokens (M, width)."""
        missing = self.tokens.new_full((len(self.tokens), width - self.tokens.shape[1]), -1)
        return Beams(self.row, self.score, self.state, torch.cat([self.tokens, missing], 1))


def write(reader: Reader, head: TitleHead, prompts: TokenRows, places: Longs, guide: Guide, beams: int) -> Beams:
    """The best texts after some prompts (B,): at most `beams` of each, by their log-probability, the best first.

    A text that is complete stays where it is until as many better ones are found; since log-probabilities only fall,
    the search ends when no beam can become better than those. Of equal ones the first found comes first. What is not
    complete after `guide.longest` tokens counts as it is.

    Args:
        reader: of the model, its mask and its soft vectors. Written tokens are of no item.
        prompts: with spans, where the reader has a mask.
    """
    context = _Context(reader, prompts, places)
    with torch.no_grad():
        hidden = context.hidden
        going = Beams.empty(len(places), hidden.device)
        done = going.take(going.row[:0])
        for width in range(1, guide.longest + 1):
            owner, found = _ways(head, hidden, going, guide)
            ending, more = guide.ends(found.state), guide.goes_on(found.state)
            if width == guide.longest:
                ending, more = torch.ones_like(ending), torch.zeros_like(more)
            ending, more = ending.nonzero()[:, 0], more.nonzero()[:, 0]
            rows = torch.cat([done.row, found.row[ending], found.row[more]])
            scores = torch.cat([done.score, found.score[ending], found.score[more]])
            best = _best_of_each(rows, scores, beams)
            finished = _joined(done.padded(width), found.take(ending))
            done = finished.take(best[best < len(finished.row)])
            kept = more[best[best >= len(finished.row)] - len(finished.row)]
            if not len(kept):
                break
            going = found.take(kept)
            hidden = context.read(going, owner[kept])
        return done


def refuse_unable(reader: Reader, longest: int, device: torch.device) -> None:
    """Find out whether a model can write from a cache, by comparing a few short texts with the slow way.

    Args:
        longest: tokens of the longest prompt and the longest text together.

    Raises:
        RectoolError: they are more than it can read, it keeps no keys and values of all tokens, or a mask of the beams
            means nothing to it.
    """
    text = reader.config.get_text_config(decoder=True)
    most = context_of(text)
    if longest > most:
        raise RectoolError(
            f"the longest prompt and the longest title have {longest:,} tokens, but the model reads {most:,} at most; "
            "shorten prompts with a smaller --history or --max-tokens"
        )
    for layer in DynamicCache(config=text).layers:
        is_short = isinstance(layer, DynamicSlidingWindowLayer) and layer.sliding_window < longest
        if is_short or type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise RectoolError(
                f"{text.model_type} models like this one do not keep all {longest:,} tokens of a prompt and a title in "
                "view, which writing titles needs; choose another --llm"
            )
    plain = Reader(reader.model)
    ids = np.arange(1, 12, dtype=np.int32) % text.vocab_size
    prompts = TokenRows(ids, np.array([0, 5, 8, 11]))
    try:
        context = _Context(plain, prompts, np.array([0, 1]))
        beams = Beams.empty(2, device)
        for width in range(1, 3):
            owner = torch.tensor([0, 0, 1] if width == 1 else [1, 0, 2], device=device)
            written = torch.tensor([3, 4, 5] if width == 1 else [6, 7, 8], device=device) % text.vocab_size
            beams = beams.take(owner)
            beams = Beams(beams.row, beams.score, beams.state, torch.cat([beams.tokens, written[:, None]], 1))
            found = context.read(beams, owner)
        expected = []
        for row, tokens in zip(beams.row.tolist(), beams.tokens, strict=True):
            before = torch.from_numpy(prompts.padded(np.array([row]))[0][0]).to(device)
            expected.append(plain.states(torch.cat([before, tokens])[None], use_cache=False)[0, -1])
        slow = torch.stack(expected)
        tolerance = 1e-3 if reader.dtype == torch.float32 else 0.1
        same = float((found - slow).abs().max()) <= tolerance * float((slow - slow.roll(1, 0)).abs().max())
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # it takes no such cache or mask
        same = False
    if not same:
        raise RectoolError(f"{text.model_type} models cannot write several titles side by side; choose another --llm")


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer (B, A, tokens, W) with room for more after them, so that few steps copy them."""

    keys: Tensor
    values: Tensor
    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        before = self.get_seq_length()
        length = before + key_states.shape[2]
        if self._room is None or self._room[0].shape[2] < length:
            shape = (*key_states.shape[:2], length + length // 2, key_states.shape[3])
            self._room = key_states.new_empty(shape), value_states.new_empty((*shape[:3], value_states.shape[3]))
            if self.is_initialized:
                self._room[0][:, :, :before], self._room[1][:, :, :before] = self.keys, self.values
            else:
                self.lazy_initialization(key_states, value_states)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, before:length] = new
        self.keys, self.values = (room[:, :, :length] for room in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = None


class _Context:
    """Prompts that have been encoded, and what their beams have written since.

    Attributes:
        hidden: (B, H) at the last token of each prompt.
    """

    def __init__(self, reader: Reader, prompts: TokenRows, places: Longs) -> None:
        self._reader = reader
        device = next(reader.model.parameters()).device
        ids, self._lengths = on(device, *prompts.padded(places))
        self._width = ids.shape[1]
        self._spans = spans_of(prompts, places, self._width, device) if reader.is_masked else None
        masks = {} if self._spans is None else mask_inputs(reader.kinds, self._spans)
        self._cache = Cache(layers=[_RoomyLayer() for _ in range(reader.depth)])
        states = reader.states(ids, past_key_values=self._cache, use_cache=True, **masks)
        self.hidden = states[torch.arange(len(ids), device=device), self._lengths - 1]
        self._rows = torch.arange(len(ids), device=device)  # prompts whose keys and values are still kept
        self._columns = self._lengths.new_empty(len(ids), 0)  # (M, T) where in its row each token of a beam is kept

    def read(self, beams: Beams, owner: Tensor) -> Tensor:
        """The hidden state (M, H) at the last token of each beam, which goes on from beam `owner` (M,) of before."""
        self._drop_all_but(torch.unique_consecutive(beams.row))
        row = torch.searchsorted(self._rows, beams.row)  # in the cache
        slot = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
        side_by_side, before = int(slot.max()) + 1, self._cache.get_seq_length()
        ids = row.new_zeros(len(self._rows), side_by_side)
        ids[row, slot] = beams.tokens[:, -1]
        columns = torch.cat([self._columns[owner], (before + slot)[:, None]], 1)
        options: dict[str, Any] = {}
        if self._spans is not None:
            self._spans = _longer(self._spans, side_by_side)
            options = mask_inputs(self._reader.kinds, self._spans, side_by_side)
        states = self._reader.states(
            ids,
            position_ids=(self._lengths + columns.shape[1] - 1)[:, None].expand(-1, side_by_side),
            attention_mask=self._seen(row, slot, columns, before, side_by_side),
            past_key_values=self._cache,
            use_cache=True,
            **options,
        )
        self._columns = columns
        return states[row, slot]

    def _seen(self, row: Tensor, slot: Tensor, columns: Tensor, before: int, side_by_side: int) -> Tensor:
        """(B, 1, K, P + S) bool: each beam sees its prompt and its own tokens; a slot without a beam itself."""
        places = torch.arange(before + side_by_side, device=row.device)
        seen = (places < self._lengths[:, None])[:, None].repeat(1, side_by_side, 1)
        seen |= places == before + torch.arange(side_by_side, device=row.device)[:, None]
        seen[row[:, None], slot[:, None], columns] = True
        return seen[:, None]

    def _drop_all_but(self, rows: Tensor) -> None:
        """Forget the prompts all of whose beams have ended, where that is worth it."""
        if 2 * len(rows) > len(self._rows):
            return
        kept = torch.searchsorted(self._rows, rows)
        self._cache.batch_select_indices(kept)
        self._rows, self._lengths = rows, self._lengths[kept]
        if self._spans is not None:
            self._spans = Spans(self._spans.item[kept], self._spans.last[kept])


def _ways(head: TitleHead, hidden: Tensor, going: Beams, guide: Guide) -> tuple[Tensor, Beams]:
    """Which beam (C,) goes on, and all ways to go on; logits exist for a few beams at a time."""
    together = max(1, LOGIT_BYTES[hidden.device.type] // (4 * len(head.keys)))
    owners, tokens, states, scores = [], [], [], []
    for start in range(0, len(hidden), together):
        logits = head.logits(hidden[start : start + together])  # (m, V)
        owner, token, state = guide.steps(going.state[start : start + together], logits)
        chosen = logits[owner, token]
        scores.append(chosen - _log_sums(logits)[owner])
        owners.append(owner + start)
        tokens.append(token)
        states.append(state)
    owner = torch.cat(owners)
    written = torch.cat([going.tokens[owner], torch.cat(tokens)[:, None]], 1)
    return owner, Beams(going.row[owner], going.score[owner] + torch.cat(scores), torch.cat(states), written)


def _log_sums(logits: Tensor) -> Tensor:
    """(M,) the logarithms of the sums of exp(logits (M, V)), which are written over: fresh memory is slow."""
    highest = logits.amax(1, keepdim=True)
    return logits.sub_(highest).exp_().sum(1).log() + highest[:, 0]


def _best_of_each(rows: Tensor, scores: Tensor, count: int) -> Tensor:
    """Places of the `count` highest scores of each row, row by row, the highest first."""
    order = scores.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    in_order = rows[order]
    position = torch.arange(len(order), device=order.device) - torch.searchsorted(in_order, in_order)
    return order[position < count]


def _joined(one: Beams, other: Beams) -> Beams:
    pairs = ((one.row, other.row), (one.score, other.score), (one.state, other.state), (one.tokens, other.tokens))
    return Beams(*(torch.cat(pair) for pair in pairs))


def _longer(spans: Spans, tokens: int) -> Spans:
    """Spans with so many tokens of no item after them."""
    added = (len(spans.item), tokens)
    item = torch.cat([spans.item, spans.item.new_full(added, -1)], 1)
    return Spans(item, torch.cat([spans.last, spans.last.new_zeros(added)], 1))
