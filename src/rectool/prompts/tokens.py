"""Token rows: prompts of any length one after the other, without padding.

Shapes: T tokens in all   N rows   B rows of a batch   L tokens of its longest   S item spans
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOFT_IDS = {"user": -1, "item": -2, "warm": -3, "history": -4}
"""What stands in `ids` where an embedding goes in, by what it is of; "history" is the item of a history's entry."""

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class TokenRows:
    """Ragged rows of token ids.

    Attributes:
        ids: (T,) int32; below 0 where an embedding goes in, see `SOFT_IDS`.
        offsets: (N + 1,) int64: row n has `ids[offsets[n]:offsets[n + 1]]`.
        spans: (S, 3) int32, in the order of the rows and of the prompt: first token, token after the last,
            and item; tokens count from the row's first. None if they were not asked for.
        span_offsets: (N + 1,) int64: row n has `spans[span_offsets[n]:span_offsets[n + 1]]`.
        shortened: how many rows were too long: their oldest titles were left out, or a title or a
            description was cut.
    """

    ids: NDArray[np.int32]
    offsets: Longs
    spans: NDArray[np.int32] | None = None
    span_offsets: Longs | None = None
    shortened: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Longs:
        """(N,) tokens of each row."""
        return np.diff(self.offsets)

    def padded(self, places: NDArray[Any]) -> tuple[Longs, Longs]:
        """Rows as one array, filled up with 0 on the right.

        Args:
            places: (B,) integers, rows in any order.

        Returns:
            ids (B, L) int64; lengths (B,) int64.
        """
        lengths = self.lengths[places]
        output = np.zeros((len(lengths), int(lengths.max(initial=0))), np.int64)
        output[np.arange(output.shape[1]) < lengths[:, None]] = self.ids[_places(self.offsets, places)]
        return output, lengths

    def take(self, places: NDArray[Any]) -> TokenRows:
        """Some rows, in the order of `places`, repeats allowed. How many of them are short is not known: 0 is said."""
        spans = span_offsets = None
        if self.spans is not None and self.span_offsets is not None:
            spans = self.spans[_places(self.span_offsets, places)]
            span_offsets = bounds(np.diff(self.span_offsets)[places])
        return TokenRows(self.ids[_places(self.offsets, places)], bounds(self.lengths[places]), spans, span_offsets)

    def followed_by(self, others: TokenRows) -> TokenRows:
        """Each row with the row of `others` of the same number after it; spans are those of the former."""
        pieces = [(self.ids, self.lengths), (others.ids, others.lengths)]
        ids, offsets = side_by_side(pieces, self.lengths + others.lengths)
        return TokenRows(ids, offsets, self.spans, self.span_offsets, self.shortened)

    @staticmethod
    def joined(several: Sequence[TokenRows]) -> TokenRows:
        """The rows of several, one after the other; all of them have spans, or none has."""
        if not several:
            return TokenRows(np.empty(0, np.int32), np.zeros(1, np.int64))
        spans = span_offsets = None
        if all(rows.spans is not None for rows in several):
            spans = np.concatenate([rows.spans for rows in several if rows.spans is not None])
            counts = [np.diff(rows.span_offsets) for rows in several if rows.span_offsets is not None]
            span_offsets = bounds(np.concatenate(counts))
        return TokenRows(
            np.concatenate([rows.ids for rows in several]),
            bounds(np.concatenate([rows.lengths for rows in several])),
            spans,
            span_offsets,
            sum(rows.shortened for rows in several),
        )


def bounds(lengths: NDArray[Any]) -> Longs:
    """(N + 1,) where each of N neighbours of these lengths begins, and where the last ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def within(lengths: NDArray[Any]) -> Longs:
    """0, 1, 2, ... for each of N neighbours, one after the other."""
    offsets = bounds(lengths)
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)


def side_by_side(pieces: Sequence[tuple[NDArray[np.int32], Longs]], lengths: Longs) -> tuple[NDArray[np.int32], Longs]:
    """Ragged pieces as one ragged array: of each row, all its pieces.

    Args:
        pieces: values, and how many each row (N,) has of them.
        lengths: (N,) the sums of these.
    """
    offsets = bounds(lengths)
    output = np.empty(int(offsets[-1]), np.int32)
    start = offsets[:-1]
    for values, counts in pieces:
        output[np.repeat(start, counts) + within(counts)] = values
        start = start + counts
    return output, offsets


def _places(offsets: Longs, places: NDArray[Any]) -> Longs:
    """Where the elements of some rows stand, row after row."""
    lengths = offsets[1:][places] - offsets[:-1][places]
    return np.repeat(offsets[:-1][places], lengths) + within(lengths)
