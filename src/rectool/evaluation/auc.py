"""AUC over all rows, of each user's rows, and averaged over users (UAUC): exact, with one sort.

Shapes: R rows, U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError

_CHUNK = 1 << 16  # rows worked on at a time outside the sort: a few arrays of them fit the cache
_ONE = 1 << 40  # a positive beside a number below 2**40
_LABEL = np.uint64(1)  # the lowest bit of a key; above it the score, above that the user


@dataclass(frozen=True)
class UserAUC:
    """The mean of the users' AUC.

    Attributes:
        value: mean over the users that count, NaN when there is none.
        users: how many users count: those with rows of both classes.
        skipped: how many users do not.
    """

    value: float
    users: int
    skipped: int


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order.

    AUC = (pairs with the positive's score higher + half the pairs with equal scores) / all pairs,
    which is the Mann-Whitney statistic (Hanley and McNeil 1982). The pairs are counted in integers,
    so that ties are exactly one half. -0.0 equals 0.0.

    Args:
        labels: (R,) of 0 and 1, any numeric or boolean dtype.
        scores: (R,) real numbers of any dtype and scale, infinities allowed, compared exactly.

    Returns:
        0 to 1; NaN where one class has no row.

    Raises:
        RectoolError: a score is NaN, a label neither 0 nor 1, or lengths differ.
    """
    values = user_auc(np.zeros(np.shape(labels), np.int8), labels, scores)[1]
    return float(values[0]) if len(values) else float("nan")


def uauc(users: NDArray[Any], labels: NDArray[Any], scores: NDArray[Any]) -> UserAUC:
    """UAUC: the AUC of each user's own rows, averaged over users, each user counting once.

    Users whose rows are all of one class have no AUC: they are left out and counted as skipped.
    This is the mean CoLLM and its successors report (Zhang et al. 2023); RecBole's GAUC weighs
    users by their positives and is another figure.

    Args and errors as in `user_auc`.
    """
    _, values = user_auc(users, labels, scores)
    counted = values[~np.isnan(values)]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return UserAUC(value=mean, users=len(counted), skipped=len(values) - len(counted))


def user_auc(
    users: NDArray[Any], labels: NDArray[Any], scores: NDArray[Any]
) -> tuple[NDArray[np.integer[Any]], NDArray[np.float64]]:
    """The AUC (see `auc`) of each user's own rows.

    One sort of 64-bit keys does it: user, score as an order-preserving integer, label. It holds 8
    bytes per row beyond the inputs. Where a score has more bits than the user leaves, as most
    float64 have, its lowest bits are left out of the key, and only users in whom a positive and a
    negative then have one key are looked at again.

    Args:
        users: (R,) integers, in any order and of any size; fewer than 2**31 different ones.
        labels: (R,) of 0 and 1, any numeric or boolean dtype.
        scores: (R,) real numbers of any dtype and scale, infinities allowed, compared exactly.

    Returns:
        The users in rising order (U,), and the AUC of each, NaN where it has one class only (U,).

    Raises:
        RectoolError: a score is NaN, a label neither 0 nor 1, users are no integers, or lengths
            differ.
    """
    users, labels, scores = np.asarray(users), np.asarray(labels), np.asarray(scores)
    check(users, labels, scores)
    if len(labels) == 0:
        return np.empty(0, np.int64), np.empty(0)
    return _measured(users, labels, scores)


