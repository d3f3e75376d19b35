"""Histories as slices of one array: for any row of the log, what the same user liked before it.

A history is never stored. The items of all counting rows lie in one array in log order, so that the
history of a row is a slice of it, and a batch of histories is one vectorised gather. Shapes:

    R rows of the log   U users   T items in all   N target rows   L longest history
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

_CHUNK = 1 << 16  # items gathered at a time: their positions and flags stay in the second-level cache


@dataclass(frozen=True)
class HistoryRule:
    """Which history a model or a prompt reads.

    Attributes:
        liked_only: earlier items with label 1 only, or all earlier items.
        length: the most recent this many.
    """

    liked_only: bool
    length: int


class Histories:
    """For any target rows, the earlier (liked) items of the same user, most recent `length`.

    Earlier means before in the log, whose order is (user, timestamp, original row): rows of one user
    with the same timestamp stand in the order of the raw file, and the first of them is part of the
    history of the second. A row is never part of its own history, whatever its label.

    Args:
        user: (R,) int32, the user of each row of the log, sorted, not negative. Gaps are allowed (a
            log without some users' rows), at 4 bytes per absent user.
        item: (R,) int32, the item of each row.
        counts: (R,) bool, the rows that enter histories, such as those with label 1; None means all.

    Building takes O(R). Memory beyond the inputs, which are referred to and not copied, is 4 bytes
    per user, and with `counts` 4 more per row and 4 per counting row: at most 12 per row (twice the
    pointers from 2**31 rows on).

    Raises:
        ValueError: wrong shapes or dtypes, users that are not sorted or negative.
    """

    def __init__(self, user: Ints, item: Ints, counts: NDArray[np.bool_] | None = None) -> None:
        _check("user", user, np.int32, (user.size,))
        _check("item", item, np.int32, user.shape)
        changes = np.flatnonzero(user[1:] != user[:-1]) + 1  # (U - 1,)
        falls = changes[user[changes] < user[changes - 1]]
        if len(falls):
            raise ValueError(f"user is not sorted: row {falls[0]} has a smaller user than the row before it")
        if len(user) and user[0] < 0:
            raise ValueError(f"user must not be negative, but row 0 has user {user[0]}")

        self.rows = len(user)
        self._user = user
        pointer: type[np.integer[Any]] = np.int32 if self.rows < 2**31 else np.int64
        self._before: NDArray[np.integer[Any]] | None = None  # (R + 1,) counting rows before each row
        if counts is None:
            self.items = item  # (T,)
        else:
            _check("counts", counts, np.bool_, user.shape)
            self.items = item[counts]
            self._before = np.zeros(self.rows + 1, dtype=pointer)
            np.cumsum(counts, dtype=pointer, out=self._before[1:])
        starts = np.concatenate([np.zeros(min(1, self.rows), dtype=np.int64), changes])  # (U,)
        self._first = np.zeros(int(user[-1]) + 1 if self.rows else 0, dtype=pointer)  # into items
        self._first[user[starts]] = starts if self._before is None else self._before[starts]

    def slices(self, rows: NDArray[Any], length: int | None = None) -> tuple[Longs, Longs]:
        """Where each target row's history lies: `items[start:stop]`, oldest first.

        Args:
            rows: (N,) integers, rows of the log in any order, repeats allowed.
            length: keep the most recent this many; None keeps all.

        Returns:
            start, stop: (N,) int64, positions in `items`.

        Raises:
            ValueError: rows outside the log, negative length.
        """
        _refuse_negative(length)
        return self._pointers(self._checked(rows), length)

    def ragged(self, rows: NDArray[Any], length: int | None = None) -> tuple[Ints, Longs]:
        """The histories one after the other, oldest item first.

        Args and errors as in `slices`.

        Returns:
            items: (T,) int32; offsets: (N + 1,) int64: row n has `items[offsets[n]:offsets[n + 1]]`.
        """
        start, stop = self.slices(rows, length)
        offsets = np.zeros(len(start) + 1, dtype=np.int64)
        np.cumsum(stop - start, out=offsets[1:])
        shift = start - offsets[:-1]  # from a place in the output to its place in items
        output = np.empty(int(offsets[-1]), dtype=np.int32)
        begin = 0
        while begin < len(start):
            # As many rows as fill a chunk, and one at least.
            end = int(np.searchsorted(offsets, offsets[begin] + _CHUNK, side="right")) - 1
            end = max(end, begin + 1)
            first, last = offsets[begin], offsets[end]
            places = np.arange(first, last)
            places += np.repeat(shift[begin:end], np.diff(offsets[begin : end + 1]))
            np.take(self.items, places, out=output[first:last], mode="clip")
            begin = end
        return output, offsets

    def padded(
        self,
        rows: NDArray[Any],
        length: int,
        padding: int = -1,
        side: Literal["left", "right"] = "left",
    ) -> Ints:
        """The most recent `length` items of each history, oldest first, as one array.

        Args:
            rows: (N,) integers, rows of the log in any order, repeats allowed.
            length: L, the width.
            padding: what stands where there is no item.
            side: where the padding stands, before the items or after them.

        Returns:
            (N, L) int32.

        Raises:
            ValueError: rows outside the log, negative length, unknown side, padding beyond int32.
        """
        _refuse_negative(length)
        rows = self._checked(rows)
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right', not {side!r}")
        if not -(2**31) <= padding < 2**31:
            raise ValueError(f"padding must fit into int32, but is {padding}")
        output = np.empty((len(rows), length), dtype=np.int32)
        if length == 0 or len(self.items) == 0:
            output.fill(padding)
            return output

        columns = np.arange(length)  # (L,)
        # Every run of L neighbours in items as a row: a view, not a copy.
        windows = sliding_window_view(self.items, length) if length <= len(self.items) else None  # (W, L)
        needed = (columns[::-1] + 1 if side == "left" else columns + 1).astype(np.int32)  # items to fill (L,)
        step = max(1, _CHUNK // length)
        for begin in range(0, len(rows), step):
            start, stop = self._pointers(rows[begin : begin + step], length)  # (n,)
            place = stop - length if side == "left" else start
            chunk = output[begin : begin + step]  # (n, L)
            if windows is not None and place.min() >= 0 and place.max() < len(windows):
                chunk[:] = windows[place]
            else:  # at the ends of items, where a window would reach beyond them
                np.take(self.items, place[:, None] + columns, out=chunk, mode="clip")
            np.copyto(chunk, np.int32(padding), where=(stop - start).astype(np.int32)[:, None] < needed)
        return output

    def _checked(self, rows: NDArray[Any]) -> NDArray[np.integer[Any]]:
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and len(rows)):
            raise ValueError(f"rows must be integers (N,), not {rows.dtype} {rows.shape}")
        if len(rows) == 0:
            return rows.astype(np.int64)
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= self.rows:
            wrong = low if low < 0 else high
            raise ValueError(f"row {wrong} is not in the log, which has the rows 0 to {self.rows - 1}")
        return rows

    def _pointers(self, rows: NDArray[np.integer[Any]], length: int | None) -> tuple[Longs, Longs]:
        before = rows if self._before is None else self._before[rows]
        stop = before.astype(np.int64)
        start = self._first[self._user[rows]].astype(np.int64)
        if length is not None:
            np.maximum(start, stop - length, out=start)
        return start, stop


def _check(name: str, array: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        wanted = f"{np.dtype(dtype).name} {shape}"
        raise ValueError(f"{name} must be {wanted}, not {array.dtype} {array.shape}")


def _refuse_negative(length: int | None) -> None:
    if length is not None and length < 0:
        raise ValueError(f"length must not be negative, but is {length}")
