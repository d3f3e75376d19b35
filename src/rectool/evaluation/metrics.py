"""Metrics: numpy in, numbers out.

Shapes: R rows, U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.errors import RectoolError

_CHUNK = 1 << 15  # rows worked on at a time outside the sort: a few arrays of them fit the cache
_LABEL = np.uint64(1)  # the lowest bit of a key; above it 32 bits of score, above those the user
_USER = np.uint64(1 << 33)  # keys of different users differ in this bit or above


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
    values = _auc_per_user(None, labels, scores)
    return float(values[0]) if len(values) else float("nan")


def uauc(users: NDArray[Any], labels: NDArray[Any], scores: NDArray[Any]) -> UserAUC:
    """UAUC: the AUC of each user's own rows, averaged over users, each user counting once.

    Users whose rows are all of one class have no AUC: they are left out and counted as skipped.
    This is the mean CoLLM and its successors report (Zhang et al. 2023); RecBole's GAUC weighs
    users by their positives and is another figure.

    One sort of 64-bit keys does it: user, score as an order-preserving integer, label. It holds 8
    bytes per row beyond the inputs. Scores that float32 cannot hold exactly (most float64) are
    replaced by their ranks first, which costs a second, slower sort.

    Args:
        users: (R,) integers, in any order and of any size; fewer than 2**31 different ones.
        labels: (R,) of 0 and 1, any numeric or boolean dtype.
        scores: (R,) real numbers of any dtype and scale, infinities allowed, compared exactly.

    Raises:
        RectoolError: a score is NaN, a label neither 0 nor 1, users are no integers, or lengths
            differ.
    """
    values = _auc_per_user(np.asarray(users), labels, scores)  # (U,)
    counted = values[~np.isnan(values)]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return UserAUC(value=mean, users=len(counted), skipped=len(values) - len(counted))


def _auc_per_user(users: NDArray[Any] | None, labels: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64]:
    """Each user's AUC, users in rising order, NaN for one class only (U,); None is one user of all rows."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    _check(users, labels, scores)
    rows = len(labels)
    if rows == 0:
        return np.empty(0)
    keys = _packed(users, labels, scores)  # (R + 1,), sorted but for the sentinel in front
    starts, positives, places, mixed = _counted(keys)  # (U,) (U,) (U,) (M,)
    negatives = np.diff(starts, append=rows) - positives

    # Within a user the k-th positive, at place p from the user's start, stands behind p - k negatives.
    # Of equal scores the negatives come first, so that each tied pair was won: take back half of it.
    twice_won = 2 * (places - starts * positives) - positives * (positives - 1)
    sorted_keys = keys[1:]
    tied_negatives = mixed - np.searchsorted(sorted_keys, sorted_keys[mixed - 1], side="left")
    tied_positives = np.searchsorted(sorted_keys, sorted_keys[mixed], side="right") - mixed
    owners = np.searchsorted(starts, mixed, side="right") - 1
    np.subtract.at(twice_won, owners, tied_negatives * tied_positives)

    pairs = (2 * positives * negatives).astype(np.float64)
    pairs[pairs == 0] = np.nan
    return np.asarray(twice_won / pairs)