def _measured(
    users: NDArray[Any], labels: NDArray[Any], scores: NDArray[Any]
) -> tuple[NDArray[np.integer[Any]], NDArray[np.float64]]:
    """`user_auc` of one row or more, checked."""
    low, high = int(users.min()), int(users.max())
    if high - low >= 2**31:
        different, codes = np.unique(users, return_inverse=True)
        return different, _measured(codes.astype(np.int32), labels, scores)[1]
    if scores.dtype.itemsize > 8:
        scores = _ranks(scores)
    if scores.dtype == np.float64 and _fits_float32(scores):
        scores = scores.astype(np.float32)

    user_bits = max(1, (high - low).bit_length())
    least, most = (int(_ordered(extreme)[0]) for extreme in (scores.min(keepdims=True), scores.max(keepdims=True)))
    score_bits = (most - least).bit_length()
    lost = max(0, score_bits + user_bits + 1 - 64)
    above = score_bits - lost + 1  # where the bits of the user begin

    lowest = np.uint64(low % 2**64)  # wraps for negative users, and so does the subtraction
    keys = np.empty(len(labels) + 1, dtype=np.uint64)  # a sentinel, then a key for each row
    for begin in range(0, len(labels), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        key = _shortened(scores[part], least, lost).astype(np.uint64, copy=False)
        key <<= np.uint64(1)
        key |= labels[part].astype(np.uint8)
        user = users[part].astype(np.uint64)
        if low:
            user -= lowest
        user <<= np.uint64(above)
        np.bitwise_or(key, user, out=keys[1:][part])
    keys[1:].sort()
    keys[0] = ~keys[1]  # differs in every bit, as another user's would
    values, starts, mixed = _counted(keys, np.uint64(1 << above))
    found = ((keys[1:][starts] >> np.uint64(above)) + lowest).astype(users.dtype)

    if lost and mixed:
        owners = np.unique(np.searchsorted(starts, np.concatenate(mixed), side="right") - 1)
        again = np.isin(users, found[owners])
        if _confused(scores[again], least, lost):
            values[owners] = _measured(users[again], labels[again], _ranks(scores[again]))[1]
    return found, values


def _shortened(scores: NDArray[Any], least: int, lost: int) -> NDArray[np.uint32] | NDArray[np.uint64]:
    score = _ordered(scores)
    score -= score.dtype.type(least)
    if lost:
        score >>= score.dtype.type(lost)
    return score


def _confused(scores: NDArray[Any], least: int, lost: int) -> bool:
    """Whether different scores are the same once shortened: if not, those that were the same are true ties."""
    score = _shortened(scores, least, 0)
    score.sort()
    change = score[1:] ^ score[:-1]
    return bool(np.any((change > 0) & (change >> score.dtype.type(lost) == 0)))


def _counted(
    keys: NDArray[np.uint64], user: np.uint64
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[NDArray[np.int64]]]:
    """One walk over the sorted keys (behind their sentinel), chunk by chunk.

    Within a user the k-th positive, at place p from the user's start, stands behind p - k negatives.
    Of equal scores the negatives come first, so that each tied pair was won: half of it is taken back.

    Args:
        user: the lowest bit of the user; keys of different users differ in this bit or above.

    Returns:
        values: each user's AUC (U,), NaN for one class only.
        starts: each user's first place in the order (U,).
        mixed: where a run of equal scores of one user passes from label 0 to 1: the place of the
            first positive, in parts (M,).
    """
    rows = len(keys) - 1
    ordered = keys[1:]
    worth = 2 * np.arange(min(rows, _CHUNK)) + _ONE  # of a positive: itself, and twice its place in the chunk
    starts, begins, sums, mixed = [], [], [], []
    for begin in range(0, rows, _CHUNK):
        key = ordered[begin : begin + _CHUNK]
        change = key ^ keys[begin : begin + len(key)]  # against the key before
        segments = np.flatnonzero(change >= user)
        new = np.ones(len(segments), dtype=np.bool_)
        if change[0] < user:  # the user of the chunk before goes on
            segments, new = np.append(0, segments), np.append(False, new)
        value = (key & _LABEL).view(np.int64)
        value *= worth[: len(key)]
        passes = change == _LABEL
        if passes.any():
            runs = np.flatnonzero(change != 0)  # of equal keys: before a passing one stand its negatives
            lengths = np.diff(runs, prepend=0, append=len(key))
            tied = lengths[:-1] * lengths[1:]
            at = np.flatnonzero(passes.take(runs))
            first = runs.take(at)
            value[first] -= tied.take(at)
            mixed.append(first + begin)
        starts.append(segments + begin)
        begins.append(new)
        sums.append(np.add.reduceat(value, segments))
    whole = np.flatnonzero(np.concatenate(begins))  # the segments that begin a user
    start = np.concatenate(starts)
    both = np.concatenate(sums)
    positive = both >> 40
    twice = (both & (_ONE - 1)) + 2 * (start // _CHUNK * _CHUNK) * positive
    start = start[whole]
    positive = np.add.reduceat(positive, whole)
    won = np.add.reduceat(twice, whole) - 2 * start * positive - positive * (positive - 1)
    owners, halves = _tied_across_chunks(ordered, start)
    np.subtract.at(won, owners, halves)
    pairs = (2 * positive * (np.diff(start, append=rows) - positive)).astype(np.float64)
    pairs[pairs == 0] = np.nan
    return won / pairs, start, mixed


def _tied_across_chunks(
    ordered: NDArray[np.uint64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tied pairs of runs that lie in several chunks, less those that the chunk of their first positive saw.

    Returns:
        The user of each such run, and its pairs.
    """
    bounds = np.arange(_CHUNK, len(ordered), _CHUNK)
    positive = np.unique(ordered[bounds[ordered[bounds] ^ ordered[bounds - 1] <= _LABEL]] | _LABEL)
    begin = np.searchsorted(ordered, positive - _LABEL, side="left")
    first = np.searchsorted(ordered, positive, side="left")
    end = np.searchsorted(ordered, positive, side="right")
    chunk = first // _CHUNK * _CHUNK
    seen = (first - np.maximum(begin, chunk)) * (np.minimum(end, chunk + _CHUNK) - first)
    owners = np.searchsorted(starts, first, side="right") - 1
    return owners, np.asarray((first - begin) * (end - first) - seen, dtype=np.int64)


def _ordered(scores: NDArray[Any]) -> NDArray[np.uint32] | NDArray[np.uint64]:
    """Unsigned integers in the order of the scores, of 32 bits for floats of up to 32, else of 64.

    The bits of a positive float rise with it; those of a negative one fall, so all of them are flipped.
    """
    if scores.dtype.kind in "bu":
        return scores.astype(np.uint64)
    if scores.dtype.kind == "i":
        return scores.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    if scores.dtype.itemsize <= 4:
        single = scores.astype(np.float32)
        single += np.float32(0)  # -0.0 becomes 0.0
        return single.view(np.uint32) ^ ((single.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31))
    double = scores.astype(np.float64)
    double += 0.0
    return double.view(np.uint64) ^ ((double.view(np.int64) >> 63).view(np.uint64) | np.uint64(1 << 63))


def _fits_float32(scores: NDArray[np.float64]) -> bool:
    with np.errstate(over="ignore"):
        return all(
            np.array_equal(scores[begin : begin + _CHUNK], scores[begin : begin + _CHUNK].astype(np.float32))
            for begin in range(0, len(scores), _CHUNK)
        )


def _ranks(values: NDArray[Any]) -> NDArray[np.int64]:
    """The place of each value among the different values (R,)."""
    return np.asarray(np.unique(values, return_inverse=True)[1])


def check(users: NDArray[Any], labels: NDArray[Any], scores: NDArray[Any]) -> None:
    """Raises RectoolError as in `user_auc`."""
    if labels.ndim != 1 or scores.shape != labels.shape:
        raise RectoolError(f"labels and scores must be two lists of one length, not {labels.shape} and {scores.shape}")
    if users.shape != labels.shape:
        raise RectoolError(f"users must be as many as labels, not {users.shape} for {labels.shape}")
    if len(users) and users.dtype.kind not in "iu":
        raise RectoolError(f"users must be integers, not {users.dtype}")
    for name, values in (("labels", labels), ("scores", scores)):
        if values.dtype.kind not in "biuf":
            raise RectoolError(f"{name} must be numbers, not {values.dtype}")
    if len(scores) and scores.dtype.kind == "f" and np.isnan(scores.min()):
        raise RectoolError(f"the score of row {np.isnan(scores).argmax()} (the first is row 0) is NaN")
    if labels.dtype.kind == "f" or (len(labels) and (labels.min() < 0 or labels.max() > 1)):
        known = (labels == 0) | (labels == 1)
        if not np.all(known):
            row = int(np.argmin(known))
            raise RectoolError(f"the label of row {row} (the first is row 0) is {labels[row]}, not 0 or 1")
