"""From filled slots to token rows: tokenised in parallel, put together without a loop, shortened where too long.

N rows of a chunk   T tokens in all   S titles in them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError
from rectool.prompts.entries import different
from rectool.prompts.filling import Columns, Filling, Rows, Titles, written
from rectool.prompts.layout import Entries, Fixed, Text, fixed
from rectool.prompts.tokenizer import Encoded, Tokenizer
from rectool.prompts.tokens import Longs, TokenRows, bounds, side_by_side


def fitted(pieces: Fixed, tokenizer: Tokenizer, filling: Filling, rows: int, longest: int, *, spans: bool) -> TokenRows:
    """The prompts of N rows, none longer than `longest` tokens.

    Of those that are too long as little is left out as makes them fit: the least number of steps, found by bisection.

    Raises:
        RectoolError: a row is too long whatever is left out; names it.
    """
    whole = encoded(pieces, tokenizer, filling, rows, spans=spans)
    is_cut = filling.is_cut
    long = np.flatnonzero(whole.lengths > longest)
    if len(long):
        steps = least(pieces, tokenizer, filling, long, longest)
        short = encoded(pieces, tokenizer, filling.shorter(long, steps), len(long), spans=spans)
        order = np.arange(rows)
        order[long] = rows + np.arange(len(long))
        whole = TokenRows.joined([whole, short]).take(order)
        is_cut[long] = True
    return replace(whole, shortened=int(is_cut.sum()))


def encoded(pieces: Fixed, tokenizer: Tokenizer, filling: Columns, rows: int, *, spans: bool) -> TokenRows:
    """The prompts of N rows, however long."""
    found: list[tuple[NDArray[np.int32], Longs]] = []  # ids and lengths (N,) of each piece
    titles: list[tuple[Longs, NDArray[np.int32]]] = []  # rows (S,) and spans (S, 3)
    before = np.zeros(rows, np.int64)  # tokens of each row before the piece
    for piece in pieces:
        if isinstance(piece, Text):
            texts, inside = written(piece.parts, filling, rows)
            encoding = tokenizer.encode(texts, inside=piece.inside, offsets=spans and inside is not None)
            if spans and inside is not None:
                first, last = title_tokens(inside, encoding) + before[inside.row]
                titles.append((inside.row, np.column_stack([first, last, inside.item]).astype(np.int32)))
            found.append((encoding.ids, encoding.lengths))
        elif isinstance(piece, Entries):
            assert isinstance(filling, Rows)
            histories = _histories(piece, tokenizer, filling, spans=spans)
            if histories.spans is not None and histories.span_offsets is not None:
                row = np.repeat(np.arange(rows), np.diff(histories.span_offsets))
                titles.append((row, _moved(histories.spans, before[row])))
            found.append((histories.ids, histories.lengths))
        else:
            found.append((np.tile(piece, rows), np.full(rows, len(piece))))
        before = before + found[-1][1]
    ids, offsets = side_by_side(found, before)
    if not spans:
        return TokenRows(ids, offsets)
    row, all_spans = _in_order(titles)
    return TokenRows(ids, offsets, all_spans, bounds(np.bincount(row, minlength=rows)))


def least(
    pieces: Fixed, tokenizer: Tokenizer, filling: Filling, long: NDArray[np.intp], longest: int
) -> NDArray[np.int64]:
    """How many steps each of some rows must lose at least, so that it fits."""
    most = filling.most[long]
    low, high = np.zeros_like(most), most + 1  # too few; enough, or more than there are
    while len(undecided := np.flatnonzero(high - low > 1)):
        middle = (low[undecided] + high[undecided]) // 2
        shorter = filling.shorter(long[undecided], middle)
        lengths = encoded(pieces, tokenizer, shorter, len(undecided), spans=False).lengths
        fits = lengths <= longest
        high[undecided[fits]] = middle[fits]
        low[undecided[~fits]] = middle[~fits]
    hopeless = np.flatnonzero(high > most)
    if len(hopeless):
        place = long[hopeless[:1]]
        barest = filling.shorter(place, most[hopeless[:1]])
        tokens = encoded(pieces, tokenizer, barest, 1, spans=False).lengths[0]
        raise RectoolError(
            f"the prompt of {barest.names[0]} has {tokens} tokens even with nothing told of the user; at most "
            f"{longest} are allowed (--max-tokens)"
        )
    return high


def title_tokens(titles: Titles, encoding: Encoded) -> NDArray[np.int64]:
    """The tokens of each title, counted from the first of its text: those that cover a character of it.

    Returns:
        (2, S) first and last, `last` excluded. Of two titles in one token the earlier has it; a title without a token
        of its own has `first` equal to `last`.
    """
    assert encoding.first is not None
    assert encoding.last is not None
    offsets = bounds(encoding.lengths)
    width = int(max(encoding.last.max(initial=0), titles.last.max(initial=0))) + 1
    # All texts on one line, each as wide as the widest: places only rise, and one search finds them all.
    shift = np.repeat(np.arange(len(encoding.lengths)) * width, encoding.lengths)
    starts = np.maximum.accumulate(encoding.first + shift)
    ends = np.maximum.accumulate(encoding.last + shift)
    first = np.searchsorted(ends, titles.first + titles.row * width, side="right")
    last = np.searchsorted(starts, titles.last + titles.row * width, side="left")
    taken = np.maximum.accumulate(np.concatenate([[0], last[:-1]]))
    first = np.maximum(first, taken)
    last = np.maximum(first, last)
    return np.stack([first, last]) - offsets[titles.row]


def _histories(piece: Entries, tokenizer: Tokenizer, filling: Rows, *, spans: bool) -> TokenRows:
    """The entries of each row, one after the other."""
    several, places, starts = different(filling)
    each = encoded(fixed(piece.pieces, tokenizer), tokenizer, several, len(several.items), spans=spans)
    none = encoded([piece.empty], tokenizer, several, 1, spans=spans)
    entries = TokenRows.joined([each, none]).take(places)
    offsets = entries.offsets[starts]
    if entries.spans is None or entries.span_offsets is None:
        return TokenRows(entries.ids, offsets)
    before = entries.offsets[:-1] - np.repeat(offsets[:-1], np.diff(starts))  # tokens of the row before each entry
    moved = _moved(entries.spans, np.repeat(before, np.diff(entries.span_offsets)))
    return TokenRows(entries.ids, offsets, moved, entries.span_offsets[starts])


def _moved(spans: NDArray[np.int32], by: Longs) -> NDArray[np.int32]:
    """Spans (S, 3) so many tokens further on."""
    return np.column_stack([spans[:, :2] + by[:, None], spans[:, 2]]).astype(np.int32)


def _in_order(titles: Sequence[tuple[Longs, NDArray[np.int32]]]) -> tuple[Longs, NDArray[np.int32]]:
    """The row (S,) and the span (S, 3) of each title, by row and place."""
    if not titles:
        return np.empty(0, np.int64), np.empty((0, 3), np.int32)
    row = np.concatenate([rows for rows, _ in titles])
    spans = np.concatenate([spans for _, spans in titles])
    order = np.argsort(row, kind="stable")
    return row[order], spans[order]