def _packed(users: NDArray[Any] | None, labels: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.uint64]:
    """Keys of 31 bits user, 32 bits score, 1 bit label, sorted, behind a sentinel (R + 1,).

    The sentinel differs from the first key in every bit, as another user's would.
    """
    rows = len(labels)
    ranks = None if _fits_float32(scores) else _ranks(scores)
    lowest = np.uint64(0)
    if users is not None:
        low, high = int(users.min()), int(users.max())
        if high - low < 2**31:
            lowest = np.uint64(low % 2**64)  # wraps for negative ids, and so does the subtraction
        else:
            users = _ranks(users)

    keys = np.empty(rows + 1, dtype=np.uint64)
    for begin in range(0, rows, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        key = keys[1:][part]
        key.fill(0)
        if users is not None:
            np.subtract(users[part].astype(np.uint64), lowest, out=key)
        key <<= np.uint64(32)
        key |= _ordered(scores[part]) if ranks is None else ranks[part]
        key <<= np.uint64(1)
        key |= labels[part].astype(np.uint8)
    keys[1:].sort()
    keys[0] = ~keys[1]
    return keys


def _counted(
    keys: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """One walk over the sorted keys (behind their sentinel), chunk by chunk.

    Returns:
        starts: each user's first place in the order (U,).
        positives: how many of the user's rows are positive (U,).
        places: the sum of their places (U,).
        mixed: where a run of equal scores of one user passes from label 0 to 1: the place of the
            first positive (M,).
    """
    rows = len(keys) - 1
    within = np.arange(min(rows, _CHUNK))
    starts, begins, positives, places, mixed = [], [], [], [], []
    for begin in range(0, rows, _CHUNK):
        key = keys[1:][begin : begin + _CHUNK]
        change = key ^ keys[begin : begin + len(key)]  # against the key before
        segments = np.flatnonzero(change >= _USER)
        new = np.ones(len(segments), dtype=np.bool_)
        if change[0] < _USER:  # the user of the chunk before goes on
            segments, new = np.append(0, segments), np.append(False, new)
        label = (key & _LABEL).view(np.int64)
        positive = np.add.reduceat(label, segments)
        label *= within[: len(key)]
        starts.append(segments + begin)
        begins.append(new)
        positives.append(positive)
        places.append(np.add.reduceat(label, segments) + positive * begin)
        mixed.append(np.flatnonzero(change == _LABEL) + begin)
    first = np.flatnonzero(np.concatenate(begins))  # the segments that begin a user
    return (
        np.concatenate(starts)[first],
        np.add.reduceat(np.concatenate(positives), first),
        np.add.reduceat(np.concatenate(places), first),
        np.concatenate(mixed),
    )


def _ordered(scores: NDArray[Any]) -> NDArray[np.uint32]:
    """Integers in the order of the scores, which float32 must hold exactly.

    The bits of a positive float rise with it; those of a negative one fall, so all of them are flipped.
    """
    floats = scores.astype(np.float32)
    floats += np.float32(0)  # -0.0 becomes 0.0
    bits = floats.view(np.uint32)
    flip = (floats.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31)
    return bits ^ flip


def _fits_float32(scores: NDArray[Any]) -> bool:
    if scores.dtype.kind in "iu":
        return len(scores) == 0 or max(-int(scores.min()), int(scores.max())) <= 2**24
    if scores.dtype.itemsize <= 4:
        return True
    with np.errstate(over="ignore"):
        return all(
            np.array_equal(scores[begin : begin + _CHUNK], scores[begin : begin + _CHUNK].astype(np.float32))
            for begin in range(0, len(scores), _CHUNK)
        )


def _ranks(values: NDArray[Any]) -> NDArray[np.uint32]:
    """The place of each value among the different values (R,)."""
    return np.unique(values, return_inverse=True)[1].astype(np.uint32)


def _check(users: NDArray[Any] | None, labels: NDArray[Any], scores: NDArray[Any]) -> None:
    if labels.ndim != 1 or scores.shape != labels.shape:
        raise RectoolError(f"labels and scores must be two lists of one length, not {labels.shape} and {scores.shape}")
    if users is not None and users.shape != labels.shape:
        raise RectoolError(f"users must be as many as labels, not {users.shape} for {labels.shape}")
    if users is not None and len(users) and users.dtype.kind not in "iu":
        raise RectoolError(f"users must be integers, not {users.dtype}")
    for name, values in (("labels", labels), ("scores", scores)):
        if values.dtype.kind not in "biuf":
            raise RectoolError(f"{name} must be numbers, not {values.dtype}")
    if scores.dtype.kind == "f":
        nan = np.isnan(scores)
        if nan.any():
            raise RectoolError(f"the score of row {nan.argmax()} (the first is row 0) is NaN")
    known = (labels == 0) | (labels == 1)
    if not np.all(known):
        row = int(np.argmin(known))
        raise RectoolError(f"the label of row {row} (the first is row 0) is {labels[row]}, not 0 or 1")
