"""Titles encoded once for all histories, where a plan of masks isolates items in its bottom layers.

There an item's tokens see their own item alone, and all other tokens no item. With rotary positions, which tell only
how far tokens are apart, the states of an item's tokens after these layers are those of the title by itself: they are
found once for all rows that have it. The tokens of no item are run without the titles between them, and what all rows
begin with is run once through all layers. Where the plan ends in `cr-last` layers, tokens are dropped there; see
`compress`.

Shapes: N rows   B rows of a batch   P tokens that all rows begin with   R tokens of the longest rest
   F of these of no item   K in some layer   T titles   S their tokens   H hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from rectool.errors import RectoolError
from rectool.llm import compress, prefix
from rectool.llm.body import causal_of, context_of, on
from rectool.llm.layers import Change, Chosen, changing
from rectool.llm.mask_plan import MaskKind
from rectool.llm.masks import Spans, allowed, spans_of
from rectool.llm.prefix import Prefixes
from rectool.llm.reading import Budget, Encoded, Longs, Reader, in_batches
from rectool.prompts.tokens import TokenRows, bounds, within

HELD_BYTES = 1 << 30
"""What the states of titles may take; with more of them rows are encoded piece by piece, and titles once in each."""


def isolated_until(layers: Sequence[MaskKind]) -> int:
    """How many layers at the bottom are `isolate`."""
    return next((number for number, kind in enumerate(layers) if kind != "isolate"), len(layers))


def refuse_absolute(model: nn.Module) -> None:
    """Raises RectoolError where a title's states depend on where it stands, so that they cannot be shared."""
    if not _is_relative(Reader(model), 64):
        kind = causal_of(model).config.model_type
        raise RectoolError(
            f"--isolate-items: {kind} models number their positions, so that a title is another one in each place; "
            "leave it out, or take a model with rotary positions, such as Llama or Qwen"
        )


def can(reader: Reader, tokens: TokenRows) -> bool:
    """Whether `encoded` can run these rows; of the model this is found by trying.

    Not where the plan isolates no items at the bottom, or isolates them everywhere; nor where positions are absolute,
    windows of attention shorter than twice the longest row, or states below the top are read, or a row ends in a title.
    """
    first, longest = isolated_until(reader.kinds), int(tokens.lengths.max(initial=0))
    if not 0 < first < reader.depth or reader.layer not in (None, reader.depth):
        return False
    if tokens.spans is None or tokens.span_offsets is None or not len(tokens.spans):
        return False
    if (tokens.spans[:, 1] == np.repeat(tokens.lengths, np.diff(tokens.span_offsets))).any():
        return False
    plain = Reader(reader.model, soft=reader.soft)
    return _is_relative(plain, longest) and prefix.can_share(plain, longest, _device(plain))


def encoded(reader: Reader, tokens: TokenRows, room: Budget) -> Iterator[Encoded]:
    """The hidden state at the last token of each row, as `Reader.last_hidden` finds it by the same masks.

    Args:
        reader: for which `can` has been asked.
        tokens: with spans, none of them empty.
    """
    first = isolated_until(reader.kinds)
    only_last = compress.dropped_from(reader.kinds) == first
    most = HELD_BYTES // (reader.dtype.itemsize * reader.config.get_text_config(decoder=True).hidden_size)
    for rows, titles in _pieces(tokens, np.arange(len(tokens)), most, only_last):
        part = titles.named(tokens.take(rows))
        common = _common(part)
        work = _Batches(reader, part, titles, _held(reader, titles, room), _encode_common(reader, part, common, room))
        for places, states in in_batches(np.arange(len(part)), part.lengths - common, work.last_hidden, room):
            yield rows[places], states
        del work  # before there are others


