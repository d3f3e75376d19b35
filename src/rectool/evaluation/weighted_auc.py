"""AUC of all rows under many weightings of the users: what a bootstrap over users asks for.

Shapes: R rows, U users, D draws, B blocks of M neighbouring rows in the order of scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectool.evaluation.auc import check

_BLOCKS = 512
_DRAWS = 32  # at a time: the running sums (B, D) of so many stay in the cache


class WeightedAUC:
    """AUC of all rows, each weighing as much as its user: a function of the weights.

        AUC(w) = sum over positives p and negatives n of w_p w_n ([s_p > s_n] + [s_p = s_n] / 2)
                 / (sum over p of w_p * sum over n of w_n)

    With the users' counts in a resample as weights it is the AUC of the resampled rows. The rows are
    sorted once; a draw is one walk over them, all draws side by side. It holds 8 bytes per row (16 where
    scores of both classes tie), and 8 bytes per user for each of the 32 draws of a walk.

    Args:
        owner: (R,) the users, numbered 0 to U - 1.
        users: U.
        labels: (R,) of 0 and 1.
        scores: (R,) real numbers, infinities allowed.

    Raises:
        RectoolError: a score is NaN, a label neither 0 nor 1, or lengths differ.
    """

    def __init__(self, owner: NDArray[Any], users: int, labels: NDArray[Any], scores: NDArray[Any]) -> None:
        owner, labels, scores = np.asarray(owner), np.asarray(labels), np.asarray(scores)
        check(owner, labels, scores)
        self.users = users
        self._positives = np.bincount(owner[labels == 1], minlength=users).astype(np.float64)  # (U,)
        self._negatives = np.bincount(owner[labels == 0], minlength=users).astype(np.float64)  # (U,)
        order = np.lexsort((labels, scores))
        ranked, classes = scores[order], labels[order]
        # Of equal scores the negatives come first, so that tied pairs are won; in the second order, lost.
        orders = [order]
        if np.any((ranked[1:] == ranked[:-1]) & (classes[1:] != classes[:-1])):
            orders.append(np.lexsort((1 - labels.astype(np.int8), scores)))
        self._walks = [self._walk(owner[order], labels[order] == 1) for order in orders]

    def __call__(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """AUC for each draw (D,), NaN where one class has no weight.

        Args:
            weights: (D, U) of the users, not negative. Sums are exact for counts, up to 2**52 pairs.
        """
        found = np.full(len(weights), np.nan)
        for begin in range(0, len(weights), _DRAWS):
            part = weights[begin : begin + _DRAWS]
            table = np.zeros((self.users + 1, len(part)))  # the last row is of nobody
            table[:-1] = part.T
            won = sum(self._won(table, negative, positive) for negative, positive in self._walks)
            pairs = (self._positives @ table[:-1]) * (self._negatives @ table[:-1])
            np.divide(won, pairs * len(self._walks), out=found[begin : begin + _DRAWS], where=pairs > 0)
        return found

    def _walk(self, owner: NDArray[Any], positive: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The users of negatives and of positives in order, nobody for the other class (M, B) each."""
        blocks = min(_BLOCKS, max(1, len(owner)))
        length = -(-len(owner) // blocks)
        walks = []
        for mine in (~positive, positive):
            users = np.full(blocks * length, self.users, dtype=np.int32)
            users[: len(owner)][mine] = owner[mine]
            walks.append(np.ascontiguousarray(users.reshape(blocks, length).T))
        return walks[0], walks[1]

    def _won(
        self, table: NDArray[np.float64], negative: NDArray[np.int32], positive: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """The weight of pairs whose negative stands before its positive (D,); all blocks walk in step."""
        shape = (negative.shape[1], table.shape[1])
        behind, passed, won = np.zeros(shape), np.zeros(shape), np.zeros(shape)  # (B, D)
        weight = np.empty(shape)
        for step in range(len(negative)):
            behind += np.take(table, negative[step], axis=0, out=weight, mode="clip")
            passed += np.take(table, positive[step], axis=0, out=weight, mode="clip")
            weight *= behind
            won += weight
        earlier = np.cumsum(behind, axis=0) - behind  # negatives of the blocks before
        won += passed * earlier
        return np.asarray(won.sum(axis=0))