@dataclass(frozen=True)
class _Titles:
    """The different token sequences of items.

    Attributes:
        tokens: (T,) of them.
        which: of each span of some rows, in their order.
        only_last: whether the state of the last token is all that is wanted of each.
    """

    tokens: TokenRows
    which: Longs
    only_last: bool

    @staticmethod
    def of(tokens: TokenRows, only_last: bool) -> _Titles:
        assert tokens.spans is not None
        assert tokens.span_offsets is not None
        rows = np.repeat(tokens.offsets[:-1], np.diff(tokens.span_offsets))
        starts, stops = rows + tokens.spans[:, 0], rows + tokens.spans[:, 1]
        numbers: dict[bytes, int] = {}
        pairs = zip(starts.tolist(), stops.tolist(), strict=True)
        which = [numbers.setdefault(tokens.ids[start:stop].tobytes(), len(numbers)) for start, stop in pairs]
        ids = np.frombuffer(b"".join(numbers), np.int32)
        lengths = np.array([len(title) // ids.itemsize for title in numbers], np.int64)
        return _Titles(TokenRows(ids, bounds(lengths)), np.array(which, np.int64), only_last)

    @property
    def states(self) -> int:
        """How many states are held of them."""
        return len(self.tokens) if self.only_last else len(self.tokens.ids)

    def named(self, tokens: TokenRows) -> TokenRows:
        """The rows with the number of the title as the item of each span."""
        assert tokens.spans is not None
        return replace(tokens, spans=np.column_stack([tokens.spans[:, :2], self.which]).astype(np.int32))

    def held_at(self, title: Longs, place: Longs) -> Longs:
        """Which of the states that are held is that of a token in a title."""
        return title if self.only_last else self.tokens.offsets[title] + place


def _pieces(tokens: TokenRows, rows: Longs, most: int, only_last: bool) -> Iterator[tuple[Longs, _Titles]]:
    """Rows (N,) in pieces whose titles have no more states than `most`, or in single rows."""
    titles = _Titles.of(tokens.take(rows), only_last)
    if titles.states <= most or len(rows) <= 1:
        yield rows, titles
        return
    for half in np.array_split(rows, 2):
        yield from _pieces(tokens, half, most, only_last)


def _held(reader: Reader, titles: _Titles, room: Budget) -> Tensor:
    """The states (S, H) of titles after the layers that isolate them, or (T, H) of their last tokens; at least one."""
    below = Reader(reader.model, isolated_until(reader.kinds), reader.soft)
    tokens = titles.tokens
    hidden_size = reader.config.get_text_config(decoder=True).hidden_size
    held = torch.zeros(max(titles.states, 1), hidden_size, dtype=reader.dtype, device=room.device)

    def states(places: Longs) -> Tensor:
        (ids,) = on(room.device, tokens.padded(places)[0])
        return below.states(ids, use_cache=False)

    for places, found in in_batches(np.arange(len(tokens)), tokens.lengths, states, room):
        lengths = tokens.lengths[places]
        row = np.arange(len(places))
        row, place = (row, lengths - 1) if titles.only_last else (np.repeat(row, lengths), within(lengths))
        into, taken, at = on(room.device, titles.held_at(places[row], place), row, place)
        held[into] = found[taken, at]
    return held


def _common(tokens: TokenRows) -> int:
    """How many tokens all rows begin with, none of an item and none the last of its row."""
    assert tokens.spans is not None
    assert tokens.span_offsets is not None
    some = tokens.span_offsets[:-1][np.diff(tokens.span_offsets) > 0]
    most = int(min(tokens.lengths.min() - 1, tokens.spans[some, 0].min(initial=tokens.lengths.max())))
    beginnings = tokens.ids[tokens.offsets[:-1, None] + np.arange(most)]
    return int(np.logical_and.accumulate((beginnings == beginnings[:1]).all(0)).sum())


def _encode_common(reader: Reader, tokens: TokenRows, common: int, room: Budget) -> Prefixes | None:
    if not common:
        return None
    return Prefixes.encode(reader, tokens, np.zeros(1, np.int64), np.array([common]), room.device)


@dataclass(frozen=True)
class _Batches:
    """Encodes batches of rows, given the states of titles and what all rows begin with.

    Attributes:
        tokens: (N,) rows whose spans have the numbers of titles as their items.
        held: see `_held`.
        common: what they begin with, encoded; None where they begin differently.
    """

    reader: Reader
    tokens: TokenRows
    titles: _Titles
    held: Tensor
    common: Prefixes | None

    @property
    def before(self) -> int:
        """P"""
        return 0 if self.common is None else int(self.common.lengths[0])

    def last_hidden(self, rows: Longs) -> Tensor:
        """The hidden state (B, H) at the last token of rows (B,)."""
        reader, device, before = self.reader, self.held.device, self.before
        ids, lengths = on(device, *self.tokens.padded(rows))
        spans = spans_of(self.tokens, rows, ids.shape[1], device)
        rest, last = ids[:, before:], lengths - before - 1  # (B, R), (B,)
        real = torch.arange(rest.shape[1], device=device) <= last[:, None]
        free = Chosen.of((spans.item[:, before:] < 0) & real)
        deepest, changes = self._changes(rows, spans, real, free)
        with changing(reader.model, changes):
            states = reader.states(
                rest.gather(1, free.places),
                position_ids=before + free.places,
                attention_mask=self._causal(free),
                past_key_values=self.common and self.common.cache(torch.zeros_like(lengths)),
                use_cache=self.common is not None,
            )  # (B, K, H)
        row = torch.arange(len(rows), device=device)
        return states[row, deepest.stands[row, last]]

    def _changes(self, rows: Longs, spans: Spans, real: Tensor, free: Chosen) -> tuple[Chosen, list[Change]]:
        """From the layer on that sees titles all tokens (B, R), from the deep layers on those that these keep."""
        kinds = self.reader.kinds
        first, deep = isolated_until(kinds), compress.dropped_from(kinds)
        every = Chosen.of(torch.ones_like(real))
        kept = Chosen.of(compress.kept(spans)[:, self.before :] & real)
        held = self._held_at(rows, real.shape[1])
        masks = {kind: allowed(kind, spans, real.shape[1]) for kind in set(kinds[first:deep])}
        top = self._causal(kept)
        middle = self._change(first, every, lambda layer: masks[kinds[layer]], partial(self._put, free, every, held))
        put = partial(self._put, free, kept, held) if first == deep else kept.of_states
        if deep == len(kinds):
            return every, [middle]
        return kept, [*([middle] if first < deep else []), self._change(deep, kept, lambda layer: top, put)]

    def _change(
        self, layer: int, chosen: Chosen, mask: Callable[[int], Tensor], states: Callable[[Tensor], Tensor]
    ) -> Change:
        rotary = self.reader.body.rotary_emb(self.held, self.before + chosen.places)
        return Change(layer, states, rotary=lambda _: rotary, mask=lambda layer, _: mask(layer))

    def _put(self, free: Chosen, chosen: Chosen, held: Tensor, states: Tensor) -> Tensor:
        """(B, K, H) of the tokens of no item (B, F, H) and those of titles, as far as they are chosen."""
        at = held.gather(1, chosen.places)
        found = free.back(states).gather(1, chosen.places[..., None].expand(-1, -1, states.shape[2]))
        return torch.where((at >= 0)[..., None], self.held[at.clamp(min=0)], found)

    def _held_at(self, rows: Longs, width: int) -> Tensor:
        """(B, R) which of the states that are held is that of a token; -1 of none."""
        batch = self.tokens.take(rows)
        assert batch.spans is not None
        assert batch.span_offsets is not None
        start, stop, title = batch.spans.astype(np.int64).T
        row, lengths = np.repeat(np.arange(len(rows)), np.diff(batch.span_offsets)), stop - start
        place = within(lengths)
        at = np.full((len(rows), width), -1, np.int64)
        at[np.repeat(row, lengths), np.repeat(start - self.before, lengths) + place] = self.titles.held_at(
            np.repeat(title, lengths), place
        )
        return on(self.held.device, at)[0]

    def _causal(self, chosen: Chosen) -> Tensor:
        """(1, 1, K, P + K)"""
        size = chosen.places.shape[1]
        ones = torch.ones(size, self.before + size, dtype=torch.bool, device=self.held.device)
        return ones.tril(self.before)[None, None]


def _is_relative(reader: Reader, longest: int) -> bool:
    """Whether states are the same wherever a row begins; found by trying a short one at two places."""
    length = min(8, longest, context_of(reader.config))
    shift = min(max(longest, 16), context_of(reader.config)) - length
    device = _device(reader)
    places = torch.arange(length, device=device)[None]
    ids = 1 + places
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    if not hasattr(reader.body, "rotary_emb") or shift <= 0:
        return False
    here, there = (
        reader.states(ids, position_ids=places + start, attention_mask=mask, use_cache=False) for start in (0, shift)
    )
    return float((here - there).abs().max()) <= 0.01 * float((here - here.roll(1, 1)).abs().max())


def _device(reader: Reader) -> torch.device:
    return next(reader.model.parameters()).device
